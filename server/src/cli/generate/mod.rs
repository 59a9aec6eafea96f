//! `rectify generate`: best-of-N over a file of prompts.

mod output;
mod pipeline;

use std::path::PathBuf;
use std::str::FromStr;

use super::{CliError, ModelArgs, ProgressMode};

/// Options of `rectify generate`.
#[derive(Clone, Debug, clap::Args)]
pub struct GenerateArgs {
    /// Prompts: JSON lines with `prompt` or `messages`.
    #[arg(short, long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where the answers go, one line per prompt, in the order of the prompts.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Candidates per prompt.
    #[arg(short, long, default_value_t = 16, value_parser = super::args::positive, value_name = "N")]
    pub n: usize,
    /// What to write of the candidates.
    #[arg(long, value_enum, default_value_t)]
    pub keep: Keep,
    /// Do one of K consecutive parts of the prompts, from 0 on, so that K machines share the file.
    #[arg(long, value_name = "I/K")]
    pub shard: Option<Shard>,
    /// Go on where an earlier run of the same command stopped.
    #[arg(long)]
    pub resume: bool,
    /// Models.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// What is written for each prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Keep {
    /// The conversation with the best answer: `messages`, ready for SFT.
    #[default]
    Best,
    /// The best and the worst answer: `prompt`, `chosen`, `rejected`, with their rewards.
    Pairs,
    /// Every candidate with its reward, logprob, tokens and finish reason.
    All,
}

/// One of `of` equal parts of a file, written `I/K` with `I` from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which part, below `of`.
    pub index: u64,
    /// How many parts.
    pub of: u64,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(i, k)| Some((i.parse().ok()?, k.parse().ok()?)));
        match parts {
            Some((index, of)) if index < of => Ok(Self { index, of }),
            _ => Err("write I/K with I below K, such as 0/4 for the first of four".to_owned()),
        }
    }
}

pub(crate) fn run(_args: GenerateArgs, _progress: ProgressMode) -> Result<(), CliError> {
    Err(CliError::Refused("`rectify generate` is not built yet".to_owned()))
}
