//! Settings of reward modelling.

use serde::{Deserialize, Serialize};

use super::TrainConfig;

/// Bradley–Terry reward modelling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardConfig {
    /// What every method shares.
    pub train: TrainConfig,
    /// Weight `c` of the centring term `c (r_w + r_l)²`; 0 for none.
    pub center_rewards_coefficient: f64,
    /// Accuracy on the hold-out below which training stops with an error; 0 never does.
    pub min_eval_accuracy: f64,
}

impl Default for RewardConfig {
    fn default() -> Self {
        let train = TrainConfig { learning_rate: 1e-4, eval_split: 0.1, ..TrainConfig::default() };
        Self { train, center_rewards_coefficient: 0.0, min_eval_accuracy: 0.6 }
    }
}
