//! Training runs: the loop, its log, checkpoints and output. Leaves losses to `losses`, examples to `data`.

mod checkpoint;
mod cpo;
mod dpo;
mod files;
mod kto;
mod log;
mod logprobs;
mod method;
mod model;
mod offline;
#[cfg(test)]
mod offline_tests;
mod orpo;
mod output;
mod pairs;
pub mod progress;
mod reference;
mod reward;
mod rrhf;
mod sft;
#[cfg(test)]
mod tests;
mod trainer;

use crate::config::{RewardConfig, SftConfig};
use crate::error::TrainError;
pub use cpo::train_cpo;
pub use dpo::train_dpo;
pub use kto::train_kto;
use model::Model;
pub use orpo::train_orpo;
use progress::{Control, Progress, TrainReport};
use reward::Reward;
pub use rrhf::train_rrhf;
use sft::Sft;
use trainer::Trainer;

/// Supervised fine-tuning: next-token cross-entropy on `messages`, `prompt`/`completion` or `text` lines.
///
/// # Errors
/// One sentence that names the setting, file or line; see [`TrainError`].
pub fn train_sft(config: &SftConfig, control: &mut Control<'_>) -> Result<TrainReport, TrainError> {
    config.train.validate()?;
    let model = Model::load(&config.train, false)?;
    let method = Sft::load(config, &model)?;
    let mut warn = |count: usize, sentence: &str| {
        if count > 0 {
            (control.progress)(&Progress::Warning(format!("{count} {sentence}")));
        }
    };
    warn(method.notes.num_empty, "lines have nothing to learn within max_length and are left out");
    warn(
        method.notes.num_changed,
        "prompts end in other tokens once their completion follows: end them on a token's border, or use a template \
         that writes them alike in both cases",
    );
    Trainer { name: "sft", settings: &config.train, method, model }.run(json(config)?, control)
}

/// Reward modelling on `prompt`/`chosen`/`rejected` lines.
///
/// # Errors
/// One sentence that names the setting, file or line; see [`TrainError`].
pub fn train_reward(config: &RewardConfig, control: &mut Control<'_>) -> Result<TrainReport, TrainError> {
    config.train.validate()?;
    let model = Model::load(&config.train, true)?;
    let method = Reward::load(config, &model)?;
    if method.num_left_out > 0 {
        let count = method.num_left_out;
        let warning =
            format!("{count} pairs are longer than max_length or of twice the same answer and are left out");
        (control.progress)(&Progress::Warning(warning));
    }
    Trainer { name: "reward", settings: &config.train, method, model }.run(json(config)?, control)
}

fn json(config: &impl serde::Serialize) -> Result<serde_json::Value, TrainError> {
    serde_json::to_value(config).map_err(|error| TrainError::config("config", error.to_string()))
}
