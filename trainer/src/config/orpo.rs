//! Settings of odds-ratio preference optimisation, under TRL's names.

use serde::{Deserialize, Serialize};

use super::{TrainConfig, check};
use crate::error::TrainError;
use crate::losses::OrpoLoss;

/// Odds-ratio preference optimisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OrpoConfig {
    /// What every method shares.
    pub train: TrainConfig,
    /// Weight `λ` of the odds ratio beside the likelihood.
    pub beta: f64,
    /// Adapters drop nothing.
    pub disable_dropout: bool,
}

impl Default for OrpoConfig {
    fn default() -> Self {
        let train = TrainConfig { learning_rate: 1e-6, ..TrainConfig::default() };
        Self { train, beta: 0.1, disable_dropout: true }
    }
}

impl OrpoConfig {
    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the first field that cannot work.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.train.validate()?;
        check(self.beta >= 0.0 && self.beta.is_finite(), "beta", "give 0 or more")
    }

    /// The loss.
    pub fn loss(&self) -> OrpoLoss {
        OrpoLoss { beta: self.beta }
    }
}
