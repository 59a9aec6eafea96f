//! Options of `rectify train` that all online methods have, beside a method's own.

use serde_json::Value;

use super::keys::{Keys, keys};

keys! {
    /// Keys of [`rectify_trainer::RolloutConfig`].
    "Sampling and rewards" RolloutKeys:
    /// What judges completions; may be given several times: model:DIR, regex:PATTERN, exact_match:COLUMN, json,
    /// length:TOKENS, http://HOST/PATH, or command:PROGRAM ARGUMENTS.
    reward: Vec<String>,
    /// A weight for each reward, separated by commas.
    #[arg(value_delimiter = ',', allow_hyphen_values = true)]
    reward_weights: Vec<f64>,
    /// Most tokens of a completion.
    max_completion_length: usize,
    /// Logits are divided by it, in sampling and in training.
    temperature: f32,
    /// Sample from the most likely tokens that together reach this probability.
    top_p: f32,
    /// Sample from this many most likely tokens; 0 for all.
    top_k: usize,
    /// Leave out tokens less likely than this share of the most likely.
    min_p: f32,
    /// Divides the logits of tokens that were there before.
    repetition_penalty: f32,
    /// Train without dropout.
    disable_dropout: bool,
    /// MiB for keys and values while sampling; 0 for what a rollout needs, at most 1024.
    kv_cache_mib: usize,
}

/// A method's own keys behind those of sampling.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct OnlineKeys<K: Keys> {
    /// Keys of the method.
    #[command(flatten)]
    pub method: K,
    /// Keys of sampling.
    #[command(flatten)]
    pub rollout: RolloutKeys,
}

impl<K: Keys> Keys for OnlineKeys<K> {
    fn given(&self) -> Vec<(&'static str, Value)> {
        [self.method.given(), self.rollout.given()].concat()
    }
}
