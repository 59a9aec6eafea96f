//! OpenAI's wire format and ours: one file per endpoint family, request and response types, and the one place where
//! a request from outside becomes a valid request to the engine. Leaves HTTP to `routes`.

pub mod adapters;
pub mod alignment;
pub mod chat;
pub mod completions;
pub mod feedback;
pub mod labeling;
pub mod logprobs;
pub mod messages;
pub mod models;
pub mod responses;
pub mod sampling;
pub mod score;
pub mod stored;
pub mod structured;
pub mod tokenize;
pub mod tools;
pub mod training;

use rectify_engine::request::Usage as EngineUsage;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One string, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// As a list.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// What a stream carries besides the text.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
pub struct StreamOptions {
    /// Send a last chunk with the usage of the whole request.
    #[serde(default)]
    pub include_usage: Option<bool>,
}

/// Tokens spent on a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of all candidates, returned or not.
    pub completion_tokens: usize,
    /// Their sum.
    pub total_tokens: usize,
    /// Of the prompt's.
    pub prompt_tokens_details: PromptTokensDetails,
    /// Of the candidates'.
    pub completion_tokens_details: CompletionTokensDetails,
}

/// Of the prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Those found in the prefix cache.
    pub cached_tokens: usize,
}

/// Of the candidates' tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CompletionTokensDetails {
    /// Those of candidates that were not returned.
    pub rejected_prediction_tokens: usize,
}

impl From<EngineUsage> for Usage {
    fn from(usage: EngineUsage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.cached_tokens },
            completion_tokens_details: CompletionTokensDetails {
                rejected_prediction_tokens: usage.rejected_tokens,
            },
        }
    }
}

/// Seconds since 1970, as OpenAI's `created`.
pub(crate) fn unix_time() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// A fresh id with OpenAI's prefix, as `chatcmpl-…`.
pub(crate) fn new_id(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::new_v4().simple())
}
