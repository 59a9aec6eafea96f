//! f-divergences in place of DPO's reverse KL: Wang et al. 2023 (arXiv:2309.16240), Table 1. Leaves the losses on the
//! scores to `loss_type`.

use crate::losses::dual::Dual;

/// What keeps the policy near the reference: a pair's score is `f′(π / π_ref)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum FDivergence {
    /// `ln t`: DPO itself.
    #[default]
    ReverseKl,
    /// `1 − 1/t`.
    ForwardKl,
    /// `ln(2t / (1 + t))`.
    JsDivergence,
    /// `(t^(α−1) − 1) / (α − 1)`; `α = 1` is reverse KL.
    Alpha(f64),
}

/// Beyond this exponent TRL holds the score of an `α`-divergence.
const LARGEST_EXPONENT: f64 = 80.0;

impl FDivergence {
    /// Score of a log-ratio `ln t`.
    pub(super) fn score<const N: usize>(self, ratio: Dual<N>) -> Dual<N> {
        match self {
            Self::ForwardKl => -(-ratio).exp() + 1.0,
            Self::JsDivergence => ratio.log_sigmoid() + std::f64::consts::LN_2,
            Self::Alpha(alpha) if (alpha - 1.0).abs() >= 1e-6 => {
                let power = alpha - 1.0;
                ((ratio * power).at_most(LARGEST_EXPONENT).exp() - 1.0) * power.recip()
            }
            Self::ReverseKl | Self::Alpha(_) => ratio,
        }
    }
}
