//! Reductions over a row of logits, each with a fixed order of summation. Leaves sampling to `engine`.

use crate::error::{check_len, ensure};
use crate::rows::for_each_chunk;
use crate::{KernelError, Pool};

/// `ln Σ exp(row)`, in nats.
pub fn log_sum_exp(row: &[f32]) -> f32 {
    let max = max(row);
    if max == f32::NEG_INFINITY {
        return max;
    }
    max + row.iter().map(|x| (x - max).exp()).sum::<f32>().ln()
}

/// Natural logarithm of the softmax of each row of `logits`, `[rows, vocab]`, at the row's target: `targets` and `out`
/// are `[rows]`.
///
/// # Errors
/// [`KernelError`] if lengths disagree or a target lies outside the vocabulary.
pub fn logprob_gather(
    pool: &Pool,
    logits: &[f32],
    vocab: usize,
    targets: &[u32],
    out: &mut [f32],
) -> Result<(), KernelError> {
    check_len("logits", logits.len(), targets.len() * vocab)?;
    check_len("out", out.len(), targets.len())?;
    if let Some(target) = targets.iter().find(|&&target| target as usize >= vocab) {
        return Err(KernelError::Invalid(format!("target {target} lies outside a vocabulary of {vocab}")));
    }
    for_each_chunk(pool, logits.len() > 16384, out, 1, |i, out| {
        let row = &logits[i * vocab..][..vocab];
        out[0] = row[targets[i] as usize] - log_sum_exp(row);
    });
    Ok(())
}

/// The largest value; minus infinity for an empty row. NaN is passed over.
pub fn max(row: &[f32]) -> f32 {
    row.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The sum, in a fixed order.
pub fn sum(row: &[f32]) -> f32 {
    row.iter().sum()
}

/// The index of the largest value, the lowest of equals; `None` for an empty row. NaN is passed over.
pub fn argmax(row: &[f32]) -> Option<usize> {
    let max = max(row);
    row.iter().position(|&x| x == max)
}

/// `out = exp(scale · row − shift)`.
///
/// # Errors
/// [`KernelError`] if lengths differ.
pub fn exp_shifted(row: &[f32], shift: f32, scale: f32, out: &mut [f32]) -> Result<(), KernelError> {
    ensure(row.len() == out.len(), || format!("out holds {} values but row holds {}", out.len(), row.len()))?;
    out.iter_mut().zip(row).for_each(|(out, x)| *out = (scale * x - shift).exp());
    Ok(())
}
