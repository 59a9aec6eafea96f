//! Logs to standard error, and the recorder of Prometheus metrics with their descriptions and buckets. Leaves recording
//! to the engine and to `routes`.

use std::io::IsTerminal;
use std::sync::OnceLock;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, LogFormat, LogSection};

/// Seconds: from a step of a tiny model to a long answer.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Tokens or sequences of a step.
const COUNTS: [f64; 13] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];
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
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second call, as in tests, leaves the first in place.
    let _ = match log.format {
        LogFormat::Text => logs.with_target(false).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// The process's metrics; installed at the first call, which must come before the engine starts.
pub fn metrics() -> PrometheusHandle {
    // The `metrics` facade has one recorder for the whole process.
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let mut builder = PrometheusBuilder::new();
            for (matcher, buckets) in [
                (Matcher::Suffix("_seconds".into()), SECONDS.as_slice()),
                (Matcher::Prefix("rectify_batch_".into()), &COUNTS),
                (Matcher::Full("rectify_reward".into()), &REWARDS),
            ] {
                // Only an empty list of buckets is refused.
                builder = builder.set_buckets_for_metric(matcher, buckets).unwrap_or_default();
            }
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
    let counters = [
        ("rectify_http_requests_total", "HTTP requests by path and status"),
        ("rectify_requests_total", "Requests to the engine by outcome"),
        ("rectify_prompt_tokens_total", "Tokens of prompts"),
        ("rectify_generated_tokens_total", "Tokens generated, over all candidates"),
        ("rectify_rejected_tokens_total", "Tokens of candidates that were not returned"),
        ("rectify_scored_tokens_total", "Tokens read by reward models"),
        ("rectify_prefix_cache_hit_tokens_total", "Prompt tokens taken from the prefix cache"),
        ("rectify_preemptions_total", "Groups preempted"),
        ("rectify_candidates_total", "Candidates sampled for best-of-N"),
        ("rectify_pruned_tokens_total", "Tokens of candidates dropped before they ended"),
        ("rectify_feedback_records_total", "Answers recorded"),
        ("rectify_feedback_records_dropped_total", "Answers not recorded, by reason"),
        ("rectify_feedback_votes_total", "Votes by outcome"),
        ("rectify_scorer_failures_total", "Candidates that a reward model failed to score"),
        ("rectify_training_events_total", "Steps of the learning loop's runs"),
        ("rectify_gate_verdicts_total", "Candidates by what the gate said of them"),
        ("rectify_gate_checks_total", "Checks of the gate by verdict"),
        ("rectify_swaps_total", "Changes of the active version"),
        ("rectify_rollbacks_total", "Candidates taken back, and returns to the version before"),
        ("rectify_swap_failures_total", "Versions that could not be loaded; the one before goes on serving"),
        ("rectify_webhooks_sent_total", "Events delivered to a webhook"),
        ("rectify_webhooks_dropped_total", "Events that were not delivered to a webhook"),
    ];
    counters.into_iter().for_each(|(name, text)| describe_counter!(name, text));
    let gauges = [
        ("rectify_requests_waiting", "Requests not yet admitted"),
        ("rectify_sequences_running", "Sequences admitted and not finished"),
        ("rectify_feedback_queue_length", "Answers and votes that wait to be written"),
        ("rectify_kv_blocks_total", "KV blocks by model"),
        ("rectify_kv_blocks_used", "KV blocks referenced by a sequence, by model"),
        ("rectify_adapter_version", "Number of the version that is served, 0 for the base, by arm"),
        ("rectify_canary_share", "Share of new requests that the candidate on probation answers"),
        ("rectify_probation_mean", "Mean of a measurement during a probation, by arm"),
        ("rectify_probation_observations", "Observations behind that mean"),
    ];
    gauges.into_iter().for_each(|(name, text)| describe_gauge!(name, text));
    let seconds = [
        (
            "rectify_http_request_duration_seconds",
            "Time to a response's headers, or to its body's end if not streamed",
        ),
        ("rectify_time_to_first_token_seconds", "Time from a request's arrival to its first token"),
        ("rectify_inter_token_latency_seconds", "Time between a candidate's tokens"),
        ("rectify_scorer_seconds", "Time from a candidate's end to its reward"),
        ("rectify_feedback_commit_seconds", "Time to write and commit a group of answers and votes"),
        ("rectify_step_seconds", "Time of an engine step"),
        ("rectify_swap_seconds", "Time to move requests to another version"),
        ("rectify_adapter_load_seconds", "Time to fetch, read and pack a version before that"),
        ("rectify_training_state_seconds", "Time of a state's work in the learning loop"),
    ];
    seconds.into_iter().for_each(|(name, text)| describe_histogram!(name, Unit::Seconds, text));
    let others = [
        ("rectify_batch_tokens", "Tokens of a step"),
        ("rectify_batch_sequences", "Sequences of a step"),
        ("rectify_reward", "Raw rewards of candidates"),
    ];
    others.into_iter().for_each(|(name, text)| describe_histogram!(name, text));
}
