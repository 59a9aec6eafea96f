//! The `alignment` object in requests, profiles and responses. Leaves choosing candidates to the engine's strategy.

use std::collections::BTreeMap;
use std::sync::Arc;

use rectify_engine::request::{Alignment, Scoring, Select, Selection};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ApiError;

/// Strategies this server knows.
pub const STRATEGIES: [&str; 1] = ["best_of_n"];
/// Ways to pick the winners this server knows.
pub const SELECTS: [&str; 1] = ["argmax"];
/// Candidates when the request does not say.
pub const DEFAULT_N: usize = 16;

/// How answers are sampled, scored and chosen. Unset fields take the profile's value, then the default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AlignmentRequest {
    /// `best_of_n`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// Candidates to sample; 16 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<usize>,
    /// The reward model, by name; the server's default one if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<String>,
    /// `argmax`: the highest reward, ties to the lower index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<String>,
    /// Subtracted from the reward for each token of a candidate; 0 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_penalty: Option<f32>,
    /// Not available yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub early_stop: Option<serde_json::Value>,
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

/// What a request's `alignment` may ask for.
#[derive(Clone, Copy, Debug)]
pub struct AlignmentLimits<'a> {
    /// Most candidates.
    pub max_candidates: usize,
    /// The reward models' names.
    pub rewards: &'a [String],
    /// The one used when the request names none.
    pub default_reward: Option<&'a str>,
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
            length_penalty: self.length_penalty.or(profile.length_penalty),
            early_stop: self.early_stop.or(profile.early_stop),
            max_total_tokens: self.max_total_tokens.or(profile.max_total_tokens),
            seed: self.seed.or(profile.seed),
            return_candidates: self.return_candidates.or(profile.return_candidates),
        }
    }

    /// Checks every field and turns the request into the engine's; `num_choices` is OpenAI's `n`.
    ///
    /// # Errors
    /// 400 naming the field, and what would be right.
    pub fn validate(&self, num_choices: usize, limits: &AlignmentLimits<'_>) -> Result<Alignment, ApiError> {
        known("strategy", self.strategy.as_deref(), &STRATEGIES)?;
        known("select", self.select.as_deref(), &SELECTS)?;
        let field =
            |name: &str, message: String| Err(ApiError::invalid(format!("alignment.{name}"), message));
        if self.early_stop.as_ref().is_some_and(|value| !value.is_null()) {
            return field("early_stop", "`alignment.early_stop` is not available yet; leave it out".into());
        }
        let n = self.n.unwrap_or(DEFAULT_N.min(limits.max_candidates).max(num_choices));
        if n == 0 || n > limits.max_candidates {
            let most = limits.max_candidates;
            return field("n", format!("`alignment.n` is {n}, but must lie between 1 and {most}"));
        }
        if n < num_choices {
            return field(
                "n",
                format!(
                    "`alignment.n` is {n}, but `n` asks for {num_choices} choices out of them; raise `alignment.n`"
                ),
            );
        }
        let length_penalty = self.length_penalty.unwrap_or(0.0);
        if !length_penalty.is_finite() {
            return field("length_penalty", "`alignment.length_penalty` must be a finite number".into());
        }
        if let Some(tokens) = self.max_total_tokens.filter(|&tokens| tokens < n) {
            let message = format!(
                "`alignment.max_total_tokens` is {tokens}, but each of the {n} candidates needs at least one token"
            );
            return field("max_total_tokens", message);
        }
        let Some(reward) = self.reward.as_deref().or(limits.default_reward) else {
            return field(
                "reward",
                "this server has no reward model to choose with; start it with `--reward NAME=DIR`".into(),
            );
        };
        if !limits.rewards.iter().any(|name| name == reward) {
            let known = crate::names(limits.rewards);
            let message = format!("the reward model `{reward}` does not exist; available: {known}");
            return Err(ApiError::model_not_found(message).at("alignment.reward"));
        }
        let max_total_tokens = self.max_total_tokens;
        Ok(Alignment {
            n,
            reward: Some(reward.into()),
            select: Select::Argmax,
            length_penalty,
            max_total_tokens,
        })
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

/// An upper bound of the KL divergence of best-of-N from the policy, in nats: `ln N − (N−1)/N`
/// (Stiennon et al. 2020, arXiv:2009.01325; Beirami et al. 2024, arXiv:2401.01879).
pub fn kl_bound(n: usize) -> f64 {
    let n = n.max(1) as f64;
    n.ln() - (n - 1.0) / n
}

/// What happened: in the response's `alignment`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AlignmentReport {
    /// The strategy that ran.
    pub strategy: String,
    /// Candidates sampled.
    pub n: usize,
    /// Indices of the candidates that came back as choices, best first.
    pub selected: Vec<usize>,
    /// `ok`, `partial` or `failed: REASON`.
    pub scoring: String,
    /// The policy version that answered, as `name@version`.
    pub policy_version: String,
    /// The reward model that decided.
    pub reward_model: String,
    /// Tokens of all candidates.
    pub tokens_generated: usize,
    /// Of those, tokens of candidates dropped before they ended.
    pub tokens_pruned: usize,
    /// `ln N − (N−1)/N` nats: best-of-N is no farther than this from the policy.
    pub kl_bound: f64,
    /// Every candidate by index, with `return_candidates`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidates: Option<Vec<CandidateReport>>,
}

