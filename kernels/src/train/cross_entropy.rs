//! Log-probabilities of target tokens from logits, and their gradient. Leaves which tokens count, and how much, to the
//! losses.

use super::simd::{exp, max_of, multiversion, sum_of};
use super::{Shared, for_chunks, rows_per_task};
use crate::Pool;

/// One token under the model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenStats {
    /// Natural log of the target's probability.
    pub logprob: f32,
    /// Natural log of `Σ e^logit`.
    pub log_sum_exp: f32,
    /// The target has the largest logit.
    pub is_argmax: bool,
}

/// Statistics of `targets`, `[rows]`, under `logits`, `[rows, vocab]`.
///
/// # Panics
/// If a target is not in the vocabulary or the lengths do not fit.
pub fn logprobs(pool: &Pool, logits: &[f32], vocab: usize, targets: &[u32], out: &mut [TokenStats]) {
    assert!(logits.len() == targets.len() * vocab && out.len() == targets.len(), "logprobs shapes");
    let shared = Shared::new(out);
    for_chunks(pool, targets.len(), rows_per_task(vocab), |first, last| {
        for row in first..last {
            // SAFETY: rows are disjoint.
            let out = unsafe { shared.part(row, row + 1) };
            let logits = &logits[row * vocab..(row + 1) * vocab];
            let (max, sum) = max_and_sum(logits);
            let target = logits[targets[row] as usize];
            let log_sum_exp = max + sum.ln();
            out[0] = TokenStats { logprob: target - log_sum_exp, log_sum_exp, is_argmax: target >= max };
        }
    });
}

multiversion! { fn max_and_sum(logits: &[f32]) -> (f32, f32) = max_and_sum_body }

#[inline(always)]
fn max_and_sum_body<const FMA: bool>(logits: &[f32]) -> (f32, f32) {
    let max = max_of(logits);
    (max, sum_of(logits.len(), |i| exp::<FMA>(logits[i] - max)))
}

/// Turns `logits` into their gradient in place: `grad[r] · (onehot(targets[r]) − softmax(logits[r]))`, where `grad` is
/// the gradient to each log-probability.
///
/// # Panics
/// If a target is not in the vocabulary or the lengths do not fit.
pub fn logprobs_backward(
    pool: &Pool,
    logits: &mut [f32],
    vocab: usize,
    targets: &[u32],
    stats: &[TokenStats],
    grad: &[f32],
) {
    assert!(logits.len() == targets.len() * vocab, "logprobs shapes");
    assert!(stats.len() == targets.len() && grad.len() == targets.len(), "logprobs shapes");
    let shared = Shared::new(logits);
    for_chunks(pool, targets.len(), rows_per_task(vocab), |first, last| {
        for row in first..last {
            // SAFETY: rows are disjoint.
            let logits = unsafe { shared.part(row * vocab, (row + 1) * vocab) };
            minus_softmax(logits, stats[row].log_sum_exp, grad[row]);
            logits[targets[row] as usize] += grad[row];
        }
    });
}

multiversion! { fn minus_softmax(logits: &mut [f32], log_sum_exp: f32, grad: f32) = minus_softmax_body }

#[inline(always)]
fn minus_softmax_body<const FMA: bool>(logits: &mut [f32], log_sum_exp: f32, grad: f32) {
    for logit in logits {
        *logit = -grad * exp::<FMA>(*logit - log_sum_exp);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{gradient_error, numbers};
    use super::*;

    #[test]
    fn gradient_is_the_slope_and_probabilities_sum_to_one() {
        let pool = Pool::new(2).unwrap();
        let (vocab, targets) = (37, [0u32, 36, 5]);
        let logits = numbers(1, 3 * vocab);
        let upstream = [0.5f32, -1.0, 2.0];
        let stats = |logits: &[f32], targets: &[u32]| {
            let mut out = vec![TokenStats::default(); targets.len()];
            logprobs(&pool, logits, vocab, targets, &mut out);
            out
        };
        let mut grad = logits.clone();
        logprobs_backward(&pool, &mut grad, vocab, &targets, &stats(&logits, &targets), &upstream);
        let loss = |logits: &[f32]| -> f64 {
            stats(logits, &targets)
                .iter()
                .zip(&upstream)
                .map(|(s, u)| f64::from(s.logprob) * f64::from(*u))
                .sum()
        };
        assert!(gradient_error(&logits, &grad, loss) < 2e-3);
        let total: f64 =
            (0..vocab as u32).map(|t| f64::from(stats(&logits[..vocab], &[t])[0].logprob).exp()).sum();
        assert!((total - 1.0).abs() < 1e-5);
    }
}
