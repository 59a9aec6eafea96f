//! What became of the candidates: the `alignment` object of responses. Leaves choosing them to the engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use rectify_engine::request::{Candidate, Scoring, Selection};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An upper bound of the KL divergence from the policy, in nats, of any way to pick one of `n` samples:
/// `ln n − (n−1)/n`, which is best-of-N's own where rewards do not tie (Stiennon et al. 2020, arXiv:2009.01325; Beirami
/// et al. 2024, arXiv:2401.01879). No other way goes farther: an answer of a set is picked only if one of the samples
/// lies in the set, so what is picked is spread at least as widely as the best by any reward.
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
    /// The reward model that decided, or the combination of several, as `safety_gated(helpful, safe)`.
    pub reward_model: String,
    /// Tokens of all candidates, those of blocks that were given up included.
    pub tokens_generated: usize,
    /// Of those, tokens of candidates dropped before they ended and of blocks given up.
    pub tokens_pruned: usize,
    /// No more than this many nats lie between the policy and the answers of this strategy: `ln N − (N−1)/N`, for each
    /// block with `blockwise`; with `adaptive`, of the most candidates it might have drawn.
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
    /// Its text, as far as it came.
    pub text: String,
    /// The reward it was judged by; null if it was not scored. Where answers are compared, the mean preference for it over
    /// those it was compared with.
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
        let candidate = |(index, candidate): (usize, &Candidate)| CandidateReport {
            index,
            text: candidate.text.clone(),
            reward: candidate.reward,
            rewards: rewards(selection, candidate),
            logprob: candidate.logprob,
            tokens: candidate.tokens.len(),
            finish_reason: candidate.finish_reason.map(|reason| reason.as_str().to_owned()),
            pruned: candidate.finish_reason.is_none(),
        };
        Self {
            strategy: selection.strategy.to_owned(),
            n: selection.candidates.len(),
            selected: selection.selected.clone(),
            scoring: match &selection.scoring {
                Scoring::Ok => "ok".into(),
                Scoring::Partial => "partial".into(),
                Scoring::Failed(reason) => format!("failed: {reason}"),
            },
            policy_version: policy_version.to_string(),
            reward_model: selection.reward_model.to_string(),
            tokens_generated: selection.num_tokens,
            tokens_pruned: selection.num_pruned_tokens,
            kl_bound: kl_bound(selection.max_candidates) * selection.num_blocks.max(1) as f64,
            candidates: return_candidates
                .then(|| selection.candidates.iter().enumerate().map(candidate).collect()),
        }
    }
}

/// Raw rewards by the reward models' names.
fn rewards(selection: &Selection, candidate: &Candidate) -> BTreeMap<String, f32> {
    let named = selection.judges.iter().zip(&candidate.rewards);
    named.filter_map(|(name, reward)| Some((name.to_string(), (*reward)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kl_bound_is_the_papers() {
        assert_eq!(kl_bound(1), 0.0);
        assert!((kl_bound(16) - 1.835_088_7).abs() < 1e-6);
    }
}
