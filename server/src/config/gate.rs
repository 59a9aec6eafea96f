//! The `gate` section: what a candidate must pass. Leaves the checks and their thresholds to the suite.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a candidate must pass before it may serve.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GateSection {
    /// The suite of checks; the demo has one of its own.
    pub suite: Option<PathBuf>,
}
