//! Limits of the engine: what a step and the queue may hold. Leaves models and memory to [`crate::EngineParts`].

use serde::{Deserialize, Serialize};

use crate::EngineError;

/// Limits of scheduling. The defaults suit a machine with a few cores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// Generating sequences that may run at once, over all requests.
    pub max_num_seqs: usize,
    /// Tokens of one step, over all models.
    pub max_num_batched_tokens: usize,
    /// Requests that may wait; more are refused as overloaded.
    pub max_waiting: usize,
    /// Share of a step's tokens that scoring may take while anything else has work, above 0 and at most 1.
    pub score_token_share: f32,
    /// While sequences decode, prompts and texts to score are cut into chunks so that a step takes less than twice what it
    /// takes without them, or longer the more of them wait, up to this many milliseconds; 0 fills every
    /// step to `max_num_batched_tokens`.
    pub step_target_ms: u64,
    /// Reuse the KV blocks of equal prefixes.
    pub prefix_caching: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_num_seqs: 256,
            max_num_batched_tokens: 2048,
            max_waiting: 1024,
            score_token_share: 0.25,
            step_target_ms: 25,
            prefix_caching: true,
        }
    }
}

impl EngineConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] naming the first key out of range.
    pub fn validate(&self) -> Result<(), EngineError> {
        let positive = [
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_waiting", self.max_waiting),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(EngineError::invalid(key, format!("{key} is 0, but must be at least 1")));
            }
        }
        if self.max_num_batched_tokens < self.max_num_seqs {
            return Err(EngineError::invalid(
                "max_num_batched_tokens",
                format!(
                    "max_num_batched_tokens is {}, but each of the max_num_seqs = {} sequences needs one token a step",
                    self.max_num_batched_tokens, self.max_num_seqs
                ),
            ));
        }
        let share = self.score_token_share;
        if share.is_nan() || share <= 0.0 || share > 1.0 {
            return Err(EngineError::invalid(
                "score_token_share",
                format!("score_token_share is {share}, but must be above 0 and at most 1"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        EngineConfig::default().validate().unwrap();
    }

    #[test]
    fn names_the_key_out_of_range() {
        let bad = |change: fn(&mut EngineConfig)| {
            let mut config = EngineConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(bad(|c| c.max_waiting = 0).contains("max_waiting"));
        assert!(bad(|c| c.max_num_batched_tokens = 8).contains("max_num_batched_tokens is 8"));
        assert!(bad(|c| c.score_token_share = f32::NAN).contains("score_token_share"));
    }
}
