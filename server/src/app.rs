//! What every handler shares: the engine, the names it answers to, defaults and limits. Leaves HTTP to `routes` and
//! loading to `boot`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use metrics_exporter_prometheus::PrometheusHandle;
use rectify_engine::{AdapterRef, EngineError, EngineHandle, Grammar, SamplingParams};

use crate::api::alignment::{AlignmentLimits, AlignmentRequest, CombinedReward};
use crate::api::structured::Form;
use crate::auth::ApiKeys;
use crate::config::Generation;
use crate::error::ApiError;
use crate::feedback::Feedback;
use crate::learning::Learning;
use crate::serving::{Served, ServingPointer};
use crate::text::TextModel;

/// The name every policy answers to besides its own.
pub const POLICY_ALIAS: &str = "policy";
/// Texts longer than this many bytes are tokenised off the threads that serve connections.
const LONG_TEXT: usize = 16 << 10;

/// What every handler shares.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// The parts of an [`App`].
pub struct Shared {
    /// The engine.
    pub engine: EngineHandle,
    /// The versions that requests for the policy's name run under.
    pub serving: ServingPointer,
    /// The learning loop, where there is a store.
    pub learning: Option<Learning>,
    /// The policy's tokenizer and chat template.
    pub text: Arc<dyn TextModel>,
    /// The policy's names; the first is the main one.
    pub policy_names: Vec<String>,
    /// The policy's longest sequence, in tokens.
    pub max_model_len: usize,
    /// The reward models' names.
    pub rewards: Vec<String>,
    /// The reward model of requests that name none.
    pub default_reward: Option<String>,
    /// The combination of reward models that decides instead, if one is configured.
    pub combined_reward: Option<CombinedReward>,
    /// Tokens that the policy's KV cache holds.
    pub kv_tokens: usize,
    /// Alignment profiles by name.
    pub profiles: BTreeMap<String, AlignmentRequest>,
    /// Sampling when the request does not say.
    pub generation: Generation,
    /// Most candidates of one prompt.
    pub max_candidates: usize,
    /// Largest request body in bytes.
    pub max_body: usize,
    /// Who may use the API.
    pub keys: ApiKeys,
    /// Where answers and votes are kept, if they are.
    pub feedback: Option<Feedback>,
    /// When the server started, in seconds since 1970.
    pub created: u64,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// Set once the server has been told to stop.
    pub draining: AtomicBool,
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// What a request's `model` means.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The name for the response.
    pub name: String,
    /// What the request runs under.
    pub served: Served,
    /// The profile named by the suffix.
    pub profile: Option<AlignmentRequest>,
}

impl App {
    /// Shares `parts` between handlers.
    pub fn new(parts: Shared) -> Self {
        Self(Arc::new(parts))
    }

    /// What `model` means to `person` (who asks, or the request's id): the policy as it is served now, one of its versions
    /// (`demo@3`, `demo@base`), an adapter, each with a profile as suffix. Whether an adapter of that name is loaded is
    /// known to the engine alone.
    ///
    /// # Errors
    /// 400 if it is a reward model, which does not generate; 404 for a version that is not in memory.
    pub fn resolve(&self, model: Option<&str>, person: &str) -> Result<Target, ApiError> {
        let policy = |name: &str| Target {
            name: name.to_owned(),
            served: self.serving.get().route(person),
            profile: None,
        };
        let Some(name) = model.filter(|name| !name.is_empty()) else {
            return Ok(policy(self.policy_name()));
        };
        if self.is_policy(name) {
            return Ok(policy(name));
        }
        if self.rewards.iter().any(|reward| reward == name) {
            let message = format!("`{name}` is a reward model: it scores at /v1/score and generates nothing");
            return Err(ApiError::invalid("model", message));
        }
        if let Some((base, suffix)) = name.rsplit_once(':')
            && let Some(profile) = self.profile(suffix)
        {
            let target = self.resolve(Some(base), person)?;
            return Ok(Target { name: name.to_owned(), profile: Some(profile), ..target });
        }
        let served = match name.rsplit_once('@') {
            Some((policy, version)) if self.is_policy(policy) => self.version(name, version)?,
            _ => Served { adapter: Some(AdapterRef::Named(name.to_owned())), arm: None },
        };
        Ok(Target { name: name.to_owned(), served, profile: None })
    }

    fn version(&self, name: &str, version: &str) -> Result<Served, ApiError> {
        let serving = self.serving.get();
        serving.version(version).ok_or_else(|| {
            let known =
                serving.versions().into_iter().map(|version| format!("{}@{version}", self.policy_name()));
            let known = crate::names(known.collect::<Vec<_>>());
            ApiError::model_not_found(format!("the version `{name}` is not in memory; these are: {known}"))
        })
    }

