//! The `gate` section: what a candidate must pass. Leaves the checks and their thresholds to the suite.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Period;

/// What a candidate must pass before it may serve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GateSection {
    /// The suite of checks; the demo has one of its own.
    pub suite: Option<PathBuf>,
    /// How long a published candidate is compared with the version before, as `30m`; then it is kept.
    pub probation: Period,
}

impl Default for GateSection {
    fn default() -> Self {
        Self { suite: None, probation: Period(Duration::from_secs(30 * 60)) }
    }
}
