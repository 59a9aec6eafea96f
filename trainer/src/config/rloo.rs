//! Settings of REINFORCE with a leave-one-out baseline, under TRL's names and with its defaults.

use serde::{Deserialize, Serialize};

use super::rollout::{Groups, online_train};
use super::{RolloutConfig, TrainConfig, check};
use crate::error::TrainError;
use crate::losses::ClipRange;

/// REINFORCE with a leave-one-out baseline (arXiv:2402.14740).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RlooConfig {
    /// What every method shares. A batch counts completions.
    pub train: TrainConfig,
    /// What online methods share.
    pub rollout: RolloutConfig,
    /// Completions of each prompt.
    pub num_generations: usize,
    /// Forward passes that are sampled for at once; 0 for those of one optimiser step.
    pub steps_per_generation: usize,
    /// Passes over what was sampled at once.
    pub num_iterations: usize,
    /// Weight of the divergence from the reference, taken off the reward; 0 leaves the reference out.
    pub beta: f64,
    /// The ratio earns nothing below `1 − epsilon`.
    pub epsilon: f64,
    /// The ratio earns nothing above `1 + epsilon_high`; `None` for `epsilon`.
    pub epsilon_high: Option<f64>,
    /// Bring advantages to mean 0 and variance 1.
    pub normalize_advantages: bool,
    /// Bounds of a reward.
    pub reward_clip_range: Option<[f64; 2]>,
    /// Completions that reached `max_completion_length` teach nothing.
    pub mask_truncated_completions: bool,
    /// Stop and restore when the mean divergence of a completion from the reference exceeds this, in nats; 0 never does,
    /// and neither does a run without a reference.
    pub max_kl: f64,
}

impl Default for RlooConfig {
    fn default() -> Self {
        Self {
            train: TrainConfig { learning_rate: 1e-6, ..online_train() },
            rollout: RolloutConfig::default(),
            num_generations: 2,
            steps_per_generation: 0,
            num_iterations: 1,
            beta: 0.05,
            epsilon: 0.2,
            epsilon_high: None,
            normalize_advantages: false,
            reward_clip_range: None,
            mask_truncated_completions: false,
            max_kl: 0.0,
        }
    }
}

impl RlooConfig {
    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the first field that cannot work.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.train.validate()?;
        self.rollout.validate(&self.train, true)?;
        check(
            self.reward_clip_range.is_none_or(|[low, high]| low <= high),
            "reward_clip_range",
            "give the lower bound first",
        )?;
        Groups {
            num_generations: self.num_generations,
            num_iterations: self.num_iterations,
            beta: self.beta,
            epsilon: self.epsilon,
            epsilon_high: self.epsilon_high,
            max_kl: self.max_kl,
        }
        .validate()
    }

    pub(crate) fn clip(&self) -> ClipRange {
        ClipRange { low: self.epsilon, high: self.epsilon_high.unwrap_or(self.epsilon), delta: None }
    }
}
