//! `rectify bench`: speed of the engine alone and of a running server.

mod serving;
mod stats;

use std::io::Write;

pub use serving::BenchServingArgs;

use super::{CliError, ModelArgs, ProgressMode};

/// What to measure.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum BenchCommand {
    /// The engine in this process: one random prompt, N candidates, against the machine's limit.
    Generate(Box<BenchGenerateArgs>),
    /// A running server under ragged traffic with Poisson arrivals.
    Serving(BenchServingArgs),
}

/// Options of `rectify bench generate`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchGenerateArgs {
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 256, value_parser = super::args::positive, value_name = "TOKENS")]
    pub prompt_len: usize,
    /// Tokens generated per candidate, end-of-text ignored.
    #[arg(long, default_value_t = 128, value_parser = super::args::positive, value_name = "TOKENS")]
    pub gen_len: usize,
    /// Candidates.
    #[arg(short, long, default_value_t = 16, value_parser = super::args::positive, value_name = "N")]
    pub n: usize,
    /// Runs; the median is reported.
    #[arg(long, default_value_t = 3, value_parser = super::args::positive)]
    pub repeats: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Models.
    #[command(flatten)]
    pub model: ModelArgs,
}

pub(crate) fn run(command: BenchCommand, progress: ProgressMode) -> Result<(), CliError> {
    match command {
        BenchCommand::Generate(_) => {
            Err(CliError::Refused("`rectify bench generate` is not built yet".to_owned()))
        }
        BenchCommand::Serving(args) => serving::run(&args, progress),
    }
}

/// Prints to standard output.
fn print(text: &str) -> Result<(), CliError> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(|error| CliError::stdout(&error))
}
