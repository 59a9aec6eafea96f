//! Log-probabilities of target tokens and entropies from logits, block of columns by block, and their gradient: whole
//! rows of logits never need to exist. Leaves which tokens count, and how much, to the losses.

use super::simd::{exp, fma, max_of, multiversion, sums_of};
use super::{Shared, for_chunks, rows_per_task};
use crate::Pool;

/// One token under the model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenStats {
    /// Natural log of the target's probability.
    pub logprob: f32,
    /// Natural log of `Σ e^logit`.
    pub log_sum_exp: f32,
    /// `−Σ p ln p` of the whole distribution, in nats.
    pub entropy: f32,
    /// `ln Σ p²` of the whole distribution.
    pub log_sum_sq_probs: f32,
    /// Mean of the logits.
    pub mean_logit: f32,
    /// The target has the largest logit.
    pub is_argmax: bool,
}

/// What is known of a row after some of its columns: the online log-softmax of Milakov and Gimelshein 2018
/// (arXiv:1805.02867).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowSums {
    max: f32,
    /// `Σ e^(logit − max)`.
    sum: f32,
    /// `Σ e^(logit − max) (logit − max)`.
    weighted: f32,
    /// `Σ e^2(logit − max)`.
    squares: f32,
    /// `Σ logit`, and how many.
    total: f32,
    count: usize,
    /// The target's logit.
    target: f32,
}

impl Default for RowSums {
    fn default() -> Self {
        Self {
            max: f32::NEG_INFINITY,
            sum: 0.0,
            weighted: 0.0,
            squares: 0.0,
            total: 0.0,
            count: 0,
            target: f32::NEG_INFINITY,
        }
    }
}

impl RowSums {
    /// Adds other columns of the same row.
    fn merge(&mut self, other: Self) {
        if self.max == f32::NEG_INFINITY {
            let target = self.target.max(other.target);
            *self = Self { target, ..other };
            return;
        }
        let max = self.max.max(other.max);
        let (mut sum, mut weighted, mut squares) = (0.0, 0.0, 0.0);
        for part in [&*self, &other] {
            let shift = part.max - max;
            let scale = shift.exp();
            sum += scale * part.sum;
            weighted += scale * (part.weighted + part.sum * shift);
            squares += scale * scale * part.squares;
        }
        let (total, count) = (self.total + other.total, self.count + other.count);
        *self = Self { max, sum, weighted, squares, total, count, target: self.target.max(other.target) };
    }

    /// The statistics, once all columns were seen.
    pub fn finish(&self) -> TokenStats {
        let log_sum = self.sum.ln();
        let log_sum_exp = self.max + log_sum;
        TokenStats {
            logprob: self.target - log_sum_exp,
            log_sum_exp,
            entropy: log_sum - self.weighted / self.sum,
            log_sum_sq_probs: self.squares.ln() - 2.0 * log_sum,
            mean_logit: self.total / self.count as f32,
            is_argmax: self.target >= self.max,
        }
    }
}

/// Columns `first..first + width` of some rows' logits, `[rows, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogitColumns {
    /// First column: a token's id is its column.
    pub first: usize,
    /// How many.
    pub width: usize,
}

impl LogitColumns {
    /// Where in a row the target is, if it is there.
    fn find(&self, target: u32) -> Option<usize> {
        (target as usize).checked_sub(self.first).filter(|column| *column < self.width)
    }
}

/// Adds the `columns` of `logits` to the sums of their rows; `targets` is `[rows]`.
///
/// # Panics
/// If the lengths do not fit.
pub fn logprobs(pool: &Pool, logits: &[f32], columns: LogitColumns, targets: &[u32], sums: &mut [RowSums]) {
    let width = columns.width;
    assert!(logits.len() == targets.len() * width && sums.len() == targets.len(), "logprobs shapes");
    let shared = Shared::new(sums);
    for_chunks(pool, targets.len(), rows_per_task(width), |first, last| {
        for row in first..last {
            // SAFETY: rows are disjoint.
            let sums = unsafe { shared.part(row, row + 1) };
            let logits = &logits[row * width..(row + 1) * width];
            let target = columns.find(targets[row]).map_or(f32::NEG_INFINITY, |column| logits[column]);
            sums[0].merge(RowSums { target, ..row_sums(logits) });
        }
    });
}

