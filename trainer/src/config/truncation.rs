//! Which end of a sequence stays when it is too long.

use serde::{Deserialize, Serialize};

/// Which end stays, as TRL's `truncation_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TruncationMode {
    /// The beginning.
    #[default]
    KeepStart,
    /// The end.
    KeepEnd,
}

impl TruncationMode {
    /// Shortens `sequence` to at most `max_length`.
    pub fn truncate<T>(self, sequence: &mut Vec<T>, max_length: usize) {
        match self {
            Self::KeepStart => sequence.truncate(max_length),
            Self::KeepEnd => drop(sequence.drain(..sequence.len().saturating_sub(max_length))),
        }
    }
}
