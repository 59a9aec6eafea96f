//! Options of `rectify train reward` alone.

use super::keys::keys;

keys! {
    /// Keys of [`rectify_trainer::RewardConfig`].
    "Reward model" RewardKeys:
    /// Weight of the centring term.
    center_rewards_coefficient: f64,
    /// Hold-out accuracy below which training fails.
    min_eval_accuracy: f64,
}
