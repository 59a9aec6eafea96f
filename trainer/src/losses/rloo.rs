//! REINFORCE with a leave-one-out baseline: the loss of one completion. Leaves the baseline to `advantages`.

use super::surrogate::{ClipRange, Surrogate, clipped_surrogate};

/// The clipped surrogate of the whole completion's ratio `e^Σ(lp − old)`; its slope is that to each token's logprob.
///
/// Ahmadian et al. 2024 (arXiv:2402.14740), Eq. 7, with PPO's bounds for completions that are used more than once.
pub fn rloo(logprobs: &[f64], old_logprobs: &[f64], advantage: f64, clip: ClipRange) -> Surrogate {
    let log_ratio = logprobs.iter().sum::<f64>() - old_logprobs.iter().sum::<f64>();
    clipped_surrogate(log_ratio, advantage, clip)
}
