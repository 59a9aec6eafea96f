//! The `probation` section: how a published candidate is compared before it is kept. Leaves how long to `gate`.

use rectify_trainer::shadow::arms::Limits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a published candidate is compared before it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProbationSection {
    /// Share of new requests that it answers.
    pub share: f64,
    /// Answers that it must have given before it is kept; with fewer the probation goes on.
    pub min_answers: u64,
    /// By how much it may be worse before it is taken back.
    pub limits: Limits,
}

impl Default for ProbationSection {
    fn default() -> Self {
        Self { share: 0.1, min_answers: 20, limits: Limits::default() }
    }
}

impl ProbationSection {
    /// Checks ranges.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub fn validate(&self) -> Result<(), String> {
        if !(self.share > 0.0 && self.share < 1.0) {
            let share = self.share;
            return Err(format!(
                "`probation.share` is {share}, but must lie between 0 and 1: both arms need requests"
            ));
        }
        let Limits { alpha, reward, thumbs_down, length, refusal, .. } = self.limits;
        if !(alpha > 0.0 && alpha < 0.5) {
            return Err(format!("`probation.limits.alpha` is {alpha}, but must lie between 0 and 0.5"));
        }
        let limits =
            [("reward", reward), ("thumbs_down", thumbs_down), ("length", length), ("refusal", refusal)];
        match limits.iter().find(|(_, limit)| !limit.is_finite() || *limit < 0.0) {
            Some((key, limit)) => Err(format!("`probation.limits.{key}` is {limit}, but must be 0 or more")),
            None => Ok(()),
        }
    }
}
