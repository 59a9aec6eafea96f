//! `rectify feedback`: votes in and out of the store, and what may be trained on. Leaves formats, rules and the store to
//! the feedback crate.

mod check;
mod dedup;
mod export;
mod import;
mod stats;

use std::io::Write;
use std::path::PathBuf;

use rectify_feedback::FeedbackError;
use rectify_feedback::quality::QualityConfig;
use rectify_feedback::store::{Store, StoreError, Vote, VoteFilter};

use super::{CliError, ModelArgs};
use crate::boot;
use crate::feedback::open_store;

pub use export::ExportFormat;

/// Options of `rectify feedback`.
#[derive(Clone, Debug, clap::Args)]
pub struct FeedbackArgs {
    /// The store: sqlite://FILE or postgres://…; by default the configuration's, or the one in the data folder.
    #[arg(long, global = true, value_name = "URL")]
    pub store: Option<String>,
    /// A YAML configuration file, for `store` and `quality`.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder for what the server keeps.
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: FeedbackCommand,
}

/// What to do with votes.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum FeedbackCommand {
    /// Add the votes of files: preferences, thumbs, demonstrations, Argilla's records; JSON lines, JSON or Parquet.
    Import(import::ImportArgs),
    /// Write the votes to a file; its ending says how: .jsonl, .json or .parquet.
    Export(export::ExportArgs),
    /// Count votes by kind, person and version.
    Stats,
    /// List near-duplicates.
    Dedup(dedup::DedupArgs),
    /// Say which votes may be trained on and why the others may not; exit 1 if a rule stops the data.
    Check(check::CheckArgs),
}

pub(crate) fn run(args: FeedbackArgs) -> Result<(), CliError> {
    super::runtime()?.block_on(async {
        let desk = Desk::open(&args).await?;
        let said = match &args.command {
            FeedbackCommand::Import(command) => import::run(&desk, command).await,
            FeedbackCommand::Export(command) => export::run(&desk, command).await,
            FeedbackCommand::Stats => stats::run(&desk).await,
            FeedbackCommand::Dedup(command) => dedup::run(&desk, command).await,
            FeedbackCommand::Check(command) => check::run(&desk, command).await,
        };
        desk.store.close().await;
        said
    })
}

/// An open store and how to speak of it.
struct Desk {
    store: Store,
    quality: QualityConfig,
    json: bool,
}

impl Desk {
    async fn open(args: &FeedbackArgs) -> Result<Self, CliError> {
        let (config, data_dir) = (args.config.clone(), args.data_dir.clone());
        let config = boot::configure(&ModelArgs { config, data_dir, ..ModelArgs::default() })?;
        let url = args.store.clone().or_else(|| config.store_url());
        let store = open_store(url.as_deref()).await?;
        Ok(Self { store, quality: config.quality, json: args.json })
    }

    /// All votes, those that were changed and those in quarantine included.
    async fn votes(&self) -> Result<Vec<Vote>, CliError> {
        self.store.votes(&VoteFilter { superseded: true, ..VoteFilter::default() }).await.map_err(refuse)
    }

    /// Prints the data as JSON or as text.
    fn say(&self, data: &impl serde::Serialize, text: impl std::fmt::Display) -> Result<(), CliError> {
        let text = if self.json {
            serde_json::to_string(data).map_err(|error| CliError::Refused(error.to_string()))?
        } else {
            text.to_string()
        };
        writeln!(std::io::stdout().lock(), "{}", text.trim_end()).map_err(|error| CliError::stdout(&error))
    }
}

fn refuse(error: StoreError) -> CliError {
    CliError::Usage(error.to_string())
}

fn usage(error: FeedbackError) -> CliError {
    CliError::Usage(error.to_string())
}
