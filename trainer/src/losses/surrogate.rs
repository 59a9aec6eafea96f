//! The clipped surrogate that PPO, GRPO and RLOO share, of one importance ratio. Leaves what a ratio is of (a token, a
//! sequence) and how losses are averaged to the methods.

/// Bounds of the ratio between the policy and the one that sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipRange {
    /// The ratio earns nothing below `1 − low`.
    pub low: f64,
    /// The ratio earns nothing above `1 + high`.
    pub high: f64,
    /// Bound of the unclipped ratio, for negative advantages (two-sided clipping, arXiv:2505.07291 Eq. 8).
    pub delta: Option<f64>,
}

impl ClipRange {
    /// The same on both sides.
    pub fn symmetric(epsilon: f64) -> Self {
        Self { low: epsilon, high: epsilon, delta: None }
    }
}

/// Which bound took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clipped {
    /// The ratio is within both, or the bound costs nothing.
    No,
    /// The lower one, for a negative advantage.
    Low,
    /// The upper one, for a positive advantage.
    High,
}

/// Loss of one ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Surrogate {
    /// To be minimised.
    pub loss: f64,
    /// Of the loss, to the logarithm of the ratio.
    pub slope: f64,
    /// Which bound took effect.
    pub clipped: Clipped,
    /// The ratio itself, before any bound.
    pub ratio: f64,
}

/// `−min(ρ A, clip(ρ, 1 − ε_low, 1 + ε_high) A)` for `ρ = e^log_ratio`.
///
/// Schulman et al. 2017 (arXiv:1707.06347), Eq. 7; with an upper bound of its own as DAPO (arXiv:2503.14476), Eq. 10.
/// Where both terms are equal, the gradient is the mean of both, as PyTorch's `min` has it.
pub fn clipped_surrogate(log_ratio: f64, advantage: f64, range: ClipRange) -> Surrogate {
    let ratio = log_ratio.exp();
    let bounded = ratio.clamp(1.0 - range.low, 1.0 + range.high);
    let (free, free_slope) = match range.delta {
        Some(delta) if ratio > delta => (delta, 0.0),
        _ => (ratio, ratio),
    };
    let bounded_slope = if bounded == ratio { ratio } else { 0.0 };
    let (gain, slope) = match (free * advantage).total_cmp(&(bounded * advantage)) {
        std::cmp::Ordering::Less => (free * advantage, free_slope),
        std::cmp::Ordering::Greater => (bounded * advantage, bounded_slope),
        std::cmp::Ordering::Equal => (free * advantage, 0.5 * (free_slope + bounded_slope)),
    };
    let clipped = match () {
        () if free < 1.0 - range.low && advantage < 0.0 => Clipped::Low,
        () if free > 1.0 + range.high && advantage > 0.0 => Clipped::High,
        () => Clipped::No,
    };
    Surrogate { loss: -gain, slope: -advantage * slope, clipped, ratio }
}

/// `e^(ref − lp) − (ref − lp) − 1` and its slope to `lp`: an estimate of `KL(π ‖ π_ref)` that is never negative (k3 of
/// Schulman's note; DeepSeekMath, arXiv:2402.03300, Eq. 4).
pub fn kl_k3(logprob: f64, ref_logprob: f64) -> (f64, f64) {
    let difference = ref_logprob - logprob;
    (difference.exp_m1() - difference, -difference.exp_m1())
}
