//! Losses as pure functions of log-probabilities and rewards: value and gradient, one file each, paper and equation in
//! the doc. Leaves models and data to `run`.

mod advantages;
mod bradley_terry;
mod completions;
mod cpo;
mod cross_entropy;
mod dpo;
mod dual;
#[cfg(test)]
mod fixture;
mod gae;
mod grpo;
mod importance;
mod kto;
mod orpo;
#[cfg(test)]
mod policy_gradient_tests;
mod ppo;
mod rloo;
mod rrhf;
mod surrogate;

pub use advantages::{ScaleRewards, group_advantages, leave_one_out, mean_std};
pub use bradley_terry::{PairLoss, bradley_terry};
pub use completions::{Completions, Normalizer, Reduction, TokenLoss};
pub use cpo::{CpoLoss, CpoLossType, CpoOutput};
pub use cross_entropy::cross_entropy;
pub use dpo::{DpoBatch, DpoLoss, DpoLossType, DpoOutput, FDivergence};
pub use gae::{gae, whiten};
pub use grpo::{Grpo, GrpoCompletion, GrpoLoss, GrpoLossType, ImportanceLevel, grpo, token_weights};
pub use importance::{ImportanceMode, importance_ratios};
pub use kto::{KtoBatch, KtoLoss, KtoLossType, KtoOutput};
pub use orpo::{OrpoBatch, OrpoLoss, OrpoOutput};
pub use ppo::{AdaptiveKl, ValueLoss, token_rewards, value_loss};
pub use rloo::rloo;
pub use rrhf::{RrhfBatch, RrhfLoss, RrhfOutput};
pub use surrogate::{ClipRange, Clipped, Surrogate, clipped_surrogate, kl_k3};

/// `ln(1 + e^x)` without overflow.
pub(crate) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + e^−x)` without overflow.
fn sigmoid(x: f64) -> f64 {
    let small = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) }
}
