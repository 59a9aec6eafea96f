//! Settings of sampling and scoring, shared by the online methods, under TRL's names. Leaves what is learnt from samples
//! to the methods' files.

use serde::{Deserialize, Serialize};

use super::{LoraConfig, ReferencePolicy, TrainConfig, Tuning, check};
use crate::error::TrainError;
use crate::rewards::RewardSpec;

/// How completions are sampled, and what judges them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutConfig {
    /// What judges completions; their weighted sum is the reward.
    pub reward: Vec<RewardSpec>,
    /// A weight for each of `reward`; empty for 1 each.
    pub reward_weights: Vec<f64>,
    /// Most tokens of a completion.
    pub max_completion_length: usize,
    /// Logits are divided by it, in sampling and in the policy that is trained.
    pub temperature: f32,
    /// Sample from the most likely tokens that together reach this probability.
    pub top_p: f32,
    /// Sample from this many most likely tokens; 0 for all.
    pub top_k: usize,
    /// Leave out tokens less likely than this share of the most likely.
    pub min_p: f32,
    /// Divides the logits of tokens that were there before.
    pub repetition_penalty: f32,
    /// Train without dropout, so that the ratio between the policy and the one that sampled begins at 1.
    pub disable_dropout: bool,
    /// MiB for keys and values while sampling; 0 for what a rollout needs, at most 1024.
    pub kv_cache_mib: usize,
}

impl Default for RolloutConfig {
    fn default() -> Self {
        Self {
            reward: Vec::new(),
            reward_weights: Vec::new(),
            max_completion_length: 512,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            disable_dropout: true,
            kv_cache_mib: 0,
        }
    }
}

impl RolloutConfig {
    /// Checks what can be checked without opening a file; `needs_reward` where nothing is learnt without one.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the first field that cannot work.
    pub(crate) fn validate(&self, train: &TrainConfig, needs_reward: bool) -> Result<(), TrainError> {
        check(
            matches!(train.tuning, Tuning::Lora(_)),
            "use_peft",
            "set it to true: samples come from the serving engine, which takes new adapters while it runs but not new \
             base weights, so online methods train an adapter",
        )?;
        check(
            !matches!(&train.tuning, Tuning::Lora(lora) if lora.reference == ReferencePolicy::Start),
            "reference",
            "set it to base: the samples of every rollout are new, and the start is not kept to judge them",
        )?;
        check(
            !needs_reward || !self.reward.is_empty(),
            "reward",
            "name at least one, such as model:PATH, regex:PATTERN, exact_match:COLUMN, json, length:TOKENS, http:URL or \
             command:PROGRAM",
        )?;
        check(
            self.reward_weights.is_empty() || self.reward_weights.len() == self.reward.len(),
            "reward_weights",
            "give one weight for each reward",
        )?;
        check(self.reward_weights.iter().all(|weight| weight.is_finite()), "reward_weights", "give numbers")?;
        check(self.max_completion_length > 0, "max_completion_length", "give 1 or more")?;
        check(
            self.temperature > 0.0 && self.temperature.is_finite(),
            "temperature",
            "give a number above 0: greedy samples of a prompt are all the same",
        )?;
        check(
            train.max_tokens_per_batch == 0,
            "max_tokens_per_batch",
            "leave it out: online methods count completions",
        )
    }

    /// Weight of the reward `index`.
    pub(crate) fn weight(&self, index: usize) -> f64 {
        self.reward_weights.get(index).copied().unwrap_or(1.0)
    }
}

/// What online methods begin from: an adapter is trained.
pub(super) fn online_train() -> TrainConfig {
    TrainConfig { tuning: Tuning::Lora(LoraConfig::default()), ..TrainConfig::default() }
}

/// What methods on groups of completions share: a reward counts beside those of the same prompt, under a clipped ratio.
#[derive(Clone, Copy, Debug)]
pub(super) struct Groups {
    pub(super) num_generations: usize,
    pub(super) num_iterations: usize,
    pub(super) beta: f64,
    pub(super) epsilon: f64,
    pub(super) epsilon_high: Option<f64>,
    pub(super) max_kl: f64,
}

impl Groups {
    /// Checks every range.
    pub(super) fn validate(&self) -> Result<(), TrainError> {
        check(
            self.num_generations > 1,
            "num_generations",
            "give 2 or more: a reward counts beside the others'",
        )?;
        check(self.num_iterations > 0, "num_iterations", "give 1 or more")?;
        check(self.beta >= 0.0, "beta", "give 0 or more")?;
        check((0.0..1.0).contains(&self.epsilon), "epsilon", "give a number from 0 to below 1")?;
        check(self.epsilon_high.is_none_or(|high| high >= 0.0), "epsilon_high", "give 0 or more")?;
        check(self.max_kl >= 0.0, "max_kl", "give 0 (never) or more")
    }
}
