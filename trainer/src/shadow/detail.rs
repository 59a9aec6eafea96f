//! What the states of a run need to know beside the store's columns: the run's `detail`, as JSON. Leaves the columns to
//! the store.

use std::collections::BTreeMap;

use rectify_feedback::store::{Millis, TrainingRun};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::arms::Comparison;

/// Everything that is known of a run so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Detail {
    /// Votes up to this moment are the run's data, however often the snapshot is made.
    pub until: Millis,
    /// How many of what the snapshot holds: `pairs`, `thumbs`, `edits`, `prompts`, `left_out`.
    pub counts: BTreeMap<String, u64>,
    /// The training's last metrics.
    pub metrics: Map<String, Value>,
    /// What the gate said in one sentence.
    pub gate: Option<String>,
    /// Who approved it.
    pub approved_by: Option<String>,
    /// When the probation began.
    pub probation_since: Option<Millis>,
    /// When its time was over, but too few people had met the candidate.
    pub extended_at: Option<Millis>,
    /// What the probation has shown so far.
    pub comparison: Option<Comparison>,
    /// Why it was refused, taken back or stopped.
    pub reason: Option<String>,
}

impl Detail {
    /// Of a run; what cannot be read counts as unknown.
    pub fn of(run: &TrainingRun) -> Self {
        serde_json::from_value(run.detail.clone()).unwrap_or_default()
    }

    pub(super) fn put(&self, run: &mut TrainingRun) {
        run.detail = serde_json::to_value(self).unwrap_or_default();
    }
}
