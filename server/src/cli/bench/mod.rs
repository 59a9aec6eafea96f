//! `rectify bench`: speed of the engine alone and of a running server.

mod apart;
mod generate;
mod limit;
mod load;
mod overhead;
mod processor;
mod serving;
mod stats;
mod traffic;
mod votes;

use std::io::Write;

pub use generate::BenchGenerateArgs;
pub use load::{BenchLoadArgs, LoadPart};
pub use overhead::BenchOverheadArgs;
pub use serving::BenchServingArgs;
pub use votes::BenchVotesArgs;

use super::{CliError, ProgressMode};

/// What to measure.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum BenchCommand {
    /// The engine in this process: one random prompt, N candidates, against the machine's limit.
    Generate(Box<BenchGenerateArgs>),
    /// A policy from its files into memory, beside reading the files once.
    Load(Box<BenchLoadArgs>),
    /// What the HTTP server costs: the same streams with and without it, in turns.
    Overhead(Box<BenchOverheadArgs>),
    /// A running server, or the engine without one, under ragged traffic with Poisson arrivals.
    Serving(Box<BenchServingArgs>),
    /// Votes at a steady rate beside live streams of a running server.
    Votes(BenchVotesArgs),
}

pub(crate) fn run(command: BenchCommand, progress: ProgressMode) -> Result<(), CliError> {
    match command {
        BenchCommand::Generate(args) => generate::run(&args, progress),
        BenchCommand::Load(args) => load::run(&args, progress),
        BenchCommand::Overhead(args) => overhead::run(&args, progress),
        BenchCommand::Serving(args) => serving::run(&args, progress),
        BenchCommand::Votes(args) => votes::run(&args, progress),
    }
}

/// Prints to standard output.
fn print(text: &str) -> Result<(), CliError> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(|error| CliError::stdout(&error))
}
