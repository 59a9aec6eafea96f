//! Settings of direct preference optimisation, under TRL's names.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{TrainConfig, check};
use crate::error::TrainError;
use crate::losses::{DpoLoss, DpoLossType, FDivergence};

/// Direct preference optimisation and its family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DpoConfig {
    /// What every method shares.
    pub train: TrainConfig,
    /// Losses, added up.
    #[serde(deserialize_with = "one_or_many")]
    pub loss_type: Vec<DpoLossType>,
    /// Weight of each of `loss_type`; `None` is 1 for all.
    pub loss_weights: Option<Vec<f64>>,
    /// Strength `β`: the higher, the nearer to the reference.
    pub beta: f64,
    /// Share of labels taken to be wrong, for `cdpo`, `exo_pair`, `robust`, `aot` and `aot_unpaired`.
    pub label_smoothing: f64,
    /// What keeps the policy near the reference.
    pub f_divergence_type: FDivergenceType,
    /// `α` of `alpha_divergence`.
    pub f_alpha_divergence_coef: f64,
    /// Temperature of `discopop`.
    pub discopop_tau: f64,
    /// Weight of the longer answer's tokens beyond the shorter one's length (LD-DPO); `None` is 1.
    pub ld_alpha: Option<f64>,
    /// Weigh pairs by how likely the policy is to write them (WPO).
    pub use_weighting: bool,
    /// Take the reference to find every answer equally likely.
    pub reference_free: bool,
    /// Ask the reference before the first step also where it stays at hand.
    pub precompute_ref_log_probs: bool,
    /// Adapters drop nothing.
    pub disable_dropout: bool,
}

/// Names of the divergences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FDivergenceType {
    /// DPO itself.
    #[default]
    ReverseKl,
    /// Covers all that the reference does.
    ForwardKl,
    /// Between both.
    JsDivergence,
    /// By `f_alpha_divergence_coef`.
    AlphaDivergence,
}

/// A single name is a list of one.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<DpoLossType>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let values = if value.is_string() { Value::Array(vec![value]) } else { value };
    serde_json::from_value(values).map_err(D::Error::custom)
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self {
            train: TrainConfig { learning_rate: 1e-6, ..TrainConfig::default() },
            loss_type: vec![DpoLossType::Sigmoid],
            loss_weights: None,
            beta: 0.1,
            label_smoothing: 0.0,
            f_divergence_type: FDivergenceType::ReverseKl,
            f_alpha_divergence_coef: 0.5,
            discopop_tau: 0.05,
            ld_alpha: None,
            use_weighting: false,
            reference_free: false,
            precompute_ref_log_probs: false,
            disable_dropout: true,
        }
    }
}

impl DpoConfig {
    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the first field that cannot work.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.train.validate()?;
        let (types, smoothing) = (&self.loss_type, self.label_smoothing);
        let has = |loss_type| types.contains(&loss_type);
        check(!types.is_empty(), "loss_type", "name at least one, such as sigmoid")?;
        let weights = self.loss_weights.as_deref().unwrap_or_default();
        let fits = self.loss_weights.is_none() || weights.len() == types.len();
        check(fits, "loss_weights", "give one number for each loss_type")?;
        check(weights.iter().all(|weight| weight.is_finite()), "loss_weights", "give finite numbers")?;
        check(self.beta > 0.0 && self.beta.is_finite(), "beta", "give a number above 0")?;
        check((0.0..1.0).contains(&smoothing), "label_smoothing", "give a share from 0 to below 1")?;
        check(
            !has(DpoLossType::Robust) || smoothing < 0.5,
            "label_smoothing",
            "give a share below 0.5 for robust: that of flipped labels",
        )?;
        check(
            !has(DpoLossType::ExoPair) || smoothing > 0.0,
            "label_smoothing",
            "give a share above 0 for exo_pair, such as 1e-3",
        )?;
        check(
            smoothing == 0.0 || types.iter().any(|loss_type| loss_type.smooths_labels()),
            "label_smoothing",
            "loss_type has none that uses it: name cdpo, exo_pair, robust, aot or aot_unpaired, or leave it at 0",
        )?;
        check(
            self.f_divergence_type == FDivergenceType::ReverseKl
                || types.iter().all(|loss_type| loss_type.takes_divergences()),
            "f_divergence_type",
            "nca_pair, bco_pair, sppo_hard, aot, aot_unpaired, apo_zero and apo_down know reverse_kl only",
        )?;
        check(self.discopop_tau > 0.0, "discopop_tau", "give a number above 0")?;
        let ld_alpha = self.ld_alpha.unwrap_or(1.0);
        check((0.0..=1.0).contains(&ld_alpha), "ld_alpha", "give a number from 0 to 1")?;
        check(
            !self.use_weighting
                || !(has(DpoLossType::Sft) || has(DpoLossType::Aot) || has(DpoLossType::AotUnpaired)),
            "use_weighting",
            "sft, aot and aot_unpaired compare no pairs that could be weighed: leave one of both",
        )
    }

    /// The loss.
    pub fn loss(&self) -> DpoLoss {
        let weights = self.loss_weights.clone().unwrap_or_else(|| vec![1.0; self.loss_type.len()]);
        DpoLoss {
            terms: self.loss_type.iter().copied().zip(weights).collect(),
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            discopop_tau: self.discopop_tau,
            divergence: match self.f_divergence_type {
                FDivergenceType::ReverseKl => FDivergence::ReverseKl,
                FDivergenceType::ForwardKl => FDivergence::ForwardKl,
                FDivergenceType::JsDivergence => FDivergence::JsDivergence,
                FDivergenceType::AlphaDivergence => FDivergence::Alpha(self.f_alpha_divergence_coef),
            },
            ld_alpha: self.ld_alpha,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut DpoConfig)) -> String {
        let mut config = DpoConfig::default();
        config.train.data = vec!["a".into()];
        config.train.output_dir = "b".into();
        config.validate().unwrap();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_work_is_named() {
        use DpoLossType::*;
        for (refusal, part) in [
            (refusal(|config| config.loss_type.clear()), "loss_type: name at least one"),
            (refusal(|config| config.loss_weights = Some(vec![1.0, 2.0])), "loss_weights: give one"),
            (refusal(|config| config.beta = 0.0), "beta: give"),
            (refusal(|config| config.loss_type = vec![ExoPair]), "above 0 for exo_pair"),
            (refusal(|config| config.label_smoothing = 0.1), "none that uses it"),
            (
                refusal(|config| {
                    config.loss_type = vec![Robust];
                    config.label_smoothing = 0.5;
                }),
                "below 0.5 for robust",
            ),
            (
                refusal(|config| {
                    config.loss_type = vec![Sigmoid, Aot];
                    config.f_divergence_type = FDivergenceType::ForwardKl;
                }),
                "f_divergence_type: nca_pair",
            ),
            (refusal(|config| config.ld_alpha = Some(1.5)), "ld_alpha: give"),
        ] {
            assert!(refusal.contains(part), "{refusal}");
        }
    }
}
