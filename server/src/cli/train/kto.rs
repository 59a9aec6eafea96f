//! Options of `rectify train kto` alone.

use super::keys::keys;

keys! {
    /// Keys of [`rectify_trainer::KtoConfig`].
    "Kahneman–Tversky optimisation" KtoKeys:
    /// kto, or apo_zero_unpaired, which needs no KL estimate.
    loss_type: String,
    /// How strongly the policy is kept near the reference.
    beta: f64,
    /// Weight of liked answers.
    desirable_weight: f64,
    /// Weight of the others.
    undesirable_weight: f64,
    /// Ask the reference before the first step.
    precompute_ref_log_probs: bool,
    /// Adapters drop nothing.
    disable_dropout: bool,
}
