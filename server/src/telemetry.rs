//! Logs to standard error and Prometheus metrics: names, buckets and what one request reports. Leaves gauges of the
//! engine to `routes::ops`.

use std::sync::OnceLock;
use std::time::Instant;

use metrics::{
    Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use rectify_engine::handle::EngineStats;
use rectify_engine::request::{Scoring, Selection, Usage};
use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, LogFormat, LogSection};

/// Seconds: from a step of a tiny model to a long answer.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Rewards: raw logits around zero.
const REWARDS: [f64; 15] =
    [-20.0, -10.0, -7.5, -5.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0];

/// Sends logs to standard error.
///
/// # Errors
/// [`ConfigError`] if `log.level` cannot be read.
pub fn init_logs(log: &LogSection) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| ConfigError {
        origin: "configuration".into(),
        message: format!(
            "`log.level` is `{}`, which is no level and no list of directives: {error}",
            log.level
        ),
    })?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call, as in tests, leaves the first in place.
    let _ = match log.format {
        LogFormat::Text => logs.with_target(false).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// The process's metrics; installed at the first call.
pub fn metrics() -> PrometheusHandle {
    // The `metrics` facade has one recorder for the whole process.
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let builder = PrometheusBuilder::new();
            // Only an empty list of buckets is refused.
            let builder = match builder
                .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
                .and_then(|builder| {
                    builder.set_buckets_for_metric(Matcher::Full("rectify_reward".into()), &REWARDS)
                }) {
                Ok(builder) => builder,
                Err(_) => PrometheusBuilder::new(),
            };
            let recorder = builder.build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_ok() {
                describe();
            }
            handle
        })
        .clone()
}

fn describe() {
    describe_counter!("rectify_requests_total", "HTTP requests by path and status");
    describe_histogram!(
        "rectify_request_duration_seconds",
        Unit::Seconds,
        "Time to the end of the response's headers, or of its body if it is not streamed"
    );
    describe_histogram!(
        "rectify_time_to_first_token_seconds",
        Unit::Seconds,
        "Time from a request's arrival to its first token"
    );
    describe_histogram!(
        "rectify_inter_token_latency_seconds",
        Unit::Seconds,
        "Time between a candidate's tokens"
    );
    describe_histogram!(
        "rectify_score_latency_seconds",
        Unit::Seconds,
        "Time from a candidate's end to its reward"
    );
    describe_counter!("rectify_prompt_tokens_total", "Tokens of prompts");
    describe_counter!("rectify_cached_prompt_tokens_total", "Tokens of prompts found in the prefix cache");
    describe_counter!("rectify_tokens_generated_total", "Tokens generated, over all candidates");
    describe_counter!("rectify_rejected_tokens_total", "Tokens of candidates that were not returned");
    describe_counter!("rectify_scored_tokens_total", "Tokens read by reward models");
    describe_counter!("rectify_candidates_total", "Candidates sampled for best-of-N");
    describe_counter!("rectify_pruned_tokens_total", "Tokens of candidates dropped before they ended");
    describe_counter!(
        "rectify_scorer_failures_total",
        "Best-of-N requests that lack a reward of some candidate"
    );
    describe_histogram!("rectify_reward", "Raw rewards by reward model");
    describe_gauge!("rectify_requests_waiting", "Requests not yet admitted");
    describe_gauge!("rectify_sequences_running", "Sequences admitted and not finished");
    describe_gauge!("rectify_kv_blocks_total", "KV blocks of the policy");
    describe_gauge!("rectify_kv_blocks_used", "KV blocks referenced by a sequence");
    describe_gauge!("rectify_kv_blocks_used_peak", "Most KV blocks referenced at once");
    describe_counter!("rectify_steps_total", "Steps of the engine");
    describe_counter!("rectify_preemptions_total", "Groups preempted");
    describe_counter!("rectify_prefix_cache_hit_tokens_total", "Prompt tokens taken from the prefix cache");
}

/// Copies the engine's own numbers.
pub fn record_engine(stats: &EngineStats) {
    gauge!("rectify_requests_waiting").set(stats.waiting as f64);
    gauge!("rectify_sequences_running").set(stats.running as f64);
    gauge!("rectify_kv_blocks_total").set(stats.total_blocks as f64);
    gauge!("rectify_kv_blocks_used").set(stats.used_blocks as f64);
    gauge!("rectify_kv_blocks_used_peak").set(stats.peak_used_blocks as f64);
    counter!("rectify_steps_total").absolute(stats.steps);
    counter!("rectify_tokens_generated_total").absolute(stats.generated_tokens);
    counter!("rectify_preemptions_total").absolute(stats.preemptions);
    counter!("rectify_prefix_cache_hit_tokens_total").absolute(stats.prefix_hit_tokens);
}

/// What one generation reports.
pub struct RequestMetrics {
    start: Instant,
    has_token: bool,
    /// When each candidate of the first prompt got its last token, and when it ended.
    last_token: Vec<Option<Instant>>,
    inter_token: Histogram,
    reward: Option<Histogram>,
    score_latency: Histogram,
}

impl RequestMetrics {
    /// Starts the clock of a request; `reward` is the reward model that will choose.
    pub fn start(reward: Option<&str>, num_candidates: Option<usize>) -> Self {
        Self {
            start: Instant::now(),
            has_token: false,
            last_token: vec![None; num_candidates.unwrap_or(0)],
            // Looked up once: a token costs no look-up.
            inter_token: histogram!("rectify_inter_token_latency_seconds"),
            reward: reward.map(|name| histogram!("rectify_reward", "reward_model" => name.to_owned())),
            score_latency: histogram!("rectify_score_latency_seconds"),
        }
    }

    /// A token of candidate `index` of prompt `prompt` arrived.
    pub fn token(&mut self, prompt: usize, index: usize) {
        let now = Instant::now();
        if !self.has_token {
            self.has_token = true;
            histogram!("rectify_time_to_first_token_seconds").record(now - self.start);
        }
        if prompt == 0
            && let Some(last) = self.last_token.get_mut(index)
            && let Some(last) = last.replace(now)
        {
            self.inter_token.record(now - last);
        }
    }

    /// Candidate `index` ended.
    pub fn finished(&mut self, index: usize) {
        if let Some(last) = self.last_token.get_mut(index) {
            *last = Some(Instant::now());
        }
    }

    /// Candidate `index` got its reward.
    pub fn scored(&mut self, index: usize, reward: f32) {
        if let Some(histogram) = &self.reward {
            histogram.record(f64::from(reward));
        }
        if let Some(Some(finished)) = self.last_token.get(index) {
            self.score_latency.record(finished.elapsed());
        }
    }

    /// Best-of-N decided.
    pub fn selected(&self, selection: &Selection) {
        counter!("rectify_candidates_total").increment(selection.candidates.len() as u64);
        let pruned = selection.candidates.iter().filter(|candidate| candidate.finish_reason.is_none());
        let tokens: usize = pruned.map(|candidate| candidate.tokens.len()).sum();
        counter!("rectify_pruned_tokens_total").increment(tokens as u64);
        if selection.scoring != Scoring::Ok {
            counter!("rectify_scorer_failures_total").increment(1);
        }
    }

    /// All is done.
    pub fn done(&self, usage: &Usage) {
        counter!("rectify_prompt_tokens_total").increment(usage.prompt_tokens as u64);
        counter!("rectify_cached_prompt_tokens_total").increment(usage.cached_tokens as u64);
        counter!("rectify_rejected_tokens_total").increment(usage.rejected_tokens as u64);
        counter!("rectify_scored_tokens_total").increment(usage.scored_tokens as u64);
    }
}
