//! Settings of Kahneman–Tversky optimisation, under TRL's names.

use serde::{Deserialize, Serialize};

use super::{TrainConfig, check};
use crate::error::TrainError;
use crate::losses::{KtoLoss, KtoLossType};

/// Kahneman–Tversky optimisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KtoConfig {
    /// What every method shares.
    pub train: TrainConfig,
    /// Which loss.
    pub loss_type: KtoLossType,
    /// Strength `β`: the higher, the nearer to the reference.
    pub beta: f64,
    /// Weight of liked answers.
    pub desirable_weight: f64,
    /// Weight of others.
    pub undesirable_weight: f64,
    /// Ask the reference before the first step also where it stays at hand.
    pub precompute_ref_log_probs: bool,
    /// Adapters drop nothing.
    pub disable_dropout: bool,
}

impl Default for KtoConfig {
    fn default() -> Self {
        Self {
            train: TrainConfig { learning_rate: 1e-6, ..TrainConfig::default() },
            loss_type: KtoLossType::Kto,
            beta: 0.1,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
            precompute_ref_log_probs: false,
            disable_dropout: true,
        }
    }
}

impl KtoConfig {
    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the first field that cannot work.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.train.validate()?;
        check(self.beta > 0.0 && self.beta.is_finite(), "beta", "give a number above 0")?;
        let weighs = |weight: f64| weight >= 0.0 && weight.is_finite();
        check(weighs(self.desirable_weight), "desirable_weight", "give 0 or more")?;
        check(weighs(self.undesirable_weight), "undesirable_weight", "give 0 or more")?;
        check(
            self.loss_type != KtoLossType::Kto
                || self.train.max_tokens_per_batch > 0
                || self.train.per_device_train_batch_size > 1,
            "per_device_train_batch_size",
            "give 2 or more for loss_type kto, whose KL estimate is a mean over the batch",
        )
    }

    /// The loss.
    pub fn loss(&self) -> KtoLoss {
        KtoLoss {
            loss_type: self.loss_type,
            beta: self.beta,
            desirable_weight: self.desirable_weight,
            undesirable_weight: self.undesirable_weight,
        }
    }
}
