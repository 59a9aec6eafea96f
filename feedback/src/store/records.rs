//! What the store holds of answers and of what people say of them. Leaves how it is kept to the files of the tables.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::FeedbackKind;
use crate::Message;

/// Milliseconds since 1970 (UTC), the store's measure of time.
pub type Millis = i64;

/// The time now.
pub fn now() -> Millis {
    chrono::Utc::now().timestamp_millis()
}

/// A prompt that was answered, with every candidate of its answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CompletionRecord {
    /// The id the client knows. The second prompt of a request and later ones add `#1`, `#2` and so on.
    pub id: String,
    /// When the answer was complete.
    pub created_at: Millis,
    /// The model the request named.
    pub model: String,
    /// The version that answered, as `demo@3` or `demo@base`.
    pub policy_version: String,
    /// The policy that answered, if the server has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// During a probation: `canary` or `active`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
    /// Who asked, if the request said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The conversation that was answered; empty if no text is stored.
    pub messages: Vec<Message>,
    /// Sampling settings of the request.
    #[serde(default)]
    pub sampling: Value,
    /// What the client said of the request.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// What scored the candidates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<String>,
    /// How one of them was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// All candidates, by index.
    pub candidates: Vec<CandidateRecord>,
    /// For a gold question: what a careful person says. Never sent to clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold: Option<FeedbackKind>,
}

/// One candidate of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CandidateRecord {
    /// Its number among the candidates.
    pub index: u32,
    /// Which returned choice it is; none if it lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<u32>,
    /// Its text; empty if no text is stored.
    pub text: String,
    /// Its length.
    pub tokens: u32,
    /// `stop` or `length`; none if it was stopped early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    /// Raw reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f64>,
    /// Sum of its tokens' logprobs when it was sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprob: Option<f64>,
}

impl CompletionRecord {
    /// Whether `policy` may have given it: no other is known to have.
    pub fn is_of(&self, policy: &str) -> bool {
        self.policy.as_deref().is_none_or(|own| own == policy)
    }

    /// The candidate of this index.
    pub fn candidate(&self, index: u32) -> Option<&CandidateRecord> {
        self.candidates.iter().find(|candidate| candidate.index == index)
    }

    /// The candidate that was returned as this choice.
    pub fn choice(&self, choice: u32) -> Option<&CandidateRecord> {
        self.candidates.iter().find(|candidate| candidate.choice == Some(choice))
    }

    /// Takes every word of the conversation and the answers out, and leaves the numbers.
    pub fn strip_text(&mut self) {
        self.messages.clear();
        self.metadata.clear();
        self.candidates.iter_mut().for_each(|candidate| candidate.text.clear());
    }

    /// Bytes of memory this record holds, roughly.
    pub fn size(&self) -> usize {
        let message = |message: &Message| message.content.len() + 64;
        let candidate = |candidate: &CandidateRecord| candidate.text.len() + 128;
        512 + self.messages.iter().map(message).sum::<usize>()
            + self.candidates.iter().map(candidate).sum::<usize>()
    }
}

/// What a person said of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeedbackRecord {
    /// Its own id.
    pub id: String,
    /// When it was given.
    pub created_at: Millis,
    /// Of which answer.
    pub completion_id: String,
    /// Of which of its choices. A comparison names its candidates itself.
    #[serde(default)]
    pub choice: u32,
    /// What was said. Comparisons hold candidates' indices, not choices.
    #[serde(flatten)]
    pub kind: FeedbackKind,
    /// Who said it: the person named in the vote, else the one who had asked.
    #[serde(default)]
    pub user: Option<String>,
    /// In words.
    #[serde(default)]
    pub comment: Option<String>,
    /// What the client says besides.
    #[serde(default)]
    pub tags: Map<String, Value>,
    /// The version that had answered.
    pub policy_version: String,
    /// The vote that this one changes.
    #[serde(default)]
    pub replaces: Option<String>,
    /// Changed by a later vote.
    #[serde(default)]
    pub superseded: bool,
    /// Why it is not to be learnt from.
    #[serde(default)]
    pub quarantined: Option<String>,
}

/// A vote beside the answer it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Vote {
    /// What was said.
    pub feedback: FeedbackRecord,
    /// Of what.
    pub completion: Arc<CompletionRecord>,
}

impl Vote {
    /// The candidate that a vote on one answer is about.
    pub fn answer(&self) -> Option<&CandidateRecord> {
        self.completion.choice(self.feedback.choice)
    }

    /// The candidates of a comparison: the better one (of a tie, the first named) and the other.
    pub fn pair(&self) -> Option<(&CandidateRecord, &CandidateRecord)> {
        let FeedbackKind::Comparison { better, worse, .. } = self.feedback.kind else { return None };
        Some((self.completion.candidate(better)?, self.completion.candidate(worse)?))
    }
}

/// Which votes are wanted. The default: all that are in force, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VoteFilter {
    /// Of this person.
    pub user: Option<String>,
    /// Of this answer.
    pub completion_id: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
    /// On answers of this version.
    pub policy_version: Option<String>,
    /// On answers of this policy, or of a server that had no other.
    pub policy: Option<String>,
    /// Given at this time or later.
    pub since: Option<Millis>,
    /// Given before this time.
    pub until: Option<Millis>,
    /// Also those that were changed later.
    pub superseded: bool,
    /// Leave out those in quarantine.
    pub trusted: bool,
    /// Newest first.
    pub newest_first: bool,
    /// Only what comes behind this place in the order: a record's time and id.
    pub after: Option<(Millis, String)>,
    /// At most so many.
    pub limit: Option<u32>,
}

/// How many were deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Votes.
    pub votes: u64,
    /// Completions: removed by retention, without their text and person after a deletion by person.
    pub completions: u64,
}
