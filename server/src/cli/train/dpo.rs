//! Options of `rectify train dpo` alone.

use super::keys::keys;

keys! {
    /// Keys of [`rectify_trainer::DpoConfig`].
    "Direct preference optimisation" DpoKeys:
    /// One or several, joined by commas: sigmoid (DPO), cdpo, hinge, ipo, exo_pair, nca_pair, robust, bco_pair,
    /// sppo_hard, aot, aot_unpaired, apo_zero, apo_down, discopop, sft, sigmoid_norm.
    #[arg(value_delimiter = ',')]
    loss_type: Vec<String>,
    /// Weight of each of them; by default 1.
    #[arg(value_delimiter = ',')]
    loss_weights: Vec<f64>,
    /// How strongly the policy is kept near the reference.
    beta: f64,
    /// Share of labels taken to be wrong, for cdpo, exo_pair, robust, aot and aot_unpaired.
    label_smoothing: f64,
    /// What keeps the policy near the reference: reverse_kl, forward_kl, js_divergence or alpha_divergence.
    f_divergence_type: String,
    /// The α of alpha_divergence.
    f_alpha_divergence_coef: f64,
    /// Temperature of discopop.
    discopop_tau: f64,
    /// Weight of the longer answer's tokens beyond the shorter one's length.
    ld_alpha: f64,
    /// Weigh pairs by how likely the policy is to write them.
    use_weighting: bool,
    /// Without a reference.
    reference_free: bool,
    /// Ask the reference before the first step.
    precompute_ref_log_probs: bool,
    /// Adapters drop nothing.
    disable_dropout: bool,
}
