//! Settings of supervised fine-tuning.

use serde::{Deserialize, Serialize};

use super::TrainConfig;

/// Supervised fine-tuning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftConfig {
    /// What every method shares.
    pub train: TrainConfig,
    /// Loss on the completion only. `None`: yes for `prompt`/`completion` lines, no for others, as TRL.
    pub completion_only_loss: Option<bool>,
    /// Loss on assistant turns only (and the token that ends them), for `messages` lines.
    pub assistant_only_loss: bool,
}
