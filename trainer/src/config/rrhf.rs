//! Settings of RRHF.

use serde::{Deserialize, Serialize};

use super::{TrainConfig, check};
use crate::error::TrainError;
use crate::losses::RrhfLoss;

/// RRHF: ranking answers by their rewards, imitating the best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RrhfConfig {
    /// What every method shares.
    pub train: TrainConfig,
    /// Weight of the ranking beside the imitation.
    pub rrhf_weight: f64,
    /// Log-probabilities are compared over the length to this power.
    pub length_penalty: f64,
    /// Adapters drop nothing.
    pub disable_dropout: bool,
}

impl Default for RrhfConfig {
    fn default() -> Self {
        Self { train: TrainConfig::default(), rrhf_weight: 1.0, length_penalty: 1.0, disable_dropout: true }
    }
}

impl RrhfConfig {
    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the first field that cannot work.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.train.validate()?;
        check(self.rrhf_weight >= 0.0 && self.rrhf_weight.is_finite(), "rrhf_weight", "give 0 or more")?;
        check(self.length_penalty.is_finite(), "length_penalty", "give a finite number")
    }

    /// The loss.
    pub fn loss(&self) -> RrhfLoss {
        RrhfLoss { rrhf_weight: self.rrhf_weight, length_penalty: self.length_penalty }
    }
}
