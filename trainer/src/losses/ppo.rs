//! Proximal policy optimisation: per-token rewards, the value loss and the adaptive weight of the divergence. The policy
//! loss is the surrogate of `surrogate` with the advantages of `gae`.

/// Per-token rewards of a completion: `−β (lp_t − ref_t)`, and the score on its last token.
///
/// Ouyang et al. 2022 (arXiv:2203.02155), §3.4; Ziegler et al. 2019 (arXiv:1909.08593), Eq. 2.
pub fn token_rewards(logprobs: &[f64], ref_logprobs: &[f64], score: f64, beta: f64) -> Vec<f64> {
    let penalty = |(logprob, reference): (&f64, &f64)| -beta * (logprob - reference);
    let mut rewards: Vec<f64> = logprobs.iter().zip(ref_logprobs).map(penalty).collect();
    if let Some(last) = rewards.last_mut() {
        *last += score;
    }
    rewards
}

/// Loss of one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueLoss {
    /// To be minimised.
    pub loss: f64,
    /// To the value.
    pub slope: f64,
    /// The bound took effect.
    pub is_clipped: bool,
}

/// `½ max((V − R)², (clip(V, V_old − c, V_old + c) − R)²)`: the value function moves at most `c` a rollout.
///
/// Schulman's baselines, as in Huang et al. 2022 ("The 37 implementation details of PPO"), detail 9. Where both terms
/// are equal, the gradient is the mean of both, as PyTorch's `max` has it.
pub fn value_loss(value: f64, old_value: f64, target: f64, clip: f64) -> ValueLoss {
    let bounded = value.clamp(old_value - clip, old_value + clip);
    let (free_error, bounded_error) = (value - target, bounded - target);
    let bounded_slope = if bounded == value { bounded_error } else { 0.0 };
    let (free, bounded) = (free_error * free_error, bounded_error * bounded_error);
    let slope = match free.total_cmp(&bounded) {
        std::cmp::Ordering::Greater => free_error,
        std::cmp::Ordering::Less => bounded_slope,
        std::cmp::Ordering::Equal => 0.5 * (free_error + bounded_slope),
    };
    ValueLoss { loss: 0.5 * free.max(bounded), slope, is_clipped: bounded > free }
}

/// The weight of the divergence from the reference, which follows what it should be.
///
/// Ziegler et al. 2019 (arXiv:1909.08593), §2.2: `β ← β (1 + clip(KL / target − 1, −0.2, 0.2) · n / horizon)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveKl {
    /// The weight now.
    pub coefficient: f64,
    /// The divergence of a completion to keep to, in nats; `None` leaves the weight.
    pub target: Option<f64>,
    /// Completions over which the weight adapts.
    pub horizon: f64,
}

impl AdaptiveKl {
    /// Adapts to the mean divergence of `num_completions`.
    pub fn update(&mut self, kl: f64, num_completions: usize) {
        if let Some(target) = self.target {
            let error = (kl / target - 1.0).clamp(-0.2, 0.2);
            self.coefficient *= 1.0 + error * num_completions as f64 / self.horizon;
        }
    }
}
