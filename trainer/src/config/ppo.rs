//! Settings of proximal policy optimisation, under the names and with the defaults of TRL's `PPOConfig`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::rollout::online_train;
use super::{RolloutConfig, TrainConfig, check};
use crate::error::TrainError;
use crate::losses::{AdaptiveKl, ClipRange};

/// Proximal policy optimisation (arXiv:1707.06347, arXiv:2203.02155).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PpoConfig {
    /// What every method shares. A batch counts completions.
    pub train: TrainConfig,
    /// What online methods share.
    pub rollout: RolloutConfig,
    /// Passes over a rollout.
    pub num_ppo_epochs: usize,
    /// Optimiser steps of a pass.
    pub num_mini_batches: usize,
    /// Bring the rewards of tokens to variance 1.
    pub whiten_rewards: bool,
    /// Weight of the divergence from the reference, in the beginning.
    pub kl_coef: f64,
    /// Let that weight follow `target`.
    pub adap_kl_ctrl: bool,
    /// Divergence of a completion to keep to, in nats.
    pub target: f64,
    /// Completions over which the weight adapts.
    pub horizon: f64,
    /// The ratio earns nothing beyond `1 ± cliprange`.
    pub cliprange: f64,
    /// Weight of the value loss.
    pub vf_coef: f64,
    /// A value moves at most this much in a rollout's passes.
    pub cliprange_value: f64,
    /// Weight of the mean entropy, which is rewarded.
    pub ent_coef: f64,
    /// Discount of rewards.
    pub gamma: f64,
    /// Decay of advantages.
    pub lam: f64,
    /// Subtracted from the score of completions that were cut.
    pub missing_eos_penalty: f64,
    /// Weight of the language-modelling loss on `ptx_data` (PPO-ptx); 0 for none.
    pub ptx_coef: f64,
    /// Texts of that loss, in the shapes of supervised fine-tuning.
    pub ptx_data: Vec<PathBuf>,
    /// Stop and restore when the mean divergence of a completion from the reference exceeds this, in nats; 0 never does.
    pub max_kl: f64,
    /// Hold-out accuracy that a reward model must have reached, if its folder tells; 0 asks for none.
    pub min_reward_accuracy: f64,
}

impl Default for PpoConfig {
    fn default() -> Self {
        Self {
            train: TrainConfig { learning_rate: 3e-6, max_grad_norm: 0.5, ..online_train() },
            rollout: RolloutConfig::default(),
            num_ppo_epochs: 4,
            num_mini_batches: 1,
            whiten_rewards: false,
            kl_coef: 0.05,
            adap_kl_ctrl: true,
            target: 6.0,
            horizon: 10_000.0,
            cliprange: 0.2,
            vf_coef: 0.1,
            cliprange_value: 0.2,
            ent_coef: 0.0,
            gamma: 1.0,
            lam: 0.95,
            missing_eos_penalty: 0.0,
            ptx_coef: 0.0,
            ptx_data: Vec::new(),
            max_kl: 10.0,
            min_reward_accuracy: 0.65,
        }
    }
}

impl PpoConfig {
    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the first field that cannot work.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.train.validate()?;
        self.rollout.validate(&self.train, true)?;
        check(self.num_ppo_epochs > 0, "num_ppo_epochs", "give 1 or more")?;
        check(self.num_mini_batches > 0, "num_mini_batches", "give 1 or more")?;
        check(self.kl_coef >= 0.0, "kl_coef", "give 0 or more")?;
        check(self.target > 0.0, "target", "give a number above 0")?;
        check(self.horizon > 0.0, "horizon", "give a number above 0")?;
        check((0.0..1.0).contains(&self.cliprange), "cliprange", "give a number from 0 to below 1")?;
        check(self.cliprange_value >= 0.0, "cliprange_value", "give 0 or more")?;
        check((0.0..=1.0).contains(&self.gamma), "gamma", "give a number from 0 to 1")?;
        check((0.0..=1.0).contains(&self.lam), "lam", "give a number from 0 to 1")?;
        check(self.ptx_coef >= 0.0, "ptx_coef", "give 0 or more")?;
        check(self.max_kl >= 0.0, "max_kl", "give 0 (never) or more")?;
        check(
            (0.0..=1.0).contains(&self.min_reward_accuracy),
            "min_reward_accuracy",
            "give a share from 0 to 1",
        )
    }

    pub(crate) fn clip(&self) -> ClipRange {
        ClipRange::symmetric(self.cliprange)
    }

    pub(crate) fn kl(&self) -> AdaptiveKl {
        let target = self.adap_kl_ctrl.then_some(self.target);
        AdaptiveKl { coefficient: self.kl_coef, target, horizon: self.horizon }
    }
}
