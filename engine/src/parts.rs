//! What the engine is built from, and the borders to what it does not know: tokenizers, reward templates, adapter
//! files. Leaves the loop to `engine`.

use std::path::Path;
use std::sync::Arc;

use crate::EngineError;
use rectify_kernels::Pool;

use crate::batch::Executor;
use crate::model::adapter::Adapter;
use crate::model::reading::Steps;
use crate::request::Message;

/// Everything the engine's thread owns. Built on that thread, so executors need not be `Send`.
pub struct EngineParts {
    /// Policies; the first is the default.
    pub policies: Vec<PolicyParts>,
    /// Threads for sampling, shared with the executors.
    pub pool: Arc<Pool>,
    /// Reward models, for all policies; the first is the default.
    pub rewards: Vec<RewardParts>,
}

/// A policy.
pub struct PolicyParts {
    /// Its name; its answers carry `<name>@base` or `<adapter>@<hash>` as policy version.
    pub name: Arc<str>,
    /// Its weights and its KV blocks.
    pub executor: Box<dyn Executor>,
    /// Text of its tokens.
    pub token_bytes: Arc<dyn TokenBytes>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Adapters loaded from the start.
    pub adapters: Vec<Arc<Adapter>>,
    /// Reads adapters named by requests.
    pub adapter_loader: Arc<dyn AdapterLoader>,
}

impl std::fmt::Debug for EngineParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let policies: Vec<&str> = self.policies.iter().map(|policy| &*policy.name).collect();
        let rewards: Vec<&str> = self.rewards.iter().map(|reward| &*reward.name).collect();
        f.debug_struct("EngineParts")
            .field("policies", &policies)
            .field("rewards", &rewards)
            .finish_non_exhaustive()
    }
}

/// A reward model.
pub struct RewardParts {
    /// The name requests use.
    pub name: Arc<str>,
    /// Its template and tokenizer.
    pub spec: Arc<dyn RewardSpec>,
    /// Its weights.
    pub weights: RewardWeights,
}

/// Where a reward model's weights are.
pub enum RewardWeights {
    /// A model of its own, with its own KV blocks and a score head.
    Own(Box<dyn Executor>),
    /// An adapter with a score head on a policy's base: rows of that policy's own batch.
    Adapter {
        /// The policy, by its place.
        policy: usize,
        /// The adapter.
        adapter: Arc<Adapter>,
    },
}

/// The bytes each token stands for; what incremental detokenisation needs of a tokenizer.
pub trait TokenBytes: Send + Sync {
    /// Bytes of `token`, possibly a part of a UTF-8 character; empty for special tokens and unknown ids.
    fn token_bytes(&self, token: u32) -> &[u8];

    /// The name of a special token, empty for others: part of the text where `skip_special_tokens` is off.
    fn special_bytes(&self, _token: u32) -> &[u8] {
        &[]
    }
}

/// A vocabulary whose special tokens are text, too.
pub(crate) struct WithSpecial<'a>(pub(crate) &'a dyn TokenBytes);

impl TokenBytes for WithSpecial<'_> {
    fn token_bytes(&self, token: u32) -> &[u8] {
        let bytes = self.0.token_bytes(token);
        if bytes.is_empty() { self.0.special_bytes(token) } else { bytes }
    }
}

/// A reward model's own template and tokenizer. Token ids come with special tokens, no beginning-of-text doubled; the
/// score is read at the last one, or where [`RewardSpec::steps`] says.
pub trait RewardSpec: Send + Sync {
    /// The conversation without an answer: a prefix that candidates' sequences share, as far as the template allows.
    ///
    /// # Errors
    /// [`EngineError`] if the template refuses the conversation.
    fn prompt_tokens(&self, messages: &[Message]) -> Result<Vec<u32>, EngineError>;

    /// The conversation with `answer` as the last, complete assistant turn.
    ///
    /// # Errors
    /// As [`RewardSpec::prompt_tokens`].
    fn candidate_tokens(&self, messages: &[Message], answer: &str) -> Result<Vec<u32>, EngineError>;

    /// A whole text that is already templated.
    ///
    /// # Errors
    /// If the tokenizer fails.
    fn text_tokens(&self, text: &str) -> Result<Vec<u32>, EngineError>;

    /// Whether it compares two answers instead of scoring one: it reads [`RewardSpec::pair_tokens`] alone, and its score
    /// is how much better the first answer is than the second.
    fn compares(&self) -> bool {
        false
    }

    /// The conversation with two answers.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if it scores single answers, or the tokenizer fails.
    fn pair_tokens(&self, _messages: &[Message], _answers: [&str; 2]) -> Result<Vec<u32>, EngineError> {
        Err(EngineError::invalid("reward", "the reward model scores single answers, and compares none"))
    }

    /// Where the reward of a text of these tokens is read; `None` is at the last one.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if the text holds no such place.
    fn steps(&self, _tokens: &[u32]) -> Result<Option<Steps>, EngineError> {
        Ok(None)
    }
}

/// Reads an adapter from a PEFT folder and checks that it fits the policy, on the caller's thread: never on the engine's,
/// which has steps to run. Any `Fn(&str, &Path) -> Result<Adapter, EngineError> + Send + Sync` is one.
pub trait AdapterLoader: Send + Sync {
    /// Loads the folder `path` under `name`.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the file and what would be right.
    fn load(&self, name: &str, path: &Path) -> Result<Adapter, EngineError>;
}

impl<F> AdapterLoader for F
where
    F: Fn(&str, &Path) -> Result<Adapter, EngineError> + Send + Sync,
{
    fn load(&self, name: &str, path: &Path) -> Result<Adapter, EngineError> {
        self(name, path)
    }
}
