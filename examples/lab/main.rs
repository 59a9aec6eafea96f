//! The demo's recipe as a command. Run all of it: `cargo run --release -p rectify-examples --example lab -- all --out DIR`.
//!
//! Leaves the world and the oracle to the `rectify_lab` library, and training and sampling to the `rectify` binary,
//! which it calls as a user would.

use std::fs;
use std::io::{BufRead as _, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use rectify_lab::data::{prompts, sft_examples};
use rectify_lab::{Split, Task, judge, tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Parser)]
#[command(about = "Makes the demo policy and reward model from a seed")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes the SFT text, the prompts and the tokenizer.
    Data {
        /// Where to.
        #[arg(long)]
        out: PathBuf,
        /// Decides everything.
        #[arg(long, default_value_t = 7)]
        seed: u64,
        /// Examples of SFT text.
        #[arg(long, default_value_t = 60_000)]
        examples: usize,
        /// Tokens of the vocabulary.
        #[arg(long, default_value_t = 1024)]
        vocab: usize,
    },
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
        Command::Data { out, seed, examples, vocab } => data(&out, seed, examples, vocab),
        Command::Judge => judge_lines(),
    }
}

fn data(out: &Path, seed: u64, num: usize, vocab: usize) -> anyhow::Result<()> {
    fs::create_dir_all(out)?;
    let examples = sft_examples(num, seed);
    let messages = examples.iter().map(|e| {
        json!({"messages": [{"role": "user", "content": e.item.prompt}, {"role": "assistant", "content": e.answer}]})
    });
    write_lines(&out.join("sft.jsonl"), messages)?;
    let turns: Vec<&str> =
        examples.iter().flat_map(|e| [e.item.prompt.as_str(), e.answer.as_str()]).collect();
    let tokens = tokenizer::train(
        turns.into_iter().chain(["user", "assistant", "system"]),
        vocab,
        &out.join("tokenizer"),
    )?;
    write_lines(&out.join("eval.jsonl"), prompts(Split::HeldOut, 30, seed, "eval")?)?;
    write_lines(&out.join("preference_prompts.jsonl"), prompts(Split::Train, 60, seed, "preference")?)?;
    writeln!(std::io::stdout().lock(), "{num} examples, {tokens} tokens in the vocabulary")?;
    Ok(())
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

fn write_lines(path: &Path, lines: impl IntoIterator<Item = impl Serialize>) -> anyhow::Result<()> {
    let file = fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut out = BufWriter::new(file);
    for line in lines {
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")?;
    }
    out.flush().with_context(|| format!("cannot write {}", path.display()))
}
