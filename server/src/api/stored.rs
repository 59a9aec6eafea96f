//! Answers on record, as they are shown. Leaves votes to `feedback`.

use rectify_feedback::store::{CandidateRecord, CompletionRecord};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A stored answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoredCompletion {
    /// `completion.record`.
    pub object: String,
    /// The `id` of the answer.
    pub id: String,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// The model the request named.
    pub model: String,
    /// The version that answered.
    pub policy_version: String,
    /// During a probation: `canary` or `active`.
    pub arm: Option<String>,
    /// Who asked.
    pub user: Option<String>,
    /// The conversation; empty if no words are kept.
    pub messages: Vec<StoredMessage>,
    /// Sampling settings.
    #[schema(value_type = Object)]
    pub sampling: Value,
    /// The request's own labels.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// What scored the candidates.
    pub reward_model: Option<String>,
    /// How one was chosen.
    pub strategy: Option<String>,
    /// All candidates.
    pub candidates: Vec<StoredCandidate>,
}

/// A turn of a stored conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoredMessage {
    /// Who speaks.
    pub role: String,
    /// The words.
    pub content: String,
}

/// A candidate of a stored answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoredCandidate {
    /// Its number among the candidates.
    pub index: u32,
    /// Which returned choice it is; null if it lost.
    pub choice: Option<u32>,
    /// Its words.
    pub text: String,
    /// Its length.
    pub tokens: u32,
    /// `stop` or `length`; null if it was stopped early.
    pub finish_reason: Option<String>,
    /// Raw reward.
    pub reward: Option<f64>,
    /// Sum of its tokens' logprobs.
    pub logprob: Option<f64>,
}

impl From<CandidateRecord> for StoredCandidate {
    fn from(record: CandidateRecord) -> Self {
        let CandidateRecord { index, choice, text, tokens, finish_reason, reward, logprob } = record;
        Self { index, choice, text, tokens, finish_reason, reward, logprob }
    }
}

pub(super) fn stored_messages(messages: Vec<rectify_feedback::Message>) -> Vec<StoredMessage> {
    messages.into_iter().map(|turn| StoredMessage { role: turn.role, content: turn.content }).collect()
}

impl From<CompletionRecord> for StoredCompletion {
    fn from(record: CompletionRecord) -> Self {
        // What a gold question's answer is, nobody outside may know.
        Self {
            object: "completion.record".into(),
            id: record.id,
            created_at: record.created_at,
            model: record.model,
            policy_version: record.policy_version,
            arm: record.arm,
            user: record.user,
            messages: stored_messages(record.messages),
            sampling: record.sampling,
            metadata: record.metadata,
            reward_model: record.reward_model,
            strategy: record.strategy,
            candidates: record.candidates.into_iter().map(Into::into).collect(),
        }
    }
}
