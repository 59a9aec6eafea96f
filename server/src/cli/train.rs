//! `rectify train`: options and progress of training. Leaves training to `rectify_trainer`.

use std::path::PathBuf;

use super::{CliError, ProgressMode};

/// What to train.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum TrainCommand {
    /// Supervised fine-tuning on `messages`, `prompt`/`completion` or `text` lines.
    Sft(Box<TrainArgs>),
    /// A Bradley–Terry reward model on `chosen`/`rejected` pairs.
    Reward(Box<TrainArgs>),
}

/// Options of `rectify train`.
#[derive(Clone, Debug, clap::Args)]
pub struct TrainArgs {
    /// Training data, JSON lines.
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// The model to start from.
    #[arg(long, value_name = "DIR")]
    pub policy: PathBuf,
    /// Where the trained model, the log and the checkpoints go.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// A YAML file with TRL's key names; options given here override it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Go on from the last checkpoint in the output folder.
    #[arg(long)]
    pub resume: bool,
}

pub(crate) fn run(_command: TrainCommand, _progress: ProgressMode) -> Result<(), CliError> {
    Err(CliError::Refused("`rectify train` is not built yet".to_owned()))
}