multiversion! { fn row_sums(logits: &[f32]) -> RowSums = row_sums_body }

#[inline(always)]
fn row_sums_body<const FMA: bool>(logits: &[f32]) -> RowSums {
    let max = max_of(logits);
    let [sum, weighted, squares, total] = sums_of([logits], |[logit]| {
        let shifted = logit - max;
        let weight = exp::<FMA>(shifted);
        [weight, weight * shifted, weight * weight, logit]
    });
    RowSums { max, sum, weighted, squares, total, count: logits.len(), target: f32::NEG_INFINITY }
}

/// Gradients to each row's log-probability and entropy, `[rows]` each; empty for none.
#[derive(Clone, Copy, Debug)]
pub struct LogprobGrads<'a> {
    /// To [`TokenStats::logprob`].
    pub logprobs: &'a [f32],
    /// To [`TokenStats::entropy`].
    pub entropies: &'a [f32],
}

impl LogprobGrads<'_> {
    /// Those of one row.
    fn of(&self, row: usize) -> (f32, f32) {
        let of = |grads: &[f32]| grads.get(row).copied().unwrap_or(0.0);
        (of(self.logprobs), of(self.entropies))
    }
}

/// Turns `columns` of `logits` into their gradient in place.
///
/// With `p = softmax(logits)`: `∂ logprob = onehot(target) − p` and `∂ entropy = −p (ln p + entropy)`.
///
/// # Panics
/// If the lengths do not fit.
pub fn logprobs_backward(
    pool: &Pool,
    logits: &mut [f32],
    columns: LogitColumns,
    targets: &[u32],
    stats: &[TokenStats],
    grads: LogprobGrads<'_>,
) {
    let (width, rows) = (columns.width, targets.len());
    assert!(logits.len() == rows * width && stats.len() == rows, "logprobs shapes");
    let fits = |grads: &[f32]| grads.is_empty() || grads.len() == rows;
    assert!(fits(grads.logprobs) && fits(grads.entropies), "logprobs shapes");
    let shared = Shared::new(logits);
    for_chunks(pool, rows, rows_per_task(width), |first, last| {
        for row in first..last {
            // SAFETY: rows are disjoint.
            let logits = unsafe { shared.part(row * width, (row + 1) * width) };
            let (logprob, entropy) = grads.of(row);
            let TokenStats { log_sum_exp, entropy: mean, .. } = stats[row];
            logits_grad(logits, log_sum_exp, -(entropy * mean + logprob), -entropy);
            if let Some(column) = columns.find(targets[row]) {
                logits[column] += logprob;
            }
        }
    });
}

multiversion! {
    /// `p (constant + slope · ln p)`, with `ln p = logit − log_sum_exp`.
    fn logits_grad(logits: &mut [f32], log_sum_exp: f32, constant: f32, slope: f32) = logits_grad_body
}