/// One candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CandidateReport {
    /// Its index.
    pub index: usize,
    /// Its whole text.
    pub text: String,
    /// The reward it was judged by; null if it was not scored.
    pub reward: Option<f32>,
    /// Its raw reward by reward model.
    pub rewards: BTreeMap<String, f32>,
    /// Sum of its tokens' logprobs, in nats.
    pub logprob: f64,
    /// Its tokens.
    pub tokens: usize,
    /// `stop` or `length`; null if it was dropped early.
    pub finish_reason: Option<String>,
    /// Dropped before it ended.
    pub pruned: bool,
}

impl AlignmentReport {
    /// The report of a selection.
    pub fn new(selection: &Selection, policy_version: &Arc<str>, return_candidates: bool) -> Self {
        let reward_model = selection.reward_model.to_string();
        let candidate = |(index, candidate): (usize, &rectify_engine::request::Candidate)| CandidateReport {
            index,
            text: candidate.text.clone(),
            reward: candidate.reward,
            rewards: candidate.reward.map(|reward| (reward_model.clone(), reward)).into_iter().collect(),
            logprob: candidate.logprob,
            tokens: candidate.tokens.len(),
            finish_reason: candidate.finish_reason.map(|reason| reason.as_str().to_owned()),
            pruned: candidate.finish_reason.is_none(),
        };
        let pruned = selection.candidates.iter().filter(|candidate| candidate.finish_reason.is_none());
        Self {
            strategy: STRATEGIES[0].into(),
            n: selection.candidates.len(),
            selected: selection.selected.clone(),
            scoring: match &selection.scoring {
                Scoring::Ok => "ok".into(),
                Scoring::Partial => "partial".into(),
                Scoring::Failed(reason) => format!("failed: {reason}"),
            },
            policy_version: policy_version.to_string(),
            tokens_generated: selection.candidates.iter().map(|candidate| candidate.tokens.len()).sum(),
            tokens_pruned: pruned.map(|candidate| candidate.tokens.len()).sum(),
            kl_bound: kl_bound(selection.candidates.len()),
            candidates: return_candidates
                .then(|| selection.candidates.iter().enumerate().map(candidate).collect()),
            reward_model,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rewards: &[String]) -> AlignmentLimits<'_> {
        AlignmentLimits { max_candidates: 64, rewards, default_reward: rewards.first().map(String::as_str) }
    }

    fn refuse(json: &str, num_choices: usize) -> ApiError {
        let rewards = ["helpful".to_owned()];
        let request: AlignmentRequest = serde_json::from_str(json).unwrap();
        request.validate(num_choices, &limits(&rewards)).unwrap_err()
    }

    #[test]
    fn kl_bound_is_the_papers() {
        assert_eq!(kl_bound(1), 0.0);
        assert!((kl_bound(16) - 1.835_088_7).abs() < 1e-6);
    }

    #[test]
    fn unknown_words_are_refused_with_the_known_ones() {
        let error = refuse(r#"{"strategy": "beam"}"#, 1);
        assert_eq!(error.param.as_deref(), Some("alignment.strategy"));
        assert!(error.message.ends_with("knows: best_of_n"), "{}", error.message);
        assert!(refuse(r#"{"select": "worst"}"#, 1).message.contains("argmax"));
        let error = refuse(r#"{"reward": "kind"}"#, 1);
        assert_eq!((error.status.as_u16(), error.code), (404, Some("model_not_found")));
        assert!(error.message.contains("helpful"), "{}", error.message);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for (json, choices) in [
            (r#"{"n": 0}"#, 1),
            (r#"{"n": 65}"#, 1),
            (r#"{"n": 2}"#, 3),
            (r#"{"max_total_tokens": 0}"#, 1),
            (r#"{"n": 4, "max_total_tokens": 3}"#, 1),
            (r#"{"length_penalty": 1e39}"#, 1),
            (r#"{"early_stop": {"kind": "speculative_rejection"}}"#, 1),
        ] {
            let error = refuse(json, choices);
            assert_eq!(error.status.as_u16(), 400, "{json}");
            assert!(error.param.unwrap().starts_with("alignment."), "{json}");
        }
    }

    #[test]
    fn request_fields_win_over_the_profile() {
        let profile: AlignmentRequest =
            serde_json::from_str(r#"{"n": 4, "reward": "helpful", "seed": 1}"#).unwrap();
        let request: AlignmentRequest = serde_json::from_str(r#"{"n": 8}"#).unwrap();
        let merged = request.over(&profile);
        assert_eq!((merged.n, merged.reward.as_deref(), merged.seed), (Some(8), Some("helpful"), Some(1)));
    }

    #[test]
    fn a_request_without_n_samples_sixteen_or_what_the_server_can() {
        let rewards = ["helpful".to_owned()];
        let n = |max_candidates, choices| {
            let limits = AlignmentLimits { max_candidates, ..limits(&rewards) };
            AlignmentRequest::default().validate(choices, &limits).unwrap().n
        };
        assert_eq!((n(64, 1), n(8, 1), n(64, 20)), (16, 8, 20));
    }
}
