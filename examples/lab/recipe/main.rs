//! The demo's recipe as a command. All of it: `cargo run --release -p rectify-examples --example lab -- all --out DIR`.
//!
//! Leaves the world and the oracle to the `rectify_lab` library, and training and sampling to the `rectify` binary,
//! which it calls as a user would.

mod blocks;
mod comparison;
mod curve;
mod evaluate;
mod files;
mod methods;
mod policy;
mod report;
mod stages;
mod suite;

use std::io::{BufRead as _, BufReader, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use curve::Curve;
use methods::Comparison;
use rectify_lab::{Task, judge};
use serde::Deserialize;
use serde_json::json;
use stages::{Recipe, Stage};
use suite::SuiteArgs;

#[derive(Parser)]
#[command(about = "Makes the demo policy and reward model from a seed")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the whole recipe, or the rest of it.
    All {
        /// Settings.
        #[command(flatten)]
        recipe: Recipe,
        /// Go on from this stage with what is in the folder.
        #[arg(long, value_enum, default_value_t)]
        from: Stage,
        /// Copies the result here, if given: `assets/demo`.
        #[arg(long, value_name = "DIR")]
        install: Option<PathBuf>,
    },
    /// Writes only the SFT text, the prompts and the tokenizer.
    Data {
        /// Settings.
        #[command(flatten)]
        recipe: Recipe,
    },
    /// Trains the policy by several methods, on what `all` made in the folder, and compares what became of it.
    Methods(Comparison),
    /// Runs every strategy on held-out prompts and plots mean reward against tokens spent.
    Curve(Curve),
    /// Writes the suite of checks that candidates of the demo must pass.
    Suite(SuiteArgs),
    /// Judges lines of `{"task", "prompt", "answer"}` from standard input.
    Judge,
}

#[derive(Deserialize)]
struct Judged {
    task: Task,
    prompt: String,
    answer: String,
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::All { recipe, from, install } => {
            recipe.run(from)?;
            install.map_or(Ok(()), |target| recipe.install(&target))
        }
        Command::Data { recipe } => recipe.run_one(Stage::Data),
        Command::Methods(comparison) => comparison.run(),
        Command::Curve(curve) => curve.run(),
        Command::Suite(suite) => suite.run(),
        Command::Judge => judge_lines(),
    }
}

fn judge_lines() -> anyhow::Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    for line in BufReader::new(std::io::stdin().lock()).lines() {
        let judged: Judged = serde_json::from_str(&line?)?;
        let verdict = judge(&judged.task, &judged.prompt, &judged.answer);
        let reasons: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
        writeln!(out, "{}", json!({"good": verdict.good, "reasons": reasons}))?;
    }
    out.flush().context("standard output is closed")
}
