//! Options of `rectify train cpo` alone.

use super::keys::keys;

keys! {
    /// Keys of [`rectify_trainer::CpoConfig`].
    "Contrastive preference optimisation" CpoKeys:
    /// sigmoid, hinge, ipo, simpo or alphapo. SimPO itself is simpo with --cpo-alpha 0.
    loss_type: String,
    /// Strength of the preference.
    beta: f64,
    /// Share of labels taken to be wrong, for sigmoid and simpo.
    label_smoothing: f64,
    /// Target margin of simpo.
    simpo_gamma: f64,
    /// Shape of AlphaPO's reward; 0 is the log-probability.
    alpha: f64,
    /// Weight of the chosen answers' likelihood.
    cpo_alpha: f64,
    /// Adapters drop nothing.
    disable_dropout: bool,
}
