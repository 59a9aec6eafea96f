//! What the engine tells Prometheus, through the `metrics` facade: with no recorder installed all of it is free. Install
//! the recorder before the engine starts. Leaves exposing it to `server`.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::block_pool::BlockPool;
use crate::ids::ModelId;
use crate::scheduler::Load;

/// Handles of everything recorded in the loop, looked up once.
pub(crate) struct EngineMetrics {
    models: Vec<ModelMetrics>,
    policies: Vec<PolicyMetrics>,
    rewards: Vec<RewardMetrics>,
    batch_tokens: Histogram,
    batch_sequences: Histogram,
    step_seconds: Histogram,
}

/// Of one set of weights with its own blocks.
struct ModelMetrics {
    requests_waiting: Gauge,
    sequences_running: Gauge,
    kv_blocks_used: Gauge,
    kv_blocks_total: Gauge,
    preemptions: Counter,
    prefix_cache_hit_tokens: Counter,
}

/// Of one policy.
pub(crate) struct PolicyMetrics {
    pub(crate) time_to_first_token: Histogram,
    pub(crate) inter_token_latency: Histogram,
    pub(crate) prompt_tokens: Counter,
    pub(crate) generated_tokens: Counter,
    pub(crate) candidates: Counter,
    pub(crate) pruned_tokens: Counter,
}

/// Of one reward model.
pub(crate) struct RewardMetrics {
    pub(crate) scored_tokens: Counter,
    pub(crate) reward: Histogram,
    pub(crate) scorer_seconds: Histogram,
    pub(crate) scorer_failures: Counter,
}

/// How a request ended, as the label `outcome` of `rectify_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Aborted,
    Failed,
    Refused,
}

/// The models as metrics name them, in the label `model`.
pub(crate) struct Names<'a> {
    /// Policies first.
    pub(crate) models: &'a [Arc<str>],
    pub(crate) num_policies: usize,
    pub(crate) rewards: &'a [Arc<str>],
}

impl EngineMetrics {
    /// Handles for models of these names.
    pub(crate) fn new(names: &Names<'_>) -> Self {
        let policies = names.models.iter().take(names.num_policies);
        Self {
            models: names.models.iter().map(ModelMetrics::new).collect(),
            policies: policies.map(PolicyMetrics::new).collect(),
            rewards: names.rewards.iter().map(RewardMetrics::new).collect(),
            batch_tokens: histogram!("rectify_batch_tokens"),
            batch_sequences: histogram!("rectify_batch_sequences"),
            step_seconds: histogram!("rectify_step_seconds"),
        }
    }

    /// What is counted of a policy.
    pub(crate) fn policy(&self, policy: ModelId) -> &PolicyMetrics {
        &self.policies[policy.index()]
    }

    /// What is counted of the reward model at this place.
    pub(crate) fn reward(&self, reward: usize) -> &RewardMetrics {
        &self.rewards[reward]
    }

    /// A request to a model has ended.
    pub(crate) fn request(&self, outcome: Outcome, model: &Arc<str>) {
        let label = match outcome {
            Outcome::Ok => "ok",
            Outcome::Aborted => "aborted",
            Outcome::Failed => "failed",
            Outcome::Refused => "refused",
        };
        counter!("rectify_requests_total", "outcome" => label, "model" => Arc::clone(model)).increment(1);
    }

    /// How much a model has to do, and its blocks.
    pub(crate) fn load(&self, model: ModelId, load: &Load, pool: &BlockPool) {
        let metrics = &self.models[model.index()];
        metrics.requests_waiting.set(load.waiting as f64);
        metrics.sequences_running.set(load.running as f64);
        metrics.kv_blocks_used.set(pool.num_used() as f64);
        metrics.kv_blocks_total.set(pool.num_blocks() as f64);
        metrics.preemptions.absolute(load.preemptions);
        metrics.prefix_cache_hit_tokens.absolute(load.prefix_hit_tokens);
    }

    /// A step has run.
    pub(crate) fn step(&self, num_tokens: usize, num_seqs: usize, time: Duration) {
        self.batch_tokens.record(num_tokens as f64);
        self.batch_sequences.record(num_seqs as f64);
        self.step_seconds.record(time);
    }
}

impl ModelMetrics {
    fn new(model: &Arc<str>) -> Self {
        let model = || Arc::clone(model);
        Self {
            requests_waiting: gauge!("rectify_requests_waiting", "model" => model()),
            sequences_running: gauge!("rectify_sequences_running", "model" => model()),
            kv_blocks_used: gauge!("rectify_kv_blocks_used", "model" => model()),
            kv_blocks_total: gauge!("rectify_kv_blocks_total", "model" => model()),
            preemptions: counter!("rectify_preemptions_total", "model" => model()),
            prefix_cache_hit_tokens: counter!("rectify_prefix_cache_hit_tokens_total", "model" => model()),
        }
    }
}

impl PolicyMetrics {
    fn new(model: &Arc<str>) -> Self {
        let model = || Arc::clone(model);
        Self {
            time_to_first_token: histogram!("rectify_time_to_first_token_seconds", "model" => model()),
            inter_token_latency: histogram!("rectify_inter_token_latency_seconds", "model" => model()),
            prompt_tokens: counter!("rectify_prompt_tokens_total", "model" => model()),
            generated_tokens: counter!("rectify_generated_tokens_total", "model" => model()),
            candidates: counter!("rectify_candidates_total", "model" => model()),
            pruned_tokens: counter!("rectify_pruned_tokens_total", "model" => model()),
        }
    }
}

impl RewardMetrics {
    fn new(model: &Arc<str>) -> Self {
        let model = || Arc::clone(model);
        Self {
            scored_tokens: counter!("rectify_scored_tokens_total", "model" => model()),
            reward: histogram!("rectify_reward", "model" => model()),
            scorer_seconds: histogram!("rectify_scorer_seconds", "model" => model()),
            scorer_failures: counter!("rectify_scorer_failures_total", "model" => model()),
        }
    }
}

impl std::fmt::Debug for EngineMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineMetrics").finish_non_exhaustive()
    }
}
