//! The data of a run: votes up to its beginning, those that the quality rules let through, in a folder with a hash. Leaves
//! the rules and the formats to `feedback`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rectify_feedback::quality::assess;
use rectify_feedback::snapshot::Snapshot;
use rectify_feedback::store::{Millis, Store, Vote, VoteFilter};

use super::ShadowError;
use super::settings::{Algorithm, Settings};
use crate::TrainError;
use crate::run::files;

/// What a person reads about the data, beside their folder.
const REPORT: &str = "quality.json";

/// What was taken.
pub(super) struct Taken {
    /// Hash of the content.
    pub(super) hash: String,
    /// How many of what.
    pub(super) counts: BTreeMap<String, u64>,
    /// Why it may not be trained on.
    pub(super) refused: Option<String>,
}

/// The folder of a run's data.
pub(super) fn folder(run: &Path) -> PathBuf {
    run.join("snapshot")
}

/// The votes in force on answers of `policy` that were given before `until`.
pub(super) async fn votes(store: &Store, policy: String, until: Millis) -> Result<Vec<Vote>, ShadowError> {
    let filter = VoteFilter { policy: Some(policy), until: Some(until), ..VoteFilter::default() };
    Ok(store.votes(&filter).await?)
}

/// Takes what `algorithm` may be trained on from `votes`, on answers of the version `current`, and writes it below `run`.
/// What an interrupted call left is overwritten: nothing has been trained on it.
pub(super) fn take(
    votes: &[Vote],
    settings: &Settings,
    (algorithm, current): (Algorithm, String),
    run: &Path,
) -> Result<Taken, ShadowError> {
    let mut rules = settings.quality.clone();
    rules.staleness.current = Some(current);
    if settings.from_last || algorithm.is_online() {
        // What goes on from a version learns from that version's answers.
        rules.staleness.window = 1;
    }
    let report = assess(votes, &rules);
    let snapshot = Snapshot::build(votes, &report, &rules);
    let folder = folder(run);
    let fail = |error| ShadowError::io(&folder, error);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
        _ => std::fs::create_dir_all(run).map_err(fail)?,
    }
    snapshot.write(&folder).map_err(TrainError::from)?;
    let text = serde_json::to_vec_pretty(&report).unwrap_or_default();
    files::write_atomic(&run.join(REPORT), &text)?;
    let counts = [
        ("pairs", snapshot.pairs.len()),
        ("thumbs", snapshot.thumbs.len()),
        ("edits", snapshot.edits.len()),
        ("prompts", snapshot.prompts.len()),
        ("left_out", snapshot.about.left_out.len()),
    ];
    let stops: Vec<&str> = report.stops().map(|finding| finding.message.as_str()).collect();
    Ok(Taken {
        hash: snapshot.hash,
        counts: counts.map(|(what, count)| (what.to_owned(), count as u64)).into(),
        refused: (!stops.is_empty()).then(|| stops.join("; ")),
    })
}
