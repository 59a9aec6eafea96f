//! The `alignment` object in requests, profiles and responses. This file owns the request's fields, `settings` turns them
//! into the engine's, `reward` says who judges, `report` what happened. Leaves choosing candidates to the engine.

mod report;
mod reward;
mod settings;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use report::{AlignmentReport, CandidateReport, kl_bound};
pub use reward::{COMBINATIONS, CombinedReward, RewardRequest};

use crate::error::ApiError;

/// Strategies this server knows.
pub const STRATEGIES: [&str; 7] =
    ["best_of_n", "speculative_rejection", "adaptive", "blockwise", "mbr", "majority", "tournament"];
/// Ways to pick the winners this server knows.
pub const SELECTS: [&str; 4] = ["argmax", "softmax", "mbr", "majority"];
/// Places of the answer in a text, for `majority`.
pub const EXTRACTORS: [&str; 4] = ["number", "boxed", "last_line", "text"];

/// How answers are sampled, scored and chosen. Unset fields take the profile's value, then the default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AlignmentRequest {
    /// `best_of_n`; `speculative_rejection`, which drops the unpromising on the way; `adaptive`, which stops drawing when
    /// another candidate is not worth its cost; `blockwise`, which chooses block by block; `mbr` and `majority`, which are
    /// `best_of_n` with that `select`; `tournament`, which finds the best by comparing two at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// Candidates to sample; 16 by default, 4 with `blockwise`, as many as memory holds with `speculative_rejection`. The
    /// most of them with `adaptive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<usize>,
    /// The reward model, by name, or several and how their rewards become one; the server's default if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<RewardRequest>,
    /// `argmax`: the highest reward, ties to the lower index. `softmax`: a draw in proportion to
    /// `exp(reward / select_temperature)`. `mbr`: the reward plus `mbr_weight` times the agreement with all candidates.
    /// `majority`: the most common answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<String>,
    /// With `softmax`: above 0, in units of the reward; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select_temperature: Option<f32>,
    /// With `mbr`: what full agreement is worth, in units of the reward; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mbr_weight: Option<f32>,
    /// With `majority`: where the answer stands, `number` (the last one, the default), `boxed`, `last_line` or `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract: Option<String>,
    /// With `majority`: a regular expression instead; the first group of its last match is the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract_pattern: Option<String>,
    /// Subtracted from the reward for each token of a candidate; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_penalty: Option<f32>,
    /// Divide the reward by the candidate's tokens instead; false by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_per_token: Option<bool>,
    /// When to stop candidates, or to stop drawing them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<EarlyStop>,
    /// With `blockwise`: tokens of a block; 16 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_tokens: Option<usize>,
    /// Most tokens over all candidates; no limit by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_total_tokens: Option<usize>,
    /// Seed of the candidates; the request's `seed` if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Report every candidate with its text and reward; false by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_candidates: Option<bool>,
}

/// When to stop candidates (`speculative_rejection`), or to stop drawing them (`adaptive`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct EarlyStop {
    /// `speculative_rejection` or `adaptive`; the strategy's own if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Share of the running candidates that a check drops, between 0 and 1; 0.5 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f32>,
    /// Tokens of each candidate before the first check; 16 by default. A later one comes when the survivors hold as many
    /// as all did at the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_check: Option<usize>,
    /// Most checks; what survives them runs to its end. No limit by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_checks: Option<usize>,
    /// What one more candidate must be expected to add to the best reward; 0.05 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f32>,
    /// Candidates before the first decision; 4 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<usize>,
    /// Candidates between decisions; 4 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<usize>,
    /// Mean reward of a single answer, over all kinds of prompts; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_mean: Option<f32>,
    /// Its standard deviation; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_std: Option<f32>,
    /// How many candidates that knowledge of other prompts counts for; 4 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior_weight: Option<f32>,
}

/// What a request's `alignment` may ask for.
#[derive(Clone, Copy, Debug)]
pub struct AlignmentLimits<'a> {
    /// Most candidates.
    pub max_candidates: usize,
    /// Tokens that the KV cache holds.
    pub kv_tokens: usize,
    /// The reward models' names.
    pub rewards: &'a [String],
    /// The one used when the request names none.
    pub default_reward: Option<&'a str>,
    /// The combination used instead, if one is configured.
    pub combined_reward: Option<&'a CombinedReward>,
}

impl AlignmentRequest {
    /// What a request asks for: its own fields over those of the profile that its model's name carries.
    pub fn resolve(requested: Option<Self>, profile: Option<&Self>) -> Option<Self> {
        match (requested, profile) {
            (Some(requested), Some(profile)) => Some(requested.over(profile)),
            (requested, profile) => requested.or_else(|| profile.cloned()),
        }
    }

    /// The fields set here, else the profile's.
    fn over(self, profile: &Self) -> Self {
        let profile = profile.clone();
        Self {
            strategy: self.strategy.or(profile.strategy),
            n: self.n.or(profile.n),
            reward: self.reward.or(profile.reward),
            select: self.select.or(profile.select),
            select_temperature: self.select_temperature.or(profile.select_temperature),
            mbr_weight: self.mbr_weight.or(profile.mbr_weight),
            extract: self.extract.or(profile.extract),
            extract_pattern: self.extract_pattern.or(profile.extract_pattern),
            length_penalty: self.length_penalty.or(profile.length_penalty),
            reward_per_token: self.reward_per_token.or(profile.reward_per_token),
            early_stop: self.early_stop.or(profile.early_stop),
            block_tokens: self.block_tokens.or(profile.block_tokens),
            max_total_tokens: self.max_total_tokens.or(profile.max_total_tokens),
            seed: self.seed.or(profile.seed),
            return_candidates: self.return_candidates.or(profile.return_candidates),
        }
    }
}

fn known(field: &str, value: Option<&str>, all: &[&str]) -> Result<(), ApiError> {
    match value {
        Some(value) if !all.contains(&value) => Err(ApiError::invalid(
            format!("alignment.{field}"),
            format!("`alignment.{field}` is `{value}`, but this server knows: {}", all.join(", ")),
        )),
        _ => Ok(()),
    }
}
