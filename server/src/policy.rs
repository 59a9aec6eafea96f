//! One policy as handlers see it: its names, its side of the engine, its text, its limits, and which policy an adapter's name
//! belongs to. Leaves what a request's `model` means to `app`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rectify_engine::{EngineError, EngineHandle, Grammar, SamplingParams};

use crate::api::structured::Form;
use crate::config::Generation;
use crate::error::ApiError;
use crate::serving::ServingPointer;
use crate::text::TextModel;

/// Texts longer than this many bytes are tokenised off the threads that serve connections.
const LONG_TEXT: usize = 16 << 10;

/// A policy.
pub struct Policy {
    /// Its names; the first is the main one.
    pub names: Vec<String>,
    /// The engine, as far as it is this policy's.
    pub engine: EngineHandle,
    /// The versions that requests for its name run under.
    pub serving: ServingPointer,
    /// Its tokenizer and chat template.
    pub text: Arc<dyn TextModel>,
    /// Its longest sequence, in tokens.
    pub max_model_len: usize,
    /// Tokens that its KV cache holds.
    pub kv_tokens: usize,
    /// Sampling when the request does not say.
    pub generation: Generation,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Policy {
    /// Its main name.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// Whether `name` is one of its own.
    pub fn is_named(&self, name: &str) -> bool {
        self.names.iter().any(|own| own == name)
    }

    /// Checks the tokens that sampling settings name, in `logit_bias` and `stop_token_ids`.
    ///
    /// # Errors
    /// As [`Policy::check_tokens`].
    pub fn check_sampling_tokens(&self, sampling: &SamplingParams) -> Result<(), ApiError> {
        self.check_tokens("logit_bias", sampling.logit_bias.iter().map(|&(token, _)| token))?;
        self.check_tokens("stop_token_ids", sampling.stop_token_ids.iter().copied())
    }

    /// Checks that the tokens of a request are in the vocabulary.
    ///
    /// # Errors
    /// 400 naming `param` and the first token that is not.
    pub fn check_tokens(
        &self,
        param: &'static str,
        tokens: impl IntoIterator<Item = u32>,
    ) -> Result<(), ApiError> {
        let vocab_size = self.text.vocab_size();
        match tokens.into_iter().find(|&token| token as usize >= vocab_size) {
            None => Ok(()),
            Some(token) => {
                let message = format!(
                    "{param} holds the token {token}, but token ids of this model are below {vocab_size}"
                );
                Err(ApiError::invalid(param, message))
            }
        }
    }

    /// Checks that prompt and answer fit the context.
    ///
    /// # Errors
    /// 400 if they do not.
    pub fn check_fit(&self, prompt_len: usize, max_tokens: usize) -> Result<(), ApiError> {
        let max_model_len = self.max_model_len;
        if prompt_len.saturating_add(max_tokens) <= max_model_len {
            return Ok(());
        }
        Err(EngineError::ContextLength { prompt_len, max_tokens, max_model_len }.into())
    }

    /// Room for an answer behind a prompt of `prompt_len` tokens.
    ///
    /// # Errors
    /// 400 if there is none.
    pub fn room(&self, prompt_len: usize) -> Result<usize, ApiError> {
        let max_model_len = self.max_model_len;
        match max_model_len.checked_sub(prompt_len) {
            Some(room) if room > 0 => Ok(room),
            _ => Err(EngineError::ContextLength { prompt_len, max_tokens: 1, max_model_len }.into()),
        }
    }

    /// Runs the tokenizer on `size` bytes of text, elsewhere if that may take long.
    ///
    /// # Errors
    /// What `encode` says.
    pub async fn tokenize<T: Send + 'static>(
        &self,
        size: usize,
        encode: impl FnOnce(&dyn TextModel) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        if size <= LONG_TEXT {
            return encode(&*self.text);
        }
        let text = Arc::clone(&self.text);
        tokio::task::spawn_blocking(move || encode(&*text))
            .await
            .map_err(|_| EngineError::Execution("the tokenizer panicked".into()))?
    }

    /// The grammar of a request's form, compiled on another thread.
    ///
    /// # Errors
    /// 400 naming the field and what is wrong with it.
    pub async fn grammar(&self, form: Option<Form>) -> Result<Option<Arc<Grammar>>, ApiError> {
        let Some(Form { param, spec }) = form else { return Ok(None) };
        let text = Arc::clone(&self.text);
        let compiled = tokio::task::spawn_blocking(move || text.grammar(&spec)).await;
        match compiled.map_err(|_| EngineError::Execution("the compiler of grammars panicked".into()))? {
            Ok(grammar) => Ok(Some(grammar)),
            Err(cause) => Err(ApiError::invalid(param, format!("{param} cannot be followed: {cause}"))),
        }
    }
}

/// Which policy a loaded adapter belongs to. The engine has the adapters; requests must know before they reach it whose
/// tokenizer to use.
#[derive(Debug, Default)]
pub struct AdapterOwners {
    by_name: ArcSwap<BTreeMap<String, Arc<Policy>>>,
    /// Held while adapters come or go, so that no name comes twice.
    pub changing: tokio::sync::Mutex<()>,
}

impl AdapterOwners {
    /// The policy of the adapter `name`.
    pub fn of(&self, name: &str) -> Option<Arc<Policy>> {
        self.by_name.load().get(name).cloned()
    }

    /// The names of all adapters.
    pub fn names(&self) -> Vec<String> {
        self.by_name.load().keys().cloned().collect()
    }

    /// An adapter of `policy` is loaded.
    pub fn insert(&self, name: &str, policy: &Arc<Policy>) {
        self.by_name.rcu(|owners| {
            let mut owners = BTreeMap::clone(owners);
            owners.insert(name.to_owned(), Arc::clone(policy));
            owners
        });
    }

    /// It is forgotten.
    pub fn remove(&self, name: &str) {
        self.by_name.rcu(|owners| {
            let mut owners = BTreeMap::clone(owners);
            owners.remove(name);
            owners
        });
    }
}
