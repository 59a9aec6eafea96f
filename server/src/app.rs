//! What every handler shares: the policies, the names the server answers to, defaults and limits. Leaves HTTP to `routes`,
//! one policy to `policy` and loading to `boot`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use metrics_exporter_prometheus::PrometheusHandle;
use rectify_engine::{AdapterRef, EngineError};

use crate::api::alignment::{AlignmentLimits, AlignmentRequest, CombinedReward};
use crate::auth::ApiKeys;
use crate::error::ApiError;
use crate::feedback::Feedback;
use crate::learning::Learning;
use crate::policy::{AdapterOwners, Policy};
use crate::serving::Served;

/// The name the default policy answers to besides its own.
pub const POLICY_ALIAS: &str = "policy";

/// What every handler shares.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// The parts of an [`App`].
pub struct Shared {
    /// The policy of requests that name none.
    pub policy: Arc<Policy>,
    /// The other policies.
    pub others: Vec<Arc<Policy>>,
    /// Which of them adapters belong to.
    pub adapters: AdapterOwners,
    /// The learning loop, where there is a store.
    pub learning: Option<Learning>,
    /// The reward models' names.
    pub rewards: Vec<String>,
    /// The reward model of requests that name none.
    pub default_reward: Option<String>,
    /// The combination of reward models that decides instead, if one is configured.
    pub combined_reward: Option<CombinedReward>,
    /// Alignment profiles by name.
    pub profiles: BTreeMap<String, AlignmentRequest>,
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
#[derive(Clone, Debug)]
pub struct Target {
    /// The policy.
    pub policy: Arc<Policy>,
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

    /// All policies, the default one first.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        std::iter::once(&self.policy).chain(&self.others)
    }

    /// What `model` means to `person` (who asks, or the request's id): a policy as it is served now, one of its versions
    /// (`demo@3`, `demo@base`), an adapter, each with a profile as suffix.
    ///
    /// # Errors
    /// 400 if it is a reward model, which does not generate; 404 for a name that nothing has, and for a version that is not
    /// in memory.
    pub fn resolve(&self, model: Option<&str>, person: &str) -> Result<Target, ApiError> {
        let name = model.filter(|name| !name.is_empty()).unwrap_or_else(|| self.policy.name());
        self.find(name, name, person)
    }

    /// What the rest `name` of `whole` means.
    fn find(&self, name: &str, whole: &str, person: &str) -> Result<Target, ApiError> {
        let target = |policy: &Arc<Policy>, served: Served| Target {
            policy: Arc::clone(policy),
            name: whole.to_owned(),
            served,
            profile: None,
        };
        if let Some(policy) = self.policy_named(name) {
            return Ok(target(policy, policy.serving.get().route(person)));
        }
        if self.rewards.iter().any(|reward| reward == name) {
            let message = format!("`{name}` is a reward model: it scores at /v1/score and generates nothing");
            return Err(ApiError::invalid("model", message));
        }
        if let Some((base, suffix)) = name.rsplit_once(':')
            && let Some(profile) = self.profile(suffix)
        {
            return Ok(Target { profile: Some(profile), ..self.find(base, whole, person)? });
        }
        if let Some((policy, version)) = name.rsplit_once('@')
            && let Some(policy) = self.policy_named(policy)
        {
            return Ok(target(policy, version_of(policy, name, version)?));
        }
        let Some(policy) = self.adapters.of(name) else { return Err(self.unknown_model(whole)) };
        let served = Served { adapter: Some(AdapterRef::Named(name.to_owned())), arm: None };
        Ok(target(&policy, served))
    }

    /// Whether requests with this `model` would go to a policy or one of its profiles or versions.
    ///
    /// # Errors
    /// 400 if it is a reward model.
    pub fn is_taken(&self, name: &str) -> Result<bool, ApiError> {
        match self.resolve(Some(name), "") {
            Ok(target) => Ok(!matches!(target.served.adapter, Some(AdapterRef::Named(_)))),
            Err(error) if error.status == StatusCode::NOT_FOUND => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The default policy's main name.
    pub fn policy_name(&self) -> &str {
        self.policy.name()
    }

    /// The policy that has this name; [`POLICY_ALIAS`] is the default one's.
    pub fn policy_named(&self, name: &str) -> Option<&Arc<Policy>> {
        let named = self.policies().find(|policy| policy.is_named(name));
        named.or_else(|| (name == POLICY_ALIAS).then_some(&self.policy))
    }

    /// The policy of this name, or the default one.
    ///
    /// # Errors
    /// 404 naming the policies.
    pub fn policy_or_default(&self, name: Option<&str>) -> Result<&Arc<Policy>, ApiError> {
        let Some(name) = name else { return Ok(&self.policy) };
        self.policy_named(name).ok_or_else(|| {
            let known = crate::names(self.policies().map(|policy| policy.name()));
            ApiError::model_not_found(format!("`{name}` is not a policy; these are: {known}"))
        })
    }

    /// 404 naming what generates.
    fn unknown_model(&self, name: &str) -> ApiError {
        let policies = crate::names(self.policies().map(|policy| format!("`{}`", policy.name())));
        let adapters = crate::names(self.adapters.names());
        let are = if self.others.is_empty() { "policy is" } else { "policies are" };
        ApiError::model_not_found(format!(
            "the model `{name}` does not exist; the {are} {policies}, adapters: {adapters}"
        ))
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

    /// What an `alignment` may ask of a policy.
    pub fn alignment_limits(&self, policy: &Policy) -> AlignmentLimits<'_> {
        AlignmentLimits {
            max_candidates: self.max_candidates,
            rewards: &self.rewards,
            default_reward: self.default_reward.as_deref(),
            combined_reward: self.combined_reward.as_ref(),
            kv_tokens: policy.kv_tokens,
        }
    }

    /// Names the models there are when an adapter has gone meanwhile.
    pub fn explain(&self, error: EngineError, target: &Target) -> ApiError {
        match error {
            EngineError::NotFound { kind: "adapter", .. } => self.unknown_model(&target.name),
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

    /// Whether the server has been told to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// The version of a policy; `name` is what the request called it.
fn version_of(policy: &Policy, name: &str, version: &str) -> Result<Served, ApiError> {
    let serving = policy.serving.get();
    serving.version(version).ok_or_else(|| {
        let known = serving.versions().into_iter().map(|version| format!("{}@{version}", policy.name()));
        let known = crate::names(known.collect::<Vec<_>>());
        ApiError::model_not_found(format!("the version `{name}` is not in memory; these are: {known}"))
    })
}