    /// Whether requests with this `model` would go to the policy or one of its profiles or versions.
    pub fn is_taken(&self, name: &str) -> Result<bool, ApiError> {
        Ok(!matches!(self.resolve(Some(name), "")?.served.adapter, Some(AdapterRef::Named(_))))
    }

    /// The policy's main name.
    pub fn policy_name(&self) -> &str {
        self.policy_names.first().map_or(POLICY_ALIAS, String::as_str)
    }

    fn is_policy(&self, name: &str) -> bool {
        name == POLICY_ALIAS || self.policy_names.iter().any(|policy| policy == name)
    }

    /// A configured profile, or the built-in `best-of-N`.
    pub fn profile(&self, name: &str) -> Option<AlignmentRequest> {
        if let Some(profile) = self.profiles.get(name) {
            return Some(profile.clone());
        }
        let n = name.strip_prefix("best-of-")?.parse().ok()?;
        Some(AlignmentRequest { n: Some(n), ..AlignmentRequest::default() })
    }

    /// The reward model a scoring request names, or the default one.
    ///
    /// # Errors
    /// 404 listing the reward models.
    pub fn reward_model(&self, model: Option<&str>) -> Result<String, ApiError> {
        let known = || crate::names(&self.rewards);
        match model.filter(|name| !name.is_empty()) {
            Some(name) if self.rewards.iter().any(|reward| reward == name) => Ok(name.to_owned()),
            Some(name) => Err(ApiError::model_not_found(format!(
                "the reward model `{name}` does not exist; available: {}",
                known()
            ))),
            None => self.default_reward.clone().ok_or_else(|| {
                ApiError::model_not_found(
                    "this server has no reward model; start it with `--reward NAME=DIR`",
                )
            }),
        }
    }

    /// What an `alignment` may ask for here.
    pub fn alignment_limits(&self) -> AlignmentLimits<'_> {
        AlignmentLimits {
            max_candidates: self.max_candidates,
            rewards: &self.rewards,
            default_reward: self.default_reward.as_deref(),
            combined_reward: self.combined_reward.as_ref(),
            kv_tokens: self.kv_tokens,
        }
    }

    /// Checks the tokens that sampling settings name, in `logit_bias` and `stop_token_ids`.
    ///
    /// # Errors
    /// As [`App::check_tokens`].
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

    /// Checks that `model` generates: for requests that never reach the engine, which alone knows the adapters.
    ///
    /// # Errors
    /// As [`App::resolve`], and 404 for an adapter that is not loaded.
    pub async fn check_model(&self, model: Option<&str>) -> Result<(), ApiError> {
        let target = self.resolve(model, "")?;
        let Some(AdapterRef::Named(name)) = &target.served.adapter else { return Ok(()) };
        let adapters = self.engine.adapters().await?;
        if adapters.iter().any(|adapter| *adapter.name == **name) {
            return Ok(());
        }
        let known = crate::names(adapters.iter().map(|adapter| &*adapter.name));
        let error = EngineError::NotFound {
            kind: "adapter",
            name: name.clone(),
            known: format!("available: {known}"),
        };
        Err(self.explain(error, &target))
    }

    /// Names the models there are when the engine does not know an adapter.
    pub fn explain(&self, error: EngineError, target: &Target) -> ApiError {
        match error {
            EngineError::NotFound { kind: "adapter", known, .. } => ApiError::model_not_found(format!(
                "the model `{}` does not exist; the policy is `{}`, adapters: {}",
                target.name,
                self.policy_name(),
                known.strip_prefix("available: ").unwrap_or("none")
            )),
            error => error.into(),
        }
    }

    /// The learning loop.
    ///
    /// # Errors
    /// 404 if this server has none.
    pub fn learning(&self) -> Result<&Learning, ApiError> {
        self.learning.as_ref().ok_or_else(|| {
            let message =
                "this server keeps no feedback, so it does not learn; see `store` in the configuration";
            ApiError::new(StatusCode::NOT_FOUND, message).code("no_store")
        })
    }

    /// Where answers and votes are kept.
    ///
    /// # Errors
    /// 404 if they are not.
    pub fn feedback(&self) -> Result<&Feedback, ApiError> {
        self.feedback.as_ref().ok_or_else(|| {
            let message = "this server keeps no answers and takes no votes (`store.url` is none)";
            ApiError::new(StatusCode::NOT_FOUND, message).code("no_store")
        })
    }

    /// Checks that `name` is the policy's.
    ///
    /// # Errors
    /// 404 naming the policy.
    pub fn check_policy(&self, name: &str) -> Result<(), ApiError> {
        if self.is_policy(name) {
            return Ok(());
        }
        let policy = self.policy_name();
        Err(ApiError::model_not_found(format!(
            "`{name}` is not the policy, whose versions these are; it is `{policy}`"
        )))
    }

    /// Whether the server has been told to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
