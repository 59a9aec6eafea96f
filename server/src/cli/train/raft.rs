//! Options of `rectify train raft` alone.

use super::keys::keys;

keys! {
    /// Keys of [`rectify_trainer::RaftConfig`].
    "Rejection-sampling fine-tuning" RaftKeys:
    /// Completions of each prompt, of which the best is learnt.
    num_generations: usize,
    /// Forward passes of a round; by default the whole data.
    steps_per_generation: usize,
    /// Passes over a round.
    num_iterations: usize,
    /// Learn only from completions with at least this reward.
    min_reward: f64,
}
