//! `rectify score`: rewards for a file of answers.

use std::path::PathBuf;

use super::{CliError, ModelArgs, ProgressMode};

/// Options of `rectify score`.
#[derive(Clone, Debug, clap::Args)]
pub struct ScoreArgs {
    /// JSON lines with `messages`, `prompt` and `completion`, or `prompt`, `chosen` and `rejected`.
    #[arg(short, long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where the lines go with their rewards added, in the order of the input.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Print the summary as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Models.
    #[command(flatten)]
    pub model: ModelArgs,
}

pub(crate) fn run(_args: ScoreArgs, _progress: ProgressMode) -> Result<(), CliError> {
    Err(CliError::Refused("`rectify score` is not built yet".to_owned()))
}
