//! `rectify feedback dedup`. Leaves finding near-duplicates to the feedback crate.

use std::fmt::Write;

use rectify_feedback::quality::{DedupText, duplicates};
use serde_json::json;

use super::{Desk, refuse};
use crate::cli::CliError;

/// Options of `rectify feedback dedup`.
#[derive(Clone, Debug, clap::Args)]
pub struct DedupArgs {
    /// Jaccard similarity of word shingles from which two texts are near-duplicates; by default the configuration's.
    #[arg(long, value_name = "SHARE")]
    pub similarity: Option<f64>,
    /// Votes to keep of each cluster; by default the configuration's.
    #[arg(long, value_name = "N", value_parser = crate::cli::args::positive)]
    pub keep: Option<usize>,
    /// Compare prompt and answer instead of the prompt alone.
    #[arg(long)]
    pub answers: bool,
    /// Put what is beyond the cap into quarantine, where nothing is trained on it.
    #[arg(long)]
    pub quarantine: bool,
}

/// Clusters printed for people.
const SHOWN: usize = 20;

pub(super) async fn run(desk: &Desk, args: &DedupArgs) -> Result<(), CliError> {
    let mut quality = desk.quality.clone();
    quality.dedup.similarity = args.similarity.unwrap_or(quality.dedup.similarity);
    quality.dedup.keep = args.keep.unwrap_or(quality.dedup.keep);
    if args.answers {
        quality.dedup.on = DedupText::PromptAndAnswer;
    }
    quality.validate().map_err(CliError::Usage)?;
    let votes = desk.votes().await?;
    let clusters = duplicates(&votes, &quality.dedup);
    let beyond: Vec<&str> = clusters.iter().flat_map(|cluster| &cluster.beyond).map(String::as_str).collect();
    if args.quarantine {
        let marked: Vec<(&str, Option<&str>)> = beyond.iter().map(|id| (*id, Some("duplicate"))).collect();
        desk.store.quarantine(&marked).await.map_err(refuse)?;
    }
    let mut text = String::new();
    for cluster in clusters.iter().take(SHOWN) {
        let _ = writeln!(text, "{:>7} votes  {}", cluster.votes, cluster.text);
    }
    if clusters.len() > SHOWN {
        let _ = writeln!(text, "  … and {} more clusters", clusters.len() - SHOWN);
    }
    let done = if args.quarantine { "are in quarantine now" } else { "are beyond the cap" };
    let _ = writeln!(
        text,
        "{} clusters of near-duplicates among {} votes; {} {done}",
        clusters.len(),
        votes.len(),
        beyond.len()
    );
    desk.say(&json!({"votes": votes.len(), "clusters": clusters, "quarantined": args.quarantine}), text)
}
