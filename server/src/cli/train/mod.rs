//! `rectify train`: runs a method, draws its progress, saves on Ctrl-C. Each method is a line of [`TrainCommand`], a line
//! of `run` and a file of its keys. Leaves settings to `settings` and training to `rectify_trainer`.

mod args;
mod cpo;
mod dpo;
mod examples;
mod grpo;
mod keys;
mod kto;
mod metrics;
mod online_dpo;
mod orpo;
mod ppo;
mod raft;
mod reward;
mod rloo;
mod rollout;
mod rrhf;
mod settings;
mod sft;
mod spin;
mod view;

use std::io::Write;
use std::sync::atomic::AtomicBool;

use rectify_trainer::{Control, TrainError, TrainReport};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use args::{AdapterKeys, BatchKeys, OptimizerKeys, OutputKeys, TrainArgs};
pub use cpo::CpoKeys;
pub use dpo::DpoKeys;
pub use grpo::GrpoKeys;
pub use keys::{Keys, MethodArgs};
pub use kto::KtoKeys;
pub use online_dpo::OnlineDpoKeys;
pub use orpo::OrpoKeys;
pub use ppo::PpoKeys;
pub use raft::RaftKeys;
pub use reward::RewardKeys;
pub use rloo::RlooKeys;
pub use rollout::OnlineKeys;
pub use rrhf::RrhfKeys;
pub use sft::SftKeys;
pub use spin::SpinKeys;

use super::{CliError, ProgressMode, interrupt};
pub(crate) use metrics::RunMetrics;
pub(crate) use settings::section;
use view::{View, short};

/// What to train.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum TrainCommand {
    /// Supervised fine-tuning on `messages`, `prompt`/`completion` or `text` lines.
    Sft(Box<MethodArgs<SftKeys>>),
    /// A Bradley–Terry reward model on `prompt`/`chosen`/`rejected` lines.
    Reward(Box<MethodArgs<RewardKeys>>),
    /// Group-relative policy optimisation on prompts, with rewards for the policy's own completions.
    Grpo(Box<MethodArgs<OnlineKeys<GrpoKeys>>>),
    /// Proximal policy optimisation on prompts, with a critic on the policy's trunk and an adaptive divergence.
    Ppo(Box<MethodArgs<OnlineKeys<PpoKeys>>>),
    /// REINFORCE with a leave-one-out baseline on prompts.
    Rloo(Box<MethodArgs<OnlineKeys<RlooKeys>>>),
    /// Direct preference optimisation on the best and the worst of the policy's own completions.
    OnlineDpo(Box<MethodArgs<OnlineKeys<OnlineDpoKeys>>>),
    /// Self-play on demonstrations: their answers over the policy's own.
    Spin(Box<MethodArgs<OnlineKeys<SpinKeys>>>),
    /// Rejection-sampling fine-tuning: supervised fine-tuning on the best of the policy's own completions.
    Raft(Box<MethodArgs<OnlineKeys<RaftKeys>>>),
    /// Direct preference optimisation and its family (IPO, cDPO, APO, …) on `prompt`/`chosen`/`rejected` lines.
    Dpo(Box<MethodArgs<DpoKeys>>),
    /// Kahneman–Tversky optimisation on thumbs: `prompt`/`completion`/`label` lines, or pairs taken apart.
    Kto(Box<MethodArgs<KtoKeys>>),
    /// Odds-ratio preference optimisation, without a reference, on `prompt`/`chosen`/`rejected` lines.
    Orpo(Box<MethodArgs<OrpoKeys>>),
    /// Contrastive preference optimisation or SimPO, without a reference, on `prompt`/`chosen`/`rejected` lines.
    Cpo(Box<MethodArgs<CpoKeys>>),
    /// RRHF: ranks the answers of `generate --keep all`, of `responses` with `scores`, or of pairs.
    Rrhf(Box<MethodArgs<RrhfKeys>>),
}

