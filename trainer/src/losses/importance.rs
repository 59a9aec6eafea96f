//! Weights for samples that another distribution than the training policy drew: the engine's numbers differ from the
//! trainer's in rounding, and the policy may have moved. From the logprobs recorded at sampling. Leaves their use to the
//! losses.

use serde::{Deserialize, Serialize};

/// How ratios out of bounds are treated, and what a ratio is of: TRL's `vllm_importance_sampling_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceMode {
    /// Of tokens, cut to the bounds.
    TokenTruncate,
    /// Of tokens, zero out of bounds.
    TokenMask,
    /// Of completions, cut to the bounds.
    SequenceTruncate,
    /// Of completions, zero out of bounds.
    #[default]
    SequenceMask,
}

/// `π_old / π_sampler` of each token of a completion, within `[min, max]`: truncated importance sampling (Yao et al.
/// 2025) or masked (arXiv:2510.18855).
pub fn importance_ratios(
    old_logprobs: &[f64],
    sampling_logprobs: &[f64],
    mode: ImportanceMode,
    min: Option<f64>,
    max: Option<f64>,
) -> Vec<f64> {
    let (min, max) = (min.unwrap_or(0.0), max.unwrap_or(f64::INFINITY));
    let difference = |(old, sampling): (&f64, &f64)| old - sampling;
    let differences = old_logprobs.iter().zip(sampling_logprobs).map(difference);
    let truncate = |ratio: f64| ratio.max(min).min(max);
    let mask = |ratio: f64| if (min..=max).contains(&ratio) { ratio } else { 0.0 };
    let whole = || differences.clone().sum::<f64>().exp();
    match mode {
        ImportanceMode::TokenTruncate => differences.map(|d| truncate(d.exp())).collect(),
        ImportanceMode::TokenMask => differences.map(|d| mask(d.exp())).collect(),
        ImportanceMode::SequenceTruncate => vec![truncate(whole()); old_logprobs.len()],
        ImportanceMode::SequenceMask => vec![mask(whole()); old_logprobs.len()],
    }
}
