//! Options of `rectify train spin` alone.

use super::keys::keys;

keys! {
    /// Keys of [`rectify_trainer::SpinConfig`].
    "Self-play fine-tuning" SpinKeys:
    /// Forward passes of a round, between which the opponent stays; by default the whole data.
    steps_per_generation: usize,
    /// Passes over a round.
    num_iterations: usize,
    /// Strength of the regularisation towards the opponent.
    beta: f64,
}
