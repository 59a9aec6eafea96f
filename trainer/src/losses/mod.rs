//! Losses as pure functions of log-probabilities and rewards: value and gradient, one file each, paper and equation in
//! the doc. Leaves models and data to `run`.

mod bradley_terry;
mod cross_entropy;

pub use bradley_terry::{PairLoss, bradley_terry};
pub use cross_entropy::cross_entropy;

/// `ln(1 + e^x)` without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + e^−x)` without overflow.
fn sigmoid(x: f64) -> f64 {
    let small = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) }
}
