//! Settings of contrastive preference optimisation and SimPO, under TRL's names.

use serde::{Deserialize, Serialize};

use super::{TrainConfig, check};
use crate::error::TrainError;
use crate::losses::{CpoLoss, CpoLossType};

/// Contrastive preference optimisation, with SimPO and AlphaPO as cases of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CpoConfig {
    /// What every method shares.
    pub train: TrainConfig,
    /// Which loss.
    pub loss_type: CpoConfigLossType,
    /// Strength `β`.
    pub beta: f64,
    /// Share of labels taken to be wrong, for `sigmoid` and `simpo`.
    pub label_smoothing: f64,
    /// Target margin `γ` of `simpo`.
    pub simpo_gamma: f64,
    /// Shape of AlphaPO's reward; 0 is the log-probability.
    pub alpha: f64,
    /// Weight of the chosen answers' likelihood; SimPO has none.
    pub cpo_alpha: f64,
    /// Adapters drop nothing.
    pub disable_dropout: bool,
}

/// TRL's `loss_type`: those of [`CpoLossType`], and a name for a set of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpoConfigLossType {
    /// [`CpoLossType::Sigmoid`].
    #[default]
    Sigmoid,
    /// [`CpoLossType::Hinge`].
    Hinge,
    /// [`CpoLossType::Ipo`].
    Ipo,
    /// [`CpoLossType::Simpo`].
    Simpo,
    /// `simpo` without likelihood, whatever `cpo_alpha` says.
    Alphapo,
}

impl Default for CpoConfig {
    fn default() -> Self {
        Self {
            train: TrainConfig { learning_rate: 1e-6, ..TrainConfig::default() },
            loss_type: CpoConfigLossType::Sigmoid,
            beta: 0.1,
            label_smoothing: 0.0,
            simpo_gamma: 0.5,
            alpha: 0.0,
            cpo_alpha: 1.0,
            disable_dropout: true,
        }
    }
}

impl CpoConfig {
    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the first field that cannot work.
    pub fn validate(&self) -> Result<(), TrainError> {
        use CpoConfigLossType::{Hinge, Ipo};
        self.train.validate()?;
        check(self.beta > 0.0 && self.beta.is_finite(), "beta", "give a number above 0")?;
        let smoothing = self.label_smoothing;
        check((0.0..1.0).contains(&smoothing), "label_smoothing", "give a share from 0 to below 1")?;
        let smooths = !matches!(self.loss_type, Hinge | Ipo);
        check(smoothing == 0.0 || smooths, "label_smoothing", "hinge and ipo do not use it: leave it at 0")?;
        check(self.simpo_gamma.is_finite(), "simpo_gamma", "give a finite number")?;
        check(self.alpha.is_finite(), "alpha", "give a finite number")?;
        check(self.cpo_alpha >= 0.0 && self.cpo_alpha.is_finite(), "cpo_alpha", "give 0 or more")
    }

    /// The loss.
    pub fn loss(&self) -> CpoLoss {
        let (loss_type, cpo_alpha) = match self.loss_type {
            CpoConfigLossType::Sigmoid => (CpoLossType::Sigmoid, self.cpo_alpha),
            CpoConfigLossType::Hinge => (CpoLossType::Hinge, self.cpo_alpha),
            CpoConfigLossType::Ipo => (CpoLossType::Ipo, self.cpo_alpha),
            CpoConfigLossType::Simpo => (CpoLossType::Simpo, self.cpo_alpha),
            CpoConfigLossType::Alphapo => (CpoLossType::Simpo, 0.0),
        };
        CpoLoss {
            loss_type,
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            simpo_gamma: self.simpo_gamma,
            alpha: self.alpha,
            cpo_alpha,
        }
    }
}
