//! `rectify feedback export`. Leaves what rows mean to the feedback crate.

use std::path::PathBuf;

use rectify_feedback::exchange::{Exported, Format, export, write_rows};
use rectify_feedback::quality::assess;
use serde_json::json;

use super::{Desk, usage};
use crate::cli::CliError;

/// Options of `rectify feedback export`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExportArgs {
    /// Where the rows go: .jsonl, .json or .parquet.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// What a row is.
    #[arg(long, value_enum, default_value_t)]
    pub format: ExportFormat,
    /// Only votes that the quality rules let through.
    #[arg(long)]
    pub trusted: bool,
}

/// What a row is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// prompt, chosen, rejected: comparisons and edits.
    Preference,
    /// prompt, completion, label: thumbs and ratings.
    Unpaired,
    /// messages: edits as demonstrations.
    Messages,
    /// Records for Argilla.
    Argilla,
    /// Completions and votes as they are stored.
    #[default]
    Records,
}

impl From<ExportFormat> for Format {
    fn from(format: ExportFormat) -> Self {
        match format {
            ExportFormat::Preference => Self::Preference,
            ExportFormat::Unpaired => Self::Unpaired,
            ExportFormat::Messages => Self::Messages,
            ExportFormat::Argilla => Self::Argilla,
            ExportFormat::Records => Self::Records,
        }
    }
}

pub(super) async fn run(desk: &Desk, args: &ExportArgs) -> Result<(), CliError> {
    let mut votes = desk.votes().await?;
    if args.trusted {
        let report = assess(&votes, &desk.quality);
        let trusted: std::collections::HashSet<&str> = report.included.iter().map(String::as_str).collect();
        votes.retain(|vote| trusted.contains(vote.feedback.id.as_str()));
    } else if args.format != ExportFormat::Records {
        votes.retain(|vote| !vote.feedback.superseded && vote.feedback.quarantined.is_none());
    }
    let Exported { rows, skipped } = export(&votes, args.format.into());
    write_rows(&args.output, &rows).map_err(usage)?;
    let (num, output) = (rows.len(), args.output.display().to_string());
    let others = match skipped {
        0 => String::new(),
        skipped => format!("; {skipped} votes are of other kinds"),
    };
    let text = format!("{num} rows are in {output}{others}");
    desk.say(&json!({"rows": num, "skipped": skipped, "output": output}), text)
}
