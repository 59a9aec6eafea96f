//! Next-token cross-entropy, for supervised fine-tuning.

/// Negative sum of `logprobs`, `[num_tokens]` in nats, over `num_tokens`; writes its gradient to each into `grad`.
///
/// `num_tokens` is the number of loss tokens of the whole optimiser step, so that a step is the mean over its tokens
/// however they are spread over forward passes.
pub fn cross_entropy(logprobs: &[f32], num_tokens: f64, grad: &mut Vec<f32>) -> f64 {
    grad.clear();
    grad.resize(logprobs.len(), (-1.0 / num_tokens) as f32);
    -logprobs.iter().map(|logprob| f64::from(*logprob)).sum::<f64>() / num_tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_mean_and_its_gradient_the_share() {
        let mut grad = Vec::new();
        assert_eq!(cross_entropy(&[-1.0, -2.0, -3.0], 3.0, &mut grad), 2.0);
        assert_eq!(grad, [-1.0 / 3.0; 3]);
    }

    #[test]
    fn parts_of_a_step_add_up_to_the_whole() {
        let mut grad = Vec::new();
        let parts = cross_entropy(&[-1.0], 3.0, &mut grad) + cross_entropy(&[-2.0, -3.0], 3.0, &mut grad);
        assert_eq!(parts, 2.0);
    }
}
