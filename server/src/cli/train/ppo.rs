//! Options of `rectify train ppo` alone.

use std::path::PathBuf;

use super::keys::keys;

keys! {
    /// Keys of [`rectify_trainer::PpoConfig`].
    "Proximal policy optimisation" PpoKeys:
    /// Passes over a rollout.
    num_ppo_epochs: usize,
    /// Optimiser steps of a pass.
    num_mini_batches: usize,
    /// Bring the rewards of tokens to variance 1.
    whiten_rewards: bool,
    /// Weight of the divergence from the reference, in the beginning.
    kl_coef: f64,
    /// Let that weight follow target.
    adap_kl_ctrl: bool,
    /// Divergence of a completion to keep to, in nats.
    target: f64,
    /// Completions over which the weight adapts.
    horizon: f64,
    /// The ratio earns nothing beyond 1 ± cliprange.
    cliprange: f64,
    /// Weight of the value loss.
    vf_coef: f64,
    /// A value moves at most this much in a rollout's passes.
    cliprange_value: f64,
    /// Weight of the mean entropy, which is rewarded.
    ent_coef: f64,
    /// Discount of rewards.
    gamma: f64,
    /// Decay of advantages.
    lam: f64,
    /// Subtracted from the score of completions that were cut.
    missing_eos_penalty: f64,
    /// Weight of the language-modelling loss on ptx_data (PPO-ptx).
    ptx_coef: f64,
    /// Texts of that loss; may be given several times.
    ptx_data: Vec<PathBuf>,
    /// Stop and restore above this divergence of a completion from the reference, in nats; 0 never does.
    max_kl: f64,
    /// Hold-out accuracy that a reward model must have reached, if its folder tells; 0 asks for none.
    min_reward_accuracy: f64,
}
