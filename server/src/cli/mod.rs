//! The command line: the tree of commands and what they share. Leaves each command to its file, and serving to
//! the HTTP side of this crate.

mod adapters;
mod args;
mod bench;
mod candidates;
mod card;
mod chat;
mod client;
mod config;
mod error;
mod eval;
mod feedback;
mod generate;
mod interrupt;
mod local;
mod progress;
mod random;
mod sampling;
mod score;
mod serve;
mod shadow;
pub mod train;

use clap::{Parser, Subcommand};

pub use adapters::{AdaptersArgs, AdaptersCommand};
pub use args::{ByteSize, Dtype, ModelArgs, NamedDir, Quantization};
pub use bench::{
    BenchCommand, BenchGenerateArgs, BenchLoadArgs, BenchOverheadArgs, BenchServingArgs, BenchVotesArgs,
    LoadPart,
};
pub use card::CardArgs;
pub(crate) use card::statement;
pub use chat::ChatArgs;
pub use config::{ConfigArgs, ConfigCommand};
pub use error::{CliError, usage_sentence};
pub use eval::EvalArgs;
pub use feedback::{ExportFormat, FeedbackArgs, FeedbackCommand};
use generate::widen;
pub use generate::{GenerateArgs, Keep, Shard};
pub use progress::ProgressMode;
pub use sampling::SamplingArgs;
pub use score::ScoreArgs;
pub use serve::ServeArgs;
pub use shadow::ShadowArgs;
pub use train::TrainCommand;

/// Inference-time alignment: sample N candidates, score them with a reward model in the same process, return the best.
#[derive(Clone, Debug, Parser)]
#[command(name = "rectify", version, disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    /// Show a progress bar: on terminals, always, or never (plain lines instead).
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub progress: ProgressMode,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of `rectify`.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve the OpenAI-compatible API; without options, on the embedded demo.
    Serve(Box<ServeArgs>),
    /// Chat in the terminal.
    Chat(Box<ChatArgs>),
    /// Best-of-N over a file of prompts, offline.
    Generate(Box<GenerateArgs>),
    /// Score a file of answers with a reward model.
    Score(Box<ScoreArgs>),
    /// Votes in and out of the store, and which of them may be trained on.
    Feedback(Box<FeedbackArgs>),
    /// Train a policy or a reward model.
    #[command(subcommand)]
    Train(TrainCommand),
    /// Run the shadow trainer as a process of its own, beside servers on the same store and registry.
    Shadow(Box<ShadowArgs>),
    /// Run a suite of checks on a candidate: exit 0 if it passed, 1 if not, 2 if it could not run.
    Eval(Box<EvalArgs>),
    /// The adapter versions of a registry.
    Adapters(AdaptersArgs),
    /// The model card of an adapter version, as Markdown.
    Card(CardArgs),
    /// Measure speed.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Print, check or describe the configuration.
    Config(ConfigArgs),
}

impl Cli {
    /// Runs the command to its end.
    ///
    /// # Errors
    /// [`CliError`], whose [`CliError::exit_code`] is the process's.
    pub fn run(self) -> Result<(), CliError> {
        let progress = self.progress;
        match self.command {
            Command::Serve(args) => serve::run(*args, progress),
            Command::Chat(args) => chat::run(*args, progress),
            Command::Generate(args) => generate::run(*args, progress),
            Command::Score(args) => score::run(*args, progress),
            Command::Feedback(args) => feedback::run(*args),
            Command::Train(command) => train::run(command, progress),
            Command::Shadow(args) => shadow::run(*args, progress),
            Command::Eval(args) => eval::run(*args, progress),
            Command::Adapters(args) => adapters::run(args),
            Command::Card(args) => card::run(args),
            Command::Bench(command) => bench::run(command, progress),
            Command::Config(args) => config::run(args),
        }
    }
}

/// A runtime for commands that talk to the engine or to a server; the engine computes on threads of its own.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Refused(format!("the system gives no event loop: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_tree_of_arguments_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_interface_parses() {
        for line in [
            "rectify serve",
            "rectify serve --policy p --reward helpful=rm --reward safe=rm2 --host 0.0.0.0 --port 9 --data-dir d",
            "rectify chat --n 16",
            "rectify generate -i a.jsonl -o b.jsonl -n 16 --keep pairs --shard 1/4 --resume --progress never",
            "rectify score -i a.jsonl -o b.jsonl --reward helpful=rm",
            "rectify train sft --data d.jsonl --policy p --output o --resume",
            "rectify train reward --data d.jsonl --policy p --output o --config c.yaml",
            "rectify train grpo --data d.jsonl --policy p --output o --reward regex:a --reward json --reward-weights 1,0.5",
            "rectify train ppo --data d.jsonl --policy p --output o --reward model:rm --ptx-coef 0.1 --ptx-data t.jsonl",
            "rectify train rloo --data d.jsonl --policy p --output o --reward length:9 --reward-clip-range -1,1",
            "rectify train online-dpo --data d.jsonl --policy p --output o --reward command:judge.py --loss-type ipo",
            "rectify train spin --data d.jsonl --policy p --output o --beta 0.2",
            "rectify train raft --data d.jsonl --policy p --output o --reward http://localhost:9/judge --min-reward 0.5",
            "rectify shadow --config c.yaml --data-dir d",
            "rectify eval --suite s.yaml --policy p --adapter a --baseline b --json --report r",
            "rectify adapters list --registry s3://b/p --json",
            "rectify adapters diff demo@1 demo@2",
            "rectify adapters promote demo@2 --config c.yaml",
            "rectify adapters rollback demo",
            "rectify adapters export demo@2 ./out",
            "rectify card demo@2",
            "rectify feedback import a.jsonl b.parquet --gold --store sqlite://f.db --json",
            "rectify feedback export -o a.parquet --format argilla --trusted",
            "rectify feedback stats --data-dir d",
            "rectify feedback dedup --similarity 0.8 --keep 4 --answers --quarantine",
            "rectify feedback check --snapshot s --config c.yaml",
            "rectify bench generate --policy p --prompt-len 256 --gen-len 128 --n 16 --json",
            "rectify bench load --policy p --quantize int8 --only load --json",
            "rectify bench serving --url http://127.0.0.1:8080 --requests 64 --json",
            "rectify bench votes --url http://127.0.0.1:8080 --rate 1000 --seconds 10 --live 4 --json",
            "rectify config print",
            "rectify config check",
            "rectify config schema",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }

    #[test]
    fn refused_arguments_are_one_sentence_that_names_the_flag() {
        for (line, named) in [
            ("rectify generate -i a -o b --shard 4/4", "--shard"),
            ("rectify generate -i a -o b --kepe best", "--kepe"),
            ("rectify generate -o b", "--input"),
            ("rectify serve --port 70000", "--port"),
            ("rectify serve --dtype int3", "--dtype"),
            ("rectify serve --kv-cache-memory lots", "--kv-cache-memory"),
            ("rectify sevre", "sevre"),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            let sentence = usage_sentence(&error);
            assert!(sentence.contains(named), "{line}: {sentence}");
            assert_eq!(sentence.lines().count(), 1, "{line}: {sentence}");
        }
    }
}
