//! Options of `rectify train online-dpo` alone.

use super::keys::keys;

keys! {
    /// Keys of [`rectify_trainer::OnlineDpoConfig`].
    "Online preference optimisation" OnlineDpoKeys:
    /// Completions of each prompt: the best of them is chosen, the worst rejected.
    num_generations: usize,
    /// Forward passes that are sampled for at once; by default those of one optimiser step.
    steps_per_generation: usize,
    /// Passes over what was sampled at once.
    num_iterations: usize,
    /// How much the divergence from the reference costs.
    beta: f64,
    /// The loss of a pair: sigmoid or ipo.
    loss_type: String,
    /// Subtracted from the reward of completions that were cut.
    missing_eos_penalty: f64,
    /// Stop and restore above this divergence of a completion from the reference, in nats.
    max_kl: f64,
}
