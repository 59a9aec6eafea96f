//! Training runs: the loop, its log, checkpoints and output. Leaves losses to `losses`, examples to `data`.

mod best;
pub(crate) mod card;
mod checkpoint;
mod cpo;
mod dpo;
mod events;
pub(crate) mod files;
mod init;
mod kto;
mod log;
mod logprobs;
mod method;
mod model;
mod offline;
#[cfg(test)]
mod offline_tests;
mod online;
mod orpo;
mod output;
mod pairs;
mod parts;
mod preview;
pub mod progress;
mod reference;
mod reward;
mod rrhf;
mod running;
mod sft;
mod steps;
#[cfg(test)]
mod tests;
mod trainer;

use crate::config::{
    GrpoConfig, OnlineDpoConfig, PpoConfig, RaftConfig, RewardConfig, RlooConfig, RolloutConfig, SftConfig,
    SpinConfig, TrainConfig,
};
use crate::data::{read_answered, read_prompts};
use crate::error::TrainError;
use crate::rewards;
pub use cpo::train_cpo;
pub use dpo::train_dpo;
pub use kto::train_kto;
use model::Model;
use online::{Learner, Online, OnlineMethod};
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

/// Group-relative policy optimisation on prompts: completions are sampled by the serving engine and judged as
/// `config.rollout.reward` says.
///
/// # Errors
/// One sentence that names the setting, file or line; see [`TrainError`].
pub fn train_grpo(config: &GrpoConfig, control: &mut Control<'_>) -> Result<TrainReport, TrainError> {
    config.validate()?;
    let run = OnlineRun { name: "grpo", train: &config.train, rollout: &config.rollout, read: read_prompts };
    run.run(config, |_| Ok(online::Grpo::new(config)), control)
}

/// REINFORCE with a leave-one-out baseline on prompts, sampled and judged as for [`train_grpo`].
///
/// # Errors
/// One sentence that names the setting, file or line; see [`TrainError`].
pub fn train_rloo(config: &RlooConfig, control: &mut Control<'_>) -> Result<TrainReport, TrainError> {
    config.validate()?;
    let run = OnlineRun { name: "rloo", train: &config.train, rollout: &config.rollout, read: read_prompts };
    run.run(config, |_| Ok(online::Rloo::new(config)), control)
}

/// Proximal policy optimisation on prompts, sampled and judged as for [`train_grpo`]. Reward models that say they were
/// right on less than `min_reward_accuracy` of their hold-out are refused.
///
/// # Errors
/// One sentence that names the setting, file or line; see [`TrainError`].
pub fn train_ppo(config: &PpoConfig, control: &mut Control<'_>) -> Result<TrainReport, TrainError> {
    config.validate()?;
    let silent = rewards::accuracy::check(&config.rollout.reward, config.min_reward_accuracy)?;
    if config.min_reward_accuracy > 0.0 {
        for folder in silent {
            let warning = format!("{folder} does not say how well its reward model did on held-out pairs");
            (control.progress)(&Progress::Warning(warning));
        }
    }
    let run = OnlineRun { name: "ppo", train: &config.train, rollout: &config.rollout, read: read_prompts };
    run.run(config, |model| online::Ppo::load(config, model), control)
}

/// Online direct preference optimisation on prompts, sampled and judged as for [`train_grpo`].
///
/// # Errors
/// One sentence that names the setting, file or line; see [`TrainError`].
pub fn train_online_dpo(
    config: &OnlineDpoConfig,
    control: &mut Control<'_>,
) -> Result<TrainReport, TrainError> {
    config.validate()?;
    let run =
        OnlineRun { name: "online-dpo", train: &config.train, rollout: &config.rollout, read: read_prompts };
    let pairing = online::Pairing::Judged(config.clone());
    run.run(config, |_| Ok(online::Pairs::new(pairing)), control)
}

/// Self-play fine-tuning on demonstrations: `prompt`/`completion` lines, or `messages` that end with an answer.
///
/// # Errors
/// One sentence that names the setting, file or line; see [`TrainError`].
pub fn train_spin(config: &SpinConfig, control: &mut Control<'_>) -> Result<TrainReport, TrainError> {
    config.validate()?;
    let run = OnlineRun { name: "spin", train: &config.train, rollout: &config.rollout, read: read_answered };
    let pairing = online::Pairing::SelfPlay(config.clone());
    run.run(config, |_| Ok(online::Pairs::new(pairing)), control)
}

/// Rejection-sampling fine-tuning on prompts, sampled and judged as for [`train_grpo`].
///
/// # Errors
/// One sentence that names the setting, file or line; see [`TrainError`].
pub fn train_raft(config: &RaftConfig, control: &mut Control<'_>) -> Result<TrainReport, TrainError> {
    config.validate()?;
    let run = OnlineRun { name: "raft", train: &config.train, rollout: &config.rollout, read: read_prompts };
    run.run(config, |_| Ok(online::Raft::new(config)), control)
}

/// What the runs of all online methods have in common.
struct OnlineRun<'a> {
    name: &'static str,
    train: &'a TrainConfig,
    rollout: &'a RolloutConfig,
    read: online::ReadPrompts,
}

impl OnlineRun<'_> {
    fn run<L: Learner>(
        &self,
        config: &impl serde::Serialize,
        learner: impl FnOnce(&mut Model) -> Result<L, TrainError>,
        control: &mut Control<'_>,
    ) -> Result<TrainReport, TrainError> {
        let mut model = online::load_model(self.train, self.rollout)?;
        let learner = learner(&mut model)?;
        let at_once = |num_prompts| online::completions_at_once(&learner, self.train, num_prompts);
        let online = Online::load(self.train, self.rollout, &model, self.read, at_once)?;
        warn_left_out(online.num_left_out, control);
        let method = OnlineMethod::new(self.train, online, learner)?;
        Trainer { name: self.name, settings: self.train, method, model }.run(json(config)?, control)
    }
}

fn warn_left_out(count: usize, control: &mut Control<'_>) {
    if count > 0 {
        let warning = format!("{count} prompts are longer than max_length or the context and are left out");
        (control.progress)(&Progress::Warning(warning));
    }
}

fn json(config: &impl serde::Serialize) -> Result<serde_json::Value, TrainError> {
    serde_json::to_value(config).map_err(|error| TrainError::config("config", error.to_string()))
}
