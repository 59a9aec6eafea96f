//! What comes into the engine and what goes out: requests and the events that answer them. Leaves the wire format
//! to `server` and the work to the scheduler.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::alignment::Alignment;
use crate::model::adapter::Adapter;
use crate::{EngineError, SamplingParams};

/// Most candidates of one request.
pub const MAX_CANDIDATES: usize = 1024;

/// One turn of a conversation, as chat templates see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// Generation of one or more candidates for one prompt.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// The prompt as token ids, template and special tokens applied; at least one.
    pub prompt: Vec<u32>,
    /// The conversation behind the prompt: what reward models score. A bare prompt is one `user` turn.
    pub messages: Arc<[Message]>,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// Candidates returned as choices (OpenAI's `n`).
    pub num_choices: usize,
    /// Best-of-N; `None` returns every candidate as it is.
    pub alignment: Option<Alignment>,
    /// The adapter to run under; `None` is the bare policy.
    pub adapter: Option<AdapterRef>,
    /// Lower runs first; 0 is ordinary.
    pub priority: i32,
}

/// The adapter a request runs under.
#[derive(Clone, Debug)]
pub enum AdapterRef {
    /// A loaded one; the version that the name leads to when the request is admitted.
    Named(String),
    /// One that the request brings along and nobody else can name: a trainer's latest weights, packed from memory for
    /// this engine's policy. It leaves memory with its last sequence. Its version must be its own, like a loaded one's.
    Private(Arc<Adapter>),
}

impl From<String> for AdapterRef {
    fn from(name: String) -> Self {
        Self::Named(name)
    }
}

impl From<&str> for AdapterRef {
    fn from(name: &str) -> Self {
        Self::Named(name.to_owned())
    }
}

/// Scoring of texts by a reward model.
#[derive(Clone, Debug)]
pub struct ScoreRequest {
    /// The reward model, by name; `None` is the default one.
    pub reward: Option<String>,
    /// The texts.
    pub input: ScoreInput,
    /// Lower runs first.
    pub priority: i32,
}

/// What is scored.
#[derive(Clone, Debug)]
pub enum ScoreInput {
    /// Answers to one conversation: the reward model's own chat template is applied.
    Candidates {
        /// The conversation so far.
        messages: Arc<[Message]>,
        /// The answers.
        candidates: Vec<String>,
    },
    /// Whole texts, already templated (`/classify`, OpenRLHF's `/get_reward`).
    Texts(Vec<String>),
}

/// Why a candidate ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-text token, a stop token or a stop string.
    Stop,
    /// `max_tokens`, `max_total_tokens` or the context is used up.
    Length,
    /// The client left, or the server is stopping.
    Abort,
}

impl FinishReason {
    /// OpenAI's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
        }
    }
}

/// The logprob of a token among the most likely ones, natural log of the raw distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// `ln p(token)` before temperature, penalties and filters.
    pub logprob: f32,
}

/// A token's own logprob and the most likely alternatives, most likely first.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// The token itself.
    pub own: TokenLogprob,
    /// `top_logprobs`, as many as asked for.
    pub top: Vec<TokenLogprob>,
}

/// What the engine says about a request. Every request ends with exactly one `Done` or `Failed`.
#[derive(Clone, Debug)]
pub enum Event {
    /// The prompt is computed. Sent once, before any token.
    Prefilled {
        /// Prompt tokens found in the prefix cache.
        cached_tokens: usize,
        /// Logprobs of the prompt's tokens from the second on, if asked for.
        prompt_logprobs: Option<Vec<Logprobs>>,
        /// The policy version that serves this request: `name@version`.
        policy_version: Arc<str>,
    },
    /// One generated token of a candidate.
    Token {
        /// The candidate.
        index: usize,
        /// The token.
        token: u32,
        /// Text that became certain with this token; may be empty inside a character or a possible stop string.
        text: String,
        /// If `logprobs` was asked for.
        logprobs: Option<Logprobs>,
    },
    /// A candidate ended.
    Finished {
        /// The candidate.
        index: usize,
        /// Why.
        reason: FinishReason,
        /// Text held back for a possible stop string.
        text: String,
    },
    /// A candidate that ended got its reward.
    Scored {
        /// The candidate, or the index of the scored text.
        index: usize,
        /// The raw reward, or what several came to.
        reward: f32,
    },
    /// A candidate was stopped on the way: nothing more comes of it.
    Dropped {
        /// The candidate.
        index: usize,
    },
    /// The answer grows: what the candidate wrote since the last block belongs to it, and all others go on from there.
    Block {
        /// The candidate.
        index: usize,
        /// The text of the block.
        text: String,
    },
    /// The strategy has decided; only with `alignment`.
    Selected(Selection),
    /// All is done.
    Done(Usage),
    /// The request failed as a whole.
    Failed(EngineError),
}

/// The outcome of a strategy.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// The strategy's name.
    pub strategy: &'static str,
    /// Candidates it might have drawn; those of a block for [`crate::alignment::Method::Blockwise`].
    pub max_candidates: usize,
    /// Chosen candidates, best first; `num_choices` of them.
    pub selected: Vec<usize>,
    /// How scoring went.
    pub scoring: Scoring,
    /// Every candidate that was drawn, by index.
    pub candidates: Vec<Candidate>,
    /// The reward model that decided, or the combination of several: `min(helpful, safe)`.
    pub reward_model: Arc<str>,
    /// The reward models, in the order of [`Candidate::rewards`].
    pub judges: Vec<Arc<str>>,
    /// Tokens generated, those of blocks that were given up included.
    pub num_tokens: usize,
    /// Of those, tokens of candidates and blocks that were given up on the way.
    pub num_pruned_tokens: usize,
    /// Blocks that the answer was chosen in; 0 without [`crate::alignment::Method::Blockwise`].
    pub num_blocks: usize,
}

/// How scoring went.
#[derive(Clone, Debug, PartialEq)]
pub enum Scoring {
    /// Every candidate has a reward.
    Ok,
    /// Some have.
    Partial,
    /// None has; the first finished candidate was returned.
    Failed(String),
}

/// One candidate of a selection.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its whole text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// The reward it was judged by, if it was scored: of the whole text, or of what a candidate that was dropped had then.
    pub reward: Option<f32>,
    /// The raw reward by each reward model; none where it failed.
    pub rewards: Vec<Option<f32>>,
    /// Sum of the logprobs of its tokens, in nats.
    pub logprob: f64,
    /// Why it ended; `None` if it was dropped early.
    pub finish_reason: Option<FinishReason>,
}

/// Tokens spent on a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of those, found in the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated over all candidates.
    pub completion_tokens: usize,
    /// Of those, of candidates that were not returned.
    pub rejected_tokens: usize,
    /// Tokens a reward model read.
    pub scored_tokens: usize,
}
