//! `rectify feedback import`. Leaves what rows mean to the feedback crate.

use std::path::PathBuf;

use rectify_feedback::exchange::{Entry, ImportOptions, import};
use rectify_feedback::store::now;
use serde_json::json;

use super::{Desk, refuse, usage};
use crate::cli::CliError;

/// Options of `rectify feedback import`.
#[derive(Clone, Debug, clap::Args)]
pub struct ImportArgs {
    /// Files of votes.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The rows are gold questions: they are the truth, and measure those who vote on them.
    #[arg(long)]
    pub gold: bool,
}

/// Rows written in one transaction.
const BATCH: usize = 1000;

pub(super) async fn run(desk: &Desk, args: &ImportArgs) -> Result<(), CliError> {
    let options = ImportOptions { gold: args.gold, now: now() };
    // Every row is read before any is written: a wrong one in the last file adds nothing.
    let mut entries: Vec<Entry> = Vec::new();
    for file in &args.files {
        for entry in import(file, options).map_err(usage)? {
            entries.push(entry.map_err(usage)?);
        }
    }
    let rows = entries.len();
    let (mut completions, mut votes) = (0, 0);
    let mut entries = entries.into_iter().peekable();
    while entries.peek().is_some() {
        let batch = entries.by_ref().take(BATCH).map(|entry| (entry.completion, entry.feedback));
        let (batch, feedback): (Vec<_>, Vec<_>) = batch.unzip();
        let feedback: Vec<_> = feedback.into_iter().flatten().collect();
        let new = desk.store.import(&batch, &feedback).await.map_err(refuse)?;
        completions += new.0;
        votes += new.1;
    }
    let what = if args.gold { "gold questions" } else { "answers" };
    desk.say(
        &json!({"rows": rows, "completions": completions, "votes": votes, "gold": args.gold}),
        format!("{rows} rows read; {completions} {what} and {votes} votes are new"),
    )
}
