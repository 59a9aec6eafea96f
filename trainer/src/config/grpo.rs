//! Settings of group-relative policy optimisation, under TRL's names and with its defaults.

use serde::{Deserialize, Serialize};

use super::rollout::{Groups, online_train};
use super::{RolloutConfig, TrainConfig};
use crate::error::TrainError;
use crate::losses::{ClipRange, Grpo, GrpoLossType, ImportanceLevel, ImportanceMode, ScaleRewards};

/// Group-relative policy optimisation (arXiv:2402.03300).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrpoConfig {
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
    /// Weight of the divergence from the reference; 0 leaves the reference out.
    pub beta: f64,
    /// The ratio earns nothing below `1 − epsilon`.
    pub epsilon: f64,
    /// The ratio earns nothing above `1 + epsilon_high`; `None` for `epsilon`.
    pub epsilon_high: Option<f64>,
    /// Bound of the ratio for negative advantages; `None` for none.
    pub delta: Option<f64>,
    /// What a ratio is of.
    pub importance_sampling_level: ImportanceLevel,
    /// By what rewards are scaled.
    pub scale_rewards: ScaleRewards,
    /// How losses of tokens become one.
    pub loss_type: GrpoLossType,
    /// Completions that reached `max_completion_length` teach nothing.
    pub mask_truncated_completions: bool,
    /// The divergence is weighted by the ratio (arXiv:2512.02556).
    pub use_bias_correction_kl: bool,
    /// Weight of the mean entropy, which is rewarded.
    pub entropy_coef: f64,
    /// Weight completions by the ratio between the trainer's and the sampler's probabilities, which differ in rounding.
    pub vllm_importance_sampling_correction: bool,
    /// What that ratio is of, and what happens to ratios out of bounds.
    pub vllm_importance_sampling_mode: ImportanceMode,
    /// Its upper bound.
    pub vllm_importance_sampling_clip_max: Option<f64>,
    /// Its lower bound.
    pub vllm_importance_sampling_clip_min: Option<f64>,
    /// Stop and restore when the mean divergence of a completion from the reference exceeds this, in nats; 0 never does,
    /// and neither does a run without a reference.
    pub max_kl: f64,
}

impl Default for GrpoConfig {
    fn default() -> Self {
        Self {
            train: TrainConfig { learning_rate: 1e-6, ..online_train() },
            rollout: RolloutConfig::default(),
            num_generations: 8,
            steps_per_generation: 0,
            num_iterations: 1,
            beta: 0.0,
            epsilon: 0.2,
            epsilon_high: None,
            delta: None,
            importance_sampling_level: ImportanceLevel::Token,
            scale_rewards: ScaleRewards::Group,
            loss_type: GrpoLossType::Dapo,
            mask_truncated_completions: false,
            use_bias_correction_kl: true,
            entropy_coef: 0.0,
            vllm_importance_sampling_correction: true,
            vllm_importance_sampling_mode: ImportanceMode::SequenceMask,
            vllm_importance_sampling_clip_max: Some(3.0),
            vllm_importance_sampling_clip_min: None,
            max_kl: 0.0,
        }
    }
}

impl GrpoConfig {
    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the first field that cannot work.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.train.validate()?;
        self.rollout.validate(&self.train, true)?;
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

    pub(crate) fn loss(&self) -> Grpo {
        let high = self.epsilon_high.unwrap_or(self.epsilon);
        Grpo {
            clip: ClipRange { low: self.epsilon, high, delta: self.delta },
            importance: self.importance_sampling_level,
            beta: self.beta,
            unbiased_kl: self.use_bias_correction_kl,
        }
    }
}