pub(crate) fn run(command: TrainCommand, mode: ProgressMode) -> Result<(), CliError> {
    let stop = interrupt::flag()?;
    let run = Run { mode, stop: &stop };
    match command {
        TrainCommand::Sft(args) => run.method(&args, rectify_trainer::train_sft),
        TrainCommand::Reward(args) => run.method(&args, rectify_trainer::train_reward),
        TrainCommand::Grpo(args) => run.method(&args, rectify_trainer::train_grpo),
        TrainCommand::Ppo(args) => run.method(&args, rectify_trainer::train_ppo),
        TrainCommand::Rloo(args) => run.method(&args, rectify_trainer::train_rloo),
        TrainCommand::OnlineDpo(args) => run.method(&args, rectify_trainer::train_online_dpo),
        TrainCommand::Spin(args) => run.method(&args, rectify_trainer::train_spin),
        TrainCommand::Raft(args) => run.method(&args, rectify_trainer::train_raft),
        TrainCommand::Dpo(args) => run.method(&args, rectify_trainer::train_dpo),
        TrainCommand::Kto(args) => run.method(&args, rectify_trainer::train_kto),
        TrainCommand::Orpo(args) => run.method(&args, rectify_trainer::train_orpo),
        TrainCommand::Cpo(args) => run.method(&args, rectify_trainer::train_cpo),
        TrainCommand::Rrhf(args) => run.method(&args, rectify_trainer::train_rrhf),
    }
}

/// How a run is shown and stopped.
struct Run<'a> {
    mode: ProgressMode,
    stop: &'a AtomicBool,
}

impl Run<'_> {
    /// Reads the settings `C` of a method, trains, says how it ended.
    fn method<C, K>(
        &self,
        args: &MethodArgs<K>,
        train: impl FnOnce(&C, &mut Control<'_>) -> Result<TrainReport, TrainError>,
    ) -> Result<(), CliError>
    where
        C: Default + Serialize + DeserializeOwned,
        K: Keys,
    {
        let config = settings::read(args, self.mode)?;
        let mut metrics = args.shared.metrics_port.map(RunMetrics::serve).transpose()?;
        let mut view = View::new(self.mode);
        let mut progress = |event: &_| {
            view.show(event);
            if let Some(metrics) = &mut metrics {
                metrics.record(event);
            }
        };
        let outcome = train(&config, &mut Control { progress: &mut progress, stop: self.stop });
        view.close();
        let report = outcome.map_err(train_error)?;
        if view.was_dry {
            return Ok(());
        }
        if args.shared.json {
            print_json(&report)?;
        }
        conclude(&report, view.total_steps)
    }
}

/// The last words, and 130 if the run was stopped.
fn conclude(report: &TrainReport, total_steps: usize) -> Result<(), CliError> {
    let (steps, output) = (report.steps, report.output_dir.display());
    if report.stopped {
        return Err(CliError::Interrupted(format!(
            "step {steps} of {total_steps} is saved in {output}, and the same command with --resume goes on from it"
        )));
    }
    let metrics = report.metrics.iter().filter(|(name, _)| *name != "step");
    let metrics: String = metrics.map(|(name, value)| format!(", {name} {}", short(value))).collect();
    let speed = report.tokens_per_second;
    // A closed standard error is no failure of the training.
    let _ = writeln!(
        std::io::stderr().lock(),
        "{steps} steps at {speed:.0} tokens/s{metrics}; saved in {output}"
    );
    Ok(())
}

fn print_json(report: &TrainReport) -> Result<(), CliError> {
    let line = serde_json::to_string(report).map_err(|error| CliError::Refused(error.to_string()))?;
    writeln!(std::io::stdout().lock(), "{line}").map_err(|error| CliError::stdout(&error))
}

fn train_error(error: TrainError) -> CliError {
    match error {
        TrainError::NotFinite { .. }
        | TrainError::RewardAccuracy { .. }
        | TrainError::Diverged { .. }
        | TrainError::Restored { .. }
        | TrainError::Reward { .. } => CliError::Refused(error.to_string()),
        TrainError::Engine(error) => CliError::Engine(error),
        other => CliError::Usage(other.to_string()),
    }
}
