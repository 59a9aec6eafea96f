//! Settings of self-play fine-tuning.

use serde::{Deserialize, Serialize};

use super::rollout::online_train;
use super::{RolloutConfig, TrainConfig, check};
use crate::error::TrainError;

/// Self-play fine-tuning (arXiv:2401.01335): a human's answer is chosen over the policy's own of the round before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpinConfig {
    /// What every method shares. A batch counts prompts.
    pub train: TrainConfig,
    /// What online methods share; rewards are only reported.
    pub rollout: RolloutConfig,
    /// Forward passes of a round, between which the opponent stays; 0 for the whole data.
    pub steps_per_generation: usize,
    /// Passes over a round.
    pub num_iterations: usize,
    /// Strength of the regularisation towards the opponent (the paper's λ).
    pub beta: f64,
}

impl Default for SpinConfig {
    fn default() -> Self {
        Self {
            train: TrainConfig { learning_rate: 5e-7, ..online_train() },
            rollout: RolloutConfig::default(),
            steps_per_generation: 0,
            num_iterations: 1,
            beta: 0.1,
        }
    }
}

impl SpinConfig {
    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the first field that cannot work.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.train.validate()?;
        self.rollout.validate(&self.train, false)?;
        check(self.num_iterations > 0, "num_iterations", "give 1 or more")?;
        check(self.beta > 0.0, "beta", "give a number above 0")
    }
}
