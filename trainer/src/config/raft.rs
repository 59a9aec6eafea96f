//! Settings of rejection-sampling fine-tuning.

use serde::{Deserialize, Serialize};

use super::rollout::online_train;
use super::{RolloutConfig, TrainConfig, check};
use crate::error::TrainError;

/// Rejection-sampling fine-tuning (RAFT, arXiv:2304.06767; Llama 2, arXiv:2307.09288 §3.2.3): the policy learns the best of
/// its own completions of each prompt by heart, round after round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftConfig {
    /// What every method shares. A batch counts prompts.
    pub train: TrainConfig,
    /// What online methods share.
    pub rollout: RolloutConfig,
    /// Completions of each prompt, of which the best is learnt.
    pub num_generations: usize,
    /// Forward passes of a round; 0 for the whole data.
    pub steps_per_generation: usize,
    /// Passes over a round.
    pub num_iterations: usize,
    /// Learn only from completions with at least this reward.
    pub min_reward: Option<f64>,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            train: TrainConfig { learning_rate: 2e-5, ..online_train() },
            rollout: RolloutConfig::default(),
            num_generations: 8,
            steps_per_generation: 0,
            num_iterations: 1,
            min_reward: None,
        }
    }
}

impl RaftConfig {
    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the first field that cannot work.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.train.validate()?;
        self.rollout.validate(&self.train, true)?;
        check(self.num_generations > 0, "num_generations", "give 1 or more")?;
        check(self.num_iterations > 0, "num_iterations", "give 1 or more")?;
        check(self.min_reward.is_none_or(f64::is_finite), "min_reward", "give a number")
    }
}
