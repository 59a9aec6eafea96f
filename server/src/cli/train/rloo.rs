//! Options of `rectify train rloo` alone.

use super::keys::keys;

keys! {
    /// Keys of [`rectify_trainer::RlooConfig`].
    "REINFORCE leave-one-out" RlooKeys:
    /// Completions of each prompt.
    num_generations: usize,
    /// Forward passes that are sampled for at once; by default those of one optimiser step.
    steps_per_generation: usize,
    /// Passes over what was sampled at once.
    num_iterations: usize,
    /// Weight of the divergence from the reference, taken off the reward.
    beta: f64,
    /// The ratio earns nothing below 1 − epsilon.
    epsilon: f64,
    /// The ratio earns nothing above 1 + epsilon_high; by default epsilon.
    epsilon_high: f64,
    /// Bring advantages to mean 0 and variance 1.
    normalize_advantages: bool,
    /// Bounds of a reward: LOW,HIGH.
    #[arg(value_delimiter = ',', allow_hyphen_values = true)]
    reward_clip_range: Vec<f64>,
    /// Completions that reached max_completion_length teach nothing.
    mask_truncated_completions: bool,
    /// Stop and restore above this divergence of a completion from the reference, in nats.
    max_kl: f64,
}
