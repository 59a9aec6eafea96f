//! A run's metrics for Prometheus, under the names people's dashboards have: `rectify_dpo_rewards_margins`,
//! `rectify_ppo_policy_entropy`. Leaves measuring to the trainer.

use std::net::{Ipv4Addr, TcpListener};

use axum::Router;
use axum::routing::get;
use rectify_trainer::Progress;
use serde_json::{Map, Value};

use crate::cli::CliError;
use crate::telemetry;

/// TRL's names and those of dashboards, where they are not the same after the rule of [`gauge_name`].
const NAMES: [(&str, &str); 8] = [
    ("ppo loss", "ppo_loss_total"),
    ("ppo objective/entropy", "ppo_policy_entropy"),
    ("ppo objective/kl", "ppo_policy_kl"),
    ("ppo objective/scores", "env_reward_mean"),
    ("ppo objective/scores_std", "env_reward_std"),
    ("grpo reward", "env_reward_mean"),
    ("grpo reward_std", "env_reward_std"),
    ("rloo reward", "env_reward_mean"),
];

/// The metrics of one run at a time.
#[derive(Debug, Default)]
pub(crate) struct RunMetrics {
    /// Known once the run has started.
    method: &'static str,
}

impl RunMetrics {
    /// Serves `/metrics` on a port of the loopback address until the process ends; 0 takes any free one.
    ///
    /// # Errors
    /// [`CliError::Usage`] if the port is taken.
    pub(super) fn serve(port: u16) -> Result<Self, CliError> {
        let refuse = |error: std::io::Error| CliError::Usage(format!("--metrics-port {port}: {error}"));
        let handle = telemetry::metrics();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(refuse)?;
        listener.set_nonblocking(true).map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refuse)?;
        let app = Router::new().route("/metrics", get(move || async move { handle.render() }));
        let serve = move || {
            runtime.block_on(async {
                if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                    // Metrics that cannot be read are no reason to end the training.
                    let _ = axum::serve(listener, app).await;
                }
            });
        };
        std::thread::Builder::new().name("rectify-metrics".into()).spawn(serve).map_err(refuse)?;
        say_where(&format!("http://{address}/metrics"));
        Ok(Self { method: "" })
    }

    /// Takes an event in.
    pub(crate) fn record(&mut self, event: &Progress) {
        match event {
            Progress::Started(info) => {
                self.method = info.method;
                metrics::gauge!("rectify_train_steps_expected").set(info.total_steps as f64);
            }
            Progress::Step(step) => {
                metrics::gauge!("rectify_train_step").set(step.step as f64);
                metrics::counter!("rectify_train_tokens_total").increment(step.num_tokens as u64);
                metrics::histogram!("rectify_train_step_seconds").record(step.seconds);
            }
            Progress::Log(line) => self.line(line),
            _ => {}
        }
    }

    fn line(&self, line: &Map<String, Value>) {
        for (name, value) in line.iter().filter(|(name, _)| *name != "step") {
            if let Some(value) = value.as_f64() {
                metrics::gauge!(gauge_name(self.method, name)).set(value);
            }
        }
    }
}

fn say_where(url: &str) {
    use std::io::Write;
    // A closed standard error is no failure of the training.
    let _ = writeln!(std::io::stderr().lock(), "metrics are at {url}");
}

/// `rewards/margins` of DPO is `rectify_dpo_rewards_margins`.
fn gauge_name(method: &str, metric: &str) -> String {
    let typed = format!("{method} {metric}");
    if let Some((_, name)) = NAMES.iter().find(|(known, _)| *known == typed) {
        return format!("rectify_{name}");
    }
    let sane = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let sane = |text: &str| text.chars().map(sane).collect::<String>();
    format!("rectify_{}_{}", sane(method), sane(metric))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn metrics_have_the_names_of_dashboards() {
        for (method, metric, name) in [
            ("dpo", "rewards/margins", "rectify_dpo_rewards_margins"),
            ("dpo", "eval_rewards/accuracies", "rectify_dpo_eval_rewards_accuracies"),
            ("online-dpo", "loss", "rectify_online_dpo_loss"),
            ("ppo", "loss", "rectify_ppo_loss_total"),
            ("ppo", "objective/entropy", "rectify_ppo_policy_entropy"),
        ] {
            assert_eq!(gauge_name(method, metric), name);
        }
    }

    #[test]
    fn the_last_values_are_served() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = taken.local_addr().expect("an address").port();
        let error = RunMetrics::serve(port).expect_err("the port is taken").to_string();
        assert!(error.starts_with(&format!("--metrics-port {port}: ")), "{error}");
        drop(taken);
        let mut metrics = RunMetrics::serve(port).expect("the port is free");
        let line = serde_json::from_str(r#"{"step": 3, "rewards/margins": 0.25}"#).expect("an object");
        metrics.method = "dpo";
        metrics.record(&Progress::Log(line));
        let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains("rectify_dpo_rewards_margins 0.25\n"), "{answer}");
    }
}
