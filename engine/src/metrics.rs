//! What the engine tells Prometheus, through the `metrics` facade: with no recorder installed all of it is free. Install
//! the recorder before the engine starts. Leaves exposing it to `server`.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// Handles of everything recorded in the loop, looked up once.
pub(crate) struct EngineMetrics {
    pub(crate) time_to_first_token: Histogram,
    pub(crate) inter_token_latency: Histogram,
    pub(crate) prompt_tokens: Counter,
    pub(crate) generated_tokens: Counter,
    pub(crate) scored_tokens: Counter,
    pub(crate) requests_waiting: Gauge,
    pub(crate) sequences_running: Gauge,
    pub(crate) prefix_cache_hit_tokens: Counter,
    pub(crate) preemptions: Counter,
    pub(crate) batch_tokens: Histogram,
    pub(crate) batch_sequences: Histogram,
    pub(crate) step_seconds: Histogram,
    pub(crate) candidates: Counter,
    pub(crate) pruned_tokens: Counter,
    pub(crate) reward: Histogram,
    pub(crate) scorer_seconds: Histogram,
    pub(crate) scorer_failures: Counter,
    kv_blocks: Vec<(Gauge, Gauge)>,
}

/// How a request ended, as the label `outcome` of `rectify_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Aborted,
    Failed,
    Refused,
}

impl EngineMetrics {
    /// Handles for models of these names.
    pub(crate) fn new(models: &[&str]) -> Self {
        let kv_blocks = |model: &&str| {
            let model = (*model).to_owned();
            (
                gauge!("rectify_kv_blocks_used", "model" => model.clone()),
                gauge!("rectify_kv_blocks_total", "model" => model),
            )
        };
        Self {
            time_to_first_token: histogram!("rectify_time_to_first_token_seconds"),
            inter_token_latency: histogram!("rectify_inter_token_latency_seconds"),
            prompt_tokens: counter!("rectify_prompt_tokens_total"),
            generated_tokens: counter!("rectify_generated_tokens_total"),
            scored_tokens: counter!("rectify_scored_tokens_total"),
            requests_waiting: gauge!("rectify_requests_waiting"),
            sequences_running: gauge!("rectify_sequences_running"),
            prefix_cache_hit_tokens: counter!("rectify_prefix_cache_hit_tokens_total"),
            preemptions: counter!("rectify_preemptions_total"),
            batch_tokens: histogram!("rectify_batch_tokens"),
            batch_sequences: histogram!("rectify_batch_sequences"),
            step_seconds: histogram!("rectify_step_seconds"),
            candidates: counter!("rectify_candidates_total"),
            pruned_tokens: counter!("rectify_pruned_tokens_total"),
            reward: histogram!("rectify_reward"),
            scorer_seconds: histogram!("rectify_scorer_seconds"),
            scorer_failures: counter!("rectify_scorer_failures_total"),
            kv_blocks: models.iter().map(kv_blocks).collect(),
        }
    }

    /// A request has ended.
    pub(crate) fn request(&self, outcome: Outcome) {
        let label = match outcome {
            Outcome::Ok => "ok",
            Outcome::Aborted => "aborted",
            Outcome::Failed => "failed",
            Outcome::Refused => "refused",
        };
        counter!("rectify_requests_total", "outcome" => label).increment(1);
    }

    /// A model's blocks.
    pub(crate) fn blocks(&self, model: usize, used: usize, total: usize) {
        if let Some((used_gauge, total_gauge)) = self.kv_blocks.get(model) {
            used_gauge.set(used as f64);
            total_gauge.set(total as f64);
        }
    }

    /// A step has run.
    pub(crate) fn step(&self, num_tokens: usize, num_seqs: usize, time: Duration) {
        self.batch_tokens.record(num_tokens as f64);
        self.batch_sequences.record(num_seqs as f64);
        self.step_seconds.record(time);
    }
}

impl std::fmt::Debug for EngineMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineMetrics").finish_non_exhaustive()
    }
}
