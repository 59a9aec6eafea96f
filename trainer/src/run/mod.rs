//! Training runs: the loop, its log, checkpoints and output. Leaves losses to `losses`, examples to `data`.

pub mod progress;

use crate::config::{RewardConfig, SftConfig};
use crate::error::TrainError;
use progress::{Control, TrainReport};

/// Supervised fine-tuning: next-token cross-entropy on `messages`, `prompt`/`completion` or `text` lines.
///
/// # Errors
/// One sentence that names the setting, file or line; see [`TrainError`].
pub fn train_sft(config: &SftConfig, control: &mut Control<'_>) -> Result<TrainReport, TrainError> {
    config.train.validate()?;
    let _ = control;
    Err(TrainError::config("method", "sft is not there yet"))
}

/// Reward modelling on `prompt`/`chosen`/`rejected` lines.
///
/// # Errors
/// One sentence that names the setting, file or line; see [`TrainError`].
pub fn train_reward(config: &RewardConfig, control: &mut Control<'_>) -> Result<TrainReport, TrainError> {
    config.train.validate()?;
    let _ = control;
    Err(TrainError::config("method", "reward is not there yet"))
}