#[inline(always)]
fn logits_grad_body<const FMA: bool>(logits: &mut [f32], log_sum_exp: f32, constant: f32, slope: f32) {
    for logit in logits {
        let logprob = *logit - log_sum_exp;
        *logit = exp::<FMA>(logprob) * fma::<FMA>(slope, logprob, constant);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests_support::{gradient_error, numbers};
    use super::*;

    /// `ln Σ p²` and the mean logit by the definition, in f64.
    fn moments(logits: &[f32]) -> (f64, f64) {
        let logits: Vec<f64> = logits.iter().map(|logit| f64::from(*logit)).collect();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum_of = |power: f64| logits.iter().map(|logit| (power * (logit - max)).exp()).sum::<f64>().ln();
        (sum_of(2.0) - 2.0 * sum_of(1.0), logits.iter().sum::<f64>() / logits.len() as f64)
    }

    /// Log-probability and entropy by the definition, in f64.
    fn oracle(logits: &[f32], target: u32) -> (f64, f64) {
        let logits: Vec<f64> = logits.iter().map(|logit| f64::from(*logit)).collect();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum_exp = max + logits.iter().map(|logit| (logit - max).exp()).sum::<f64>().ln();
        let entropy = -logits.iter().map(|z| (z - log_sum_exp).exp() * (z - log_sum_exp)).sum::<f64>();
        (logits[target as usize] - log_sum_exp, entropy)
    }

    /// Columns `first..last` of every row.
    fn columns_of(logits: &[f32], vocab: usize, (first, last): (usize, usize)) -> Vec<f32> {
        logits.chunks(vocab).flat_map(|row| &row[first..last]).copied().collect()
    }

    fn stats_of(pool: &Pool, logits: &[f32], vocab: usize, block: usize, targets: &[u32]) -> Vec<TokenStats> {
        let mut sums = vec![RowSums::default(); targets.len()];
        for first in (0..vocab).step_by(block) {
            let last = vocab.min(first + block);
            let columns = LogitColumns { first, width: last - first };
            logprobs(pool, &columns_of(logits, vocab, (first, last)), columns, targets, &mut sums);
        }
        sums.iter().map(RowSums::finish).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_blocks_give_the_definition(
            seed in 0u64..1000, vocab in 1usize..200, block in 1usize..80, spread in 0.1f32..30.0,
        ) {
            let pool = Pool::new(2).unwrap();
            let logits: Vec<f32> = numbers(seed, 3 * vocab).iter().map(|logit| logit * spread).collect();
            let targets = [0, (vocab / 2) as u32, vocab as u32 - 1];
            for (row, stats) in stats_of(&pool, &logits, vocab, block, &targets).iter().enumerate() {
                let row_logits = &logits[row * vocab..(row + 1) * vocab];
                let (logprob, entropy) = oracle(row_logits, targets[row]);
                prop_assert!((f64::from(stats.logprob) - logprob).abs() < 2e-5 * logprob.abs().max(1.0));
                prop_assert!((f64::from(stats.entropy) - entropy).abs() < 2e-5);
                let (squares, mean) = moments(row_logits);
                prop_assert!((f64::from(stats.log_sum_sq_probs) - squares).abs() < 2e-5);
                prop_assert!((f64::from(stats.mean_logit) - mean).abs() < 2e-5);
                let target = row_logits[targets[row] as usize];
                prop_assert_eq!(stats.is_argmax, row_logits.iter().all(|logit| *logit <= target));
            }
        }
    }

    #[test]
    fn gradients_are_the_slope_in_every_block() {
        let pool = Pool::new(2).unwrap();
        let (vocab, targets) = (37, [0u32, 36, 5]);
        let logits = numbers(1, 3 * vocab);
        let (upstream, entropies) = ([0.5f32, -1.0, 2.0], [1.5f32, 0.5, -0.25]);
        let stats = stats_of(&pool, &logits, vocab, vocab, &targets);
        for (block, with_entropy) in [(vocab, false), (vocab, true), (10, true)] {
            let entropies = if with_entropy { &entropies[..] } else { &[] };
            let mut grad = vec![0.0; logits.len()];
            for first in (0..vocab).step_by(block) {
                let last = vocab.min(first + block);
                let columns = LogitColumns { first, width: last - first };
                let mut part = columns_of(&logits, vocab, (first, last));
                let grads = LogprobGrads { logprobs: &upstream, entropies };
                logprobs_backward(&pool, &mut part, columns, &targets, &stats, grads);
                for (row, part) in part.chunks(last - first).enumerate() {
                    grad[row * vocab + first..row * vocab + last].copy_from_slice(part);
                }
            }
            let loss = |logits: &[f32]| -> f64 {
                let rows = logits.chunks(vocab).zip(targets).enumerate();
                rows.map(|(row, (logits, target))| {
                    let (logprob, entropy) = oracle(logits, target);
                    f64::from(upstream[row]) * logprob
                        + entropies.get(row).map_or(0.0, |grad| f64::from(*grad) * entropy)
                })
                .sum()
            };
            assert!(gradient_error(&logits, &grad, loss) < 1e-3);
        }
    }
}
