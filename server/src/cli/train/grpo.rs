//! Options of `rectify train grpo` alone.

use super::keys::keys;

keys! {
    /// Keys of [`rectify_trainer::GrpoConfig`].
    "Group-relative policy optimisation" GrpoKeys:
    /// Completions of each prompt.
    num_generations: usize,
    /// Forward passes that are sampled for at once; by default those of one optimiser step.
    steps_per_generation: usize,
    /// Passes over what was sampled at once.
    num_iterations: usize,
    /// Weight of the divergence from the reference; 0 leaves the reference out.
    beta: f64,
    /// The ratio earns nothing below 1 − epsilon.
    epsilon: f64,
    /// The ratio earns nothing above 1 + epsilon_high; by default epsilon.
    epsilon_high: f64,
    /// Bound of the ratio for negative advantages.
    delta: f64,
    /// What a ratio is of: token or sequence.
    importance_sampling_level: String,
    /// By what rewards are scaled: group, batch or none.
    scale_rewards: String,
    /// How losses of tokens become one: grpo, bnpo, dr_grpo or dapo.
    loss_type: String,
    /// Completions that reached max_completion_length teach nothing.
    mask_truncated_completions: bool,
    /// The divergence is weighted by the ratio.
    use_bias_correction_kl: bool,
    /// Weight of the mean entropy, which is rewarded.
    entropy_coef: f64,
    /// Weight completions by the ratio between the trainer's and the sampler's probabilities.
    vllm_importance_sampling_correction: bool,
    /// token_truncate, token_mask, sequence_truncate or sequence_mask.
    vllm_importance_sampling_mode: String,
    /// Upper bound of that ratio.
    vllm_importance_sampling_clip_max: f64,
    /// Lower bound of that ratio.
    vllm_importance_sampling_clip_min: f64,
    /// Stop and restore above this divergence of a completion from the reference, in nats.
    max_kl: f64,
}
