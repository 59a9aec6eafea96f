//! Settings of online preference optimisation, under the names and with the defaults of TRL's `OnlineDPOConfig`.

use serde::{Deserialize, Serialize};

use super::rollout::online_train;
use super::{RolloutConfig, TrainConfig, check};
use crate::error::TrainError;

/// The loss of a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairLossType {
    /// `−ln σ(β h)`.
    #[default]
    Sigmoid,
    /// `(h − 1/(2β))²`.
    Ipo,
}

/// Online direct preference optimisation (arXiv:2402.04792): the policy's own completions, judged, are the pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnlineDpoConfig {
    /// What every method shares. A batch counts pairs.
    pub train: TrainConfig,
    /// What online methods share.
    pub rollout: RolloutConfig,
    /// Completions of each prompt: the best of them is chosen, the worst rejected.
    pub num_generations: usize,
    /// Forward passes that are sampled for at once; 0 for those of one optimiser step.
    pub steps_per_generation: usize,
    /// Passes over what was sampled at once.
    pub num_iterations: usize,
    /// How much the divergence from the reference costs.
    pub beta: f64,
    /// The loss of a pair.
    pub loss_type: PairLossType,
    /// Subtracted from the reward of completions that were cut.
    pub missing_eos_penalty: f64,
    /// Stop and restore when the mean divergence of a completion from the reference exceeds this, in nats; 0 never does.
    pub max_kl: f64,
}

impl Default for OnlineDpoConfig {
    fn default() -> Self {
        let rollout =
            RolloutConfig { max_completion_length: 64, temperature: 0.9, ..RolloutConfig::default() };
        Self {
            train: TrainConfig { learning_rate: 5e-7, ..online_train() },
            rollout,
            num_generations: 2,
            steps_per_generation: 0,
            num_iterations: 1,
            beta: 0.1,
            loss_type: PairLossType::Sigmoid,
            missing_eos_penalty: 0.0,
            max_kl: 0.0,
        }
    }
}

impl OnlineDpoConfig {
    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the first field that cannot work.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.train.validate()?;
        self.rollout.validate(&self.train, true)?;
        check(self.num_generations > 1, "num_generations", "give 2 or more: a pair is chosen from them")?;
        check(self.num_iterations > 0, "num_iterations", "give 1 or more")?;
        check(self.beta > 0.0, "beta", "give a number above 0")?;
        check(self.max_kl >= 0.0, "max_kl", "give 0 (never) or more")
    }
}
