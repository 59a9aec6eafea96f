//! Options of `rectify train orpo` alone.

use super::keys::keys;

keys! {
    /// Keys of [`rectify_trainer::OrpoConfig`].
    "Odds-ratio preference optimisation" OrpoKeys:
    /// Weight of the odds ratio beside the likelihood.
    beta: f64,
    /// Adapters drop nothing.
    disable_dropout: bool,
}
