//! Options of `rectify train rrhf` alone.

use super::keys::keys;

keys! {
    /// Keys of [`rectify_trainer::RrhfConfig`].
    "RRHF" RrhfKeys:
    /// Weight of the ranking beside the imitation of the best.
    rrhf_weight: f64,
    /// Log-probabilities are compared over the length to this power.
    length_penalty: f64,
    /// Adapters drop nothing.
    disable_dropout: bool,
}
