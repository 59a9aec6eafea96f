//! Group-relative policy optimisation: the loss of a completion's tokens and how tokens are averaged. Leaves advantages
//! to `advantages`.

use serde::{Deserialize, Serialize};

use super::surrogate::{ClipRange, Clipped, clipped_surrogate, kl_k3};

/// How losses of tokens become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrpoLossType {
    /// Mean over a completion's tokens, then over completions: DeepSeekMath (arXiv:2402.03300), Eq. 3.
    Grpo,
    /// Mean over the tokens of a forward pass.
    Bnpo,
    /// Sum over tokens, over a constant, the longest completion: Liu et al. 2025 (arXiv:2503.20783), Eq. 2.
    DrGrpo,
    /// Mean over all tokens of the step: Yu et al. 2025 (arXiv:2503.14476), Eq. 8.
    #[default]
    Dapo,
}

/// What a ratio is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceLevel {
    /// One token.
    #[default]
    Token,
    /// A whole completion, as the geometric mean of its tokens' ratios (GSPO, arXiv:2507.18071, Eq. 7).
    Sequence,
}

/// The settings that decide a completion's loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grpo {
    /// Bounds of the ratio.
    pub clip: ClipRange,
    /// What a ratio is of.
    pub importance: ImportanceLevel,
    /// Weight of the divergence from the reference.
    pub beta: f64,
    /// The divergence is weighted by the ratio, so that its gradient is that of the reverse KL (arXiv:2512.02556).
    pub unbiased_kl: bool,
}

/// A completion, all slices `[num_tokens]`, in nats.
#[derive(Clone, Copy, Debug)]
pub struct GrpoCompletion<'a> {
    /// Of the policy.
    pub logprobs: &'a [f64],
    /// Of the policy that sampled; empty where it is the policy itself, so that every ratio is 1.
    pub old_logprobs: &'a [f64],
    /// Of the reference; unread if `beta` is 0.
    pub ref_logprobs: &'a [f64],
    /// Weight of each token's surrogate, for samples of another distribution; empty for 1.
    pub importance_ratios: &'a [f64],
    /// Of the completion.
    pub advantage: f64,
}

/// Loss of a completion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GrpoLoss {
    /// Sum over tokens.
    pub loss: f64,
    /// Of the sum, to each token's logprob.
    pub grad: Vec<f64>,
    /// Sum over tokens of the divergence from the reference.
    pub kl: f64,
    /// Share of ratios at the lower bound.
    pub clipped_low: f64,
    /// Share of ratios at the upper bound.
    pub clipped_high: f64,
}

/// `Σ_t w_t · surrogate(ρ_t, A) + β KL_t`; DeepSeekMath (arXiv:2402.03300), Eq. 3.
pub fn grpo(settings: &Grpo, completion: &GrpoCompletion<'_>) -> GrpoLoss {
    let num_tokens = completion.logprobs.len();
    let count = num_tokens as f64;
    let log_ratio = |token: usize| match completion.old_logprobs {
        [] => 0.0,
        old => completion.logprobs[token] - old[token],
    };
    let mean = (0..num_tokens).map(log_ratio).sum::<f64>() / count.max(1.0);
    // Of a sequence's ratio, to each of its tokens.
    let mut shared = 0.0;
    let mut out = GrpoLoss { grad: vec![0.0; num_tokens], ..GrpoLoss::default() };
    for token in 0..num_tokens {
        let log_ratio = match settings.importance {
            ImportanceLevel::Token => log_ratio(token),
            ImportanceLevel::Sequence => mean,
        };
        let surrogate = clipped_surrogate(log_ratio, completion.advantage, settings.clip);
        let weight = completion.importance_ratios.get(token).copied().unwrap_or(1.0);
        out.loss += weight * surrogate.loss;
        let mut slope = weight * surrogate.slope;
        match surrogate.clipped {
            Clipped::Low => out.clipped_low += 1.0 / count,
            Clipped::High => out.clipped_high += 1.0 / count,
            Clipped::No => {}
        }
        if settings.beta != 0.0 {
            let (mut kl, mut kl_slope) = kl_k3(completion.logprobs[token], completion.ref_logprobs[token]);
            if settings.unbiased_kl {
                slope += settings.beta * kl * surrogate.ratio;
                kl_slope *= surrogate.ratio;
                kl *= surrogate.ratio;
            }
            out.kl += kl;
            out.loss += settings.beta * kl;
            out.grad[token] += settings.beta * kl_slope;
        }
        match settings.importance {
            ImportanceLevel::Token => out.grad[token] += slope,
            ImportanceLevel::Sequence => shared += slope / count,
        }
    }
    out.grad.iter_mut().for_each(|grad| *grad += shared);
    out
}

/// Weight of each token of completions of these `lengths`, so that the sum is the loss of one forward pass. `mean_tokens`
/// is the number of tokens of a forward pass, in the mean over those that were sampled together.
pub fn token_weights(
    loss_type: GrpoLossType,
    lengths: &[usize],
    max_completion_length: usize,
    mean_tokens: f64,
) -> Vec<f64> {
    let count = lengths.len() as f64;
    let total = lengths.iter().sum::<usize>().max(1) as f64;
    let weight = |&length: &usize| match loss_type {
        GrpoLossType::Grpo => 1.0 / (count * length.max(1) as f64),
        GrpoLossType::Bnpo => 1.0 / total,
        GrpoLossType::DrGrpo => 1.0 / (count * max_completion_length as f64),
        GrpoLossType::Dapo => 1.0 / mean_tokens.max(1.0),
    };
    lengths.iter().map(weight).collect()
}
