//! Advantages of tokens from rewards and values: generalised advantage estimation and whitening. Leaves losses to `ppo`.

/// Advantages and returns of one completion, `[num_tokens]` each.
///
/// `δ_t = r_t + γ V_{t+1} − V_t`, `A_t = δ_t + γλ A_{t+1}`, `R_t = A_t + V_t`, nothing after the last token: Schulman et al.
/// 2015 (arXiv:1506.02438), Eq. 16. `values[t]` is the value before token `t` is chosen.
pub fn gae(rewards: &[f64], values: &[f64], gamma: f64, lambda: f64) -> (Vec<f64>, Vec<f64>) {
    let mut advantages = vec![0.0; rewards.len()];
    let (mut next_value, mut next_advantage) = (0.0, 0.0);
    for token in (0..rewards.len()).rev() {
        let delta = rewards[token] + gamma * next_value - values[token];
        next_advantage = delta + gamma * lambda * next_advantage;
        next_value = values[token];
        advantages[token] = next_advantage;
    }
    let returns = advantages.iter().zip(values).map(|(advantage, value)| advantage + value).collect();
    (advantages, returns)
}

/// Brings `values` to variance 1 and, with `shift_mean`, to mean 0: `(x − mean) / √(variance + 10⁻⁸)`, the variance with
/// Bessel's correction.
pub fn whiten<'a>(values: impl Iterator<Item = &'a mut f64>, shift_mean: bool) {
    let mut values: Vec<&mut f64> = values.collect();
    let count = values.len() as f64;
    if count < 2.0 {
        return;
    }
    let mean = values.iter().map(|value| **value).sum::<f64>() / count;
    let variance = values.iter().map(|value| (**value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let scale = (variance + 1e-8).sqrt().recip();
    let shift = if shift_mean { 0.0 } else { mean };
    values.iter_mut().for_each(|value| **value = (**value - mean) * scale + shift);
}
