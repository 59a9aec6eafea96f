//! Scoring: `/v1/score`, vLLM's `/classify` and `/pooling`, and OpenRLHF's `/get_reward`. All answer raw logits of the
//! reward model, never a sigmoid of them, which would tie good answers at 1. Leaves scoring to the engine.

use rectify_engine::request::{Message, ScoreInput};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::chat::ChatRequest;
use super::messages::ChatMessage;
use super::{OneOrMany, Usage};
use crate::error::ApiError;

/// Most texts in one request.
pub const MAX_TEXTS: usize = 1024;

/// Answers to score. Fields not listed here are ignored and named in the header `x-rectify-ignored`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct ScoreRequest {
    /// The reward model; the server's default one if unset.
    #[serde(default)]
    pub model: Option<String>,
    /// The conversation the candidates answer.
    pub messages: Vec<ChatMessage>,
    /// The answers.
    pub candidates: Vec<String>,
}

/// The rewards of answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScoreResponse {
    /// `score-…`.
    pub id: String,
    /// `list`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The reward model.
    pub model: String,
    /// One entry for each candidate, in their order (vLLM's shape).
    pub data: Vec<ScoreEntry>,
    /// The same rewards as a plain list.
    pub rewards: Vec<f32>,
    /// Tokens read.
    pub usage: Usage,
}

/// The reward of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScoreEntry {
    /// Which candidate.
    pub index: usize,
    /// `score`.
    pub object: ScoreObject,
    /// The raw reward.
    pub score: f32,
}

/// The word vLLM puts beside a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScoreObject {
    /// `score`.
    Score,
}

impl ScoreRequest {
    /// What the engine is to score.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn input(self) -> Result<ScoreInput, ApiError> {
        check_count("candidates", self.candidates.len())?;
        let conversation = ChatRequest { messages: self.messages, ..ChatRequest::default() };
        let messages: std::sync::Arc<[Message]> = conversation.conversation()?;
        Ok(ScoreInput::Candidates { messages, candidates: self.candidates })
    }
}

/// Texts to classify or pool, as vLLM's `/classify` and `/pooling` take them; already templated.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct ClassifyRequest {
    /// The reward model; the server's default one if unset.
    #[serde(default)]
    pub model: Option<String>,
    /// A text or several.
    pub input: OneOrMany,
}

/// The rewards of texts in vLLM's shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassifyResponse {
    /// `classify-…`.
    pub id: String,
    /// `list`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The reward model.
    pub model: String,
    /// One entry for each text, in their order.
    pub data: Vec<ClassifyEntry>,
    /// Tokens read.
    pub usage: Usage,
}

/// The reward of one text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassifyEntry {
    /// Which text.
    pub index: usize,
    /// `LABEL_0`: a reward model has one label.
    pub label: String,
    /// Its raw logit, as vLLM answers without an activation.
    pub probs: Vec<f32>,
    /// 1.
    pub num_classes: usize,
}

/// The rewards of texts in the shape of vLLM's `/pooling`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolingResponse {
    /// `pool-…`.
    pub id: String,
    /// `list`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The reward model.
    pub model: String,
    /// One entry for each text, in their order.
    pub data: Vec<PoolingEntry>,
    /// Tokens read.
    pub usage: Usage,
}

/// The output of the score head for one text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolingEntry {
    /// Which text.
    pub index: usize,
    /// `pooling`.
    pub object: String,
    /// The raw logit.
    pub data: Vec<f32>,
}

/// Texts to score, as OpenRLHF's remote reward model takes them; already templated.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct GetRewardRequest {
    /// Prompt and answer in one text, each.
    pub query: Vec<String>,
    /// Sent by OpenRLHF beside the queries; not needed here.
    #[serde(default)]
    pub prompts: Option<Vec<String>>,
    /// Sent by OpenRLHF beside the queries; not needed here.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub labels: Option<Vec<Value>>,
    /// The reward model; the server's default one if unset.
    #[serde(default)]
    pub model: Option<String>,
}

/// The rewards of texts in OpenRLHF's shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GetRewardResponse {
    /// What the advantage is computed from.
    pub rewards: Vec<f32>,
    /// What dynamic filtering looks at: the same.
    pub scores: Vec<f32>,
    /// Nothing besides.
    #[schema(value_type = Object)]
    pub extra_logs: Map<String, Value>,
}

/// Checks the number of texts in the field `param`.
///
/// # Errors
/// 400.
pub fn check_count(param: &'static str, count: usize) -> Result<(), ApiError> {
    if (1..=MAX_TEXTS).contains(&count) {
        return Ok(());
    }
    Err(ApiError::invalid(
        param,
        format!("{param} holds {count} texts, but must hold between 1 and {MAX_TEXTS}"),
    ))
}
