//! The `card` section: what model cards say that only people know. Leaves the card to the trainer.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What model cards say that only people know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CardSection {
    /// A Markdown file of the principles that the model is aligned to.
    pub constitution: Option<PathBuf>,
    /// Until when the base's knowledge reaches, as `June 2024`.
    pub knowledge_cutoff: Option<String>,
    /// What the model is known to do badly, a sentence each.
    pub known_limits: Vec<String>,
}
