//! Advantages of completions from their rewards, among completions of the same prompt: GRPO's and RLOO's. Completions
//! without a reward (NaN) take no part and get 0. Leaves advantages of tokens to `gae`.

use serde::{Deserialize, Serialize};

/// By what rewards are scaled once their mean is subtracted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// The standard deviation of the prompt's completions.
    #[default]
    Group,
    /// The standard deviation of all completions (arXiv:2508.08221).
    Batch,
    /// Nothing (Dr. GRPO, arXiv:2503.20783).
    None,
}

/// Added to standard deviations.
const EPSILON: f64 = 1e-4;

/// Mean and standard deviation (with Bessel's correction) of the numbers among `values`; NaN if there are too few.
pub fn mean_std(values: &[f64]) -> (f64, f64) {
    let known = || values.iter().filter(|value| !value.is_nan());
    let count = known().count() as f64;
    let mean = known().sum::<f64>() / count;
    let squares: f64 = known().map(|value| (value - mean).powi(2)).sum();
    (mean, if count > 1.0 { (squares / (count - 1.0)).sqrt() } else { f64::NAN })
}

/// `(r − mean of its group) / std`: DeepSeekMath (arXiv:2402.03300), §4.1.2. `rewards` are `num_generations` for each
/// prompt in turn.
pub fn group_advantages(rewards: &[f64], num_generations: usize, scale: ScaleRewards) -> Vec<f64> {
    let (_, batch_std) = mean_std(rewards);
    let group = |group: &[f64]| {
        let (mean, group_std) = mean_std(group);
        let divisor = match scale {
            ScaleRewards::Group => group_std + EPSILON,
            ScaleRewards::Batch => batch_std + EPSILON,
            ScaleRewards::None => 1.0,
        };
        group.iter().map(|reward| known((reward - mean) / divisor)).collect::<Vec<f64>>()
    };
    rewards.chunks(num_generations.max(1)).flat_map(group).collect()
}

/// `r − mean of the others of its group`: Ahmadian et al. 2024 (arXiv:2402.14740), Eq. 8; with `normalize`, then whitened
/// over all.
pub fn leave_one_out(rewards: &[f64], num_generations: usize, normalize: bool) -> Vec<f64> {
    let group = |group: &[f64]| {
        let known = || group.iter().filter(|reward| !reward.is_nan());
        let (sum, count) = (known().sum::<f64>(), known().count() as f64);
        group.iter().map(|reward| reward - (sum - reward) / (count - 1.0)).collect::<Vec<f64>>()
    };
    let mut advantages: Vec<f64> = rewards.chunks(num_generations.max(1)).flat_map(group).collect();
    if normalize {
        let (mean, std) = mean_std(&advantages);
        advantages.iter_mut().for_each(|advantage| *advantage = (*advantage - mean) / (std + EPSILON));
    }
    advantages.into_iter().map(known).collect()
}

fn known(advantage: f64) -> f64 {
    if advantage.is_nan() { 0.0 } else { advantage }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_without_a_reward_take_no_part() {
        let rewards = [1.0, f64::NAN, 3.0, f64::NAN, f64::NAN, 5.0];
        let group = group_advantages(&rewards, 3, ScaleRewards::None);
        assert_eq!(group, [-1.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(leave_one_out(&rewards, 3, false), [-2.0, 0.0, 2.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn equal_rewards_teach_nothing() {
        assert_eq!(group_advantages(&[2.0; 4], 4, ScaleRewards::Group), [0.0; 4]);
        assert_eq!(leave_one_out(&[2.0; 4], 4, false), [0.0; 4]);
    }
}
