//! Reductions over a row of logits, each with a fixed order of summation. Leaves sampling to `engine`.

use crate::error::check_len;
use crate::isa::Isa;
use crate::rows::for_each_chunk;
use crate::simd::{LANES, Op, Simd, dispatch, exp2, padded};
use crate::{KernelError, Pool};

/// Values whose sum is kept in f32; the sums of such blocks are added in f64.
const BLOCK: usize = 2048;
/// Vectors in flight.
const UNROLL: usize = 4;
/// Values between one that is added and one that is asked for.
const AHEAD: usize = 1024;
/// Logits below which a second thread costs more than it brings.
const PARALLEL_VALUES: usize = 1 << 14;

/// `ln Σ exp(row)`, in nats; minus infinity for an empty row.
pub fn log_sum_exp(row: &[f32]) -> f32 {
    log_sum_exp_with(Isa::detect(), row)
}

fn log_sum_exp_with(isa: Isa, row: &[f32]) -> f32 {
    let max = dispatch(isa, Largest { row });
    if max == f32::NEG_INFINITY {
        return max;
    }
    (f64::from(max) + dispatch(isa, ExpSum { row, max, scale: 1.0 }).ln()) as f32
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
    for_each_chunk(pool, logits.len() > PARALLEL_VALUES, out, 1, |i, out| {
        let row = &logits[i * vocab..][..vocab];
        out[0] = row[targets[i] as usize] - log_sum_exp_with(pool.isa(), row);
    });
    Ok(())
}

/// The largest value; minus infinity for an empty row. NaN is passed over.
pub fn max(row: &[f32]) -> f32 {
    dispatch(Isa::detect(), Largest { row })
}

/// The sum, in a fixed order.
pub fn sum(row: &[f32]) -> f32 {
    dispatch(Isa::detect(), Sum { row }) as f32
}

/// `out = exp(scale · (row − max))` of values up to `max`, for a positive scale; 0 for NaN, and where it is below the normal
/// numbers.
///
/// # Errors
/// [`KernelError::Length`] if lengths differ.
pub fn exp_below(row: &[f32], max: f32, scale: f32, out: &mut [f32]) -> Result<(), KernelError> {
    check_len("out", out.len(), row.len())?;
    dispatch(Isa::detect(), ExpBelow { row, max, scale, out });
    Ok(())
}

/// The largest value.
pub(crate) struct Largest<'a> {
    pub(crate) row: &'a [f32],
}

impl Op for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut largest = [s.splat(f32::NEG_INFINITY); UNROLL];
        let (wide, tail) = self.row.as_chunks::<{ UNROLL * LANES }>();
        for wide in wide {
            for (largest, lanes) in largest.iter_mut().zip(wide.as_chunks::<LANES>().0) {
                *largest = s.max(s.load(lanes), *largest);
            }
        }
        for tail in tail.chunks(LANES) {
            largest[0] = s.max(s.load(&padded(tail, f32::NEG_INFINITY)), largest[0]);
        }
        let [a, b, c, d] = largest;
        s.largest(s.max(s.max(a, b), s.max(c, d)))
    }
}

/// The sum of values.
struct Sum<'a> {
    row: &'a [f32],
}

impl Op for Sum<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let mut total = 0.0;
        for block in self.row.chunks(BLOCK) {
            let mut sums = [s.splat(0.0); UNROLL];
            let (wide, tail) = block.as_chunks::<{ UNROLL * LANES }>();
            for wide in wide {
                for (sum, lanes) in sums.iter_mut().zip(wide.as_chunks::<LANES>().0) {
                    *sum = s.add(*sum, s.load(lanes));
                }
            }
            for tail in tail.chunks(LANES) {
                sums[0] = s.add(sums[0], s.load(&padded(tail, 0.0)));
            }
            let [a, b, c, d] = sums;
            total += f64::from(s.sum(s.add(s.add(a, b), s.add(c, d))));
        }
        total
    }
}

/// `exp(scale · (x − max))` of values up to `max`; the smallest normal number where it is below, NaN for NaN.
#[inline(always)]
pub(crate) fn power<S: Simd>(s: S, scale: f32, max: f32, values: S::V) -> S::V {
    exp2(s, s.mul(s.sub(values, s.splat(max)), s.splat(scale * std::f32::consts::LOG2_E)))
}

/// `Σ exp(scale · (row − max))` of values up to `max`; NaN with a NaN.
pub(crate) struct ExpSum<'a> {
    pub(crate) row: &'a [f32],
    pub(crate) max: f32,
    pub(crate) scale: f32,
}

impl Op for ExpSum<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let Self { row, max, scale } = self;
        let mut total = 0.0;
        for block in row.chunks(BLOCK) {
            // One vector of sums, since a power takes longer than an addition, and more would not find registers.
            let mut sum = s.splat(0.0);
            let (whole, tail) = block.as_chunks::<LANES>();
            for lanes in whole {
                // The processor looks ahead itself, but not past the end of a page.
                s.prefetch(lanes.as_ptr().wrapping_add(AHEAD).cast());
                sum = s.add(sum, power(s, scale, max, s.load(lanes)));
            }
            if !tail.is_empty() {
                sum = s.add(sum, power(s, scale, max, s.load(&padded(tail, f32::NEG_INFINITY))));
            }
            total += f64::from(s.sum(sum));
        }
        total
    }
}

/// [`exp_below`].
struct ExpBelow<'a> {
    row: &'a [f32],
    max: f32,
    scale: f32,
    out: &'a mut [f32],
}

impl Op for ExpBelow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { row, max, scale, out } = self;
        let least = s.splat(f32::MIN_POSITIVE);
        for (row, out) in row.chunks(LANES).zip(out.chunks_mut(LANES)) {
            let weights = power(s, scale, max, s.load(&padded(row, max)));
            let weights = s.keep_above(weights, weights, least);
            match out.first_chunk_mut() {
                Some(out) => s.store(weights, out),
                None => {
                    let mut last = [0.0; LANES];
                    s.store(weights, &mut last);
                    out.copy_from_slice(&last[..out.len()]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn reductions_equal_plain_ones(row in proptest::collection::vec(-50.0..50.0f32, 1..5000)) {
            let plain_sum: f64 = row.iter().map(|&x| f64::from(x)).sum();
            let plain_log: f64 = row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for isa in Isa::supported() {
                prop_assert_eq!(dispatch(isa, Largest { row: &row }), largest);
                let sum = dispatch(isa, Sum { row: &row });
                prop_assert!((sum - plain_sum).abs() < 1e-2, "{isa:?}: {sum} for {plain_sum}");
                let log = log_sum_exp_with(isa, &row);
                prop_assert!((f64::from(log) - plain_log).abs() < 1e-5, "{isa:?}: {log} for {plain_log}");
                let mut out = vec![f32::NAN; row.len()];
                dispatch(isa, ExpBelow { row: &row, max: 50.0, scale: 0.5, out: &mut out });
                let fused = dispatch(isa, ExpSum { row: &row, max: 50.0, scale: 0.5 });
                let sum = dispatch(isa, Sum { row: &out });
                prop_assert!((fused - sum).abs() <= 1e-6 * sum, "{isa:?}: {fused} and {sum}");
                for (&x, &out) in row.iter().zip(&out) {
                    let expected = (f64::from(x - 50.0) * 0.5).exp();
                    prop_assert!((f64::from(out) - expected).abs() < 4e-6 * expected, "{isa:?}: exp at {x}");
                }
            }
        }
    }

    #[test]
    fn weights_end_at_zero() {
        let row = [f32::NEG_INFINITY, f32::NAN, 3.0, -1e4, f32::MIN, -84.0, 2.0];
        for isa in Isa::supported() {
            let mut out = [7.0; 7];
            dispatch(isa, ExpBelow { row: &row, max: 3.0, scale: 1.0, out: &mut out });
            assert_eq!([out[0], out[1], out[3], out[4]], [0.0; 4], "{isa:?}");
            assert!((out[2] - 1.0).abs() < 1e-6 && out[5] > 0.0 && out[6] < 0.3679, "{isa:?}: {out:?}");
            assert!(dispatch(isa, ExpSum { row: &row, max: 3.0, scale: 1.0 }).is_nan());
        }
    }

    #[test]
    fn log_probabilities_of_a_large_vocabulary_are_exact_and_the_same_on_threads() {
        let vocab = 152_000;
        let logits: Vec<f32> =
            (0..3 * vocab).map(|i| ((i as f64 * 0.618).fract() * 30.0 - 15.0) as f32).collect();
        let targets = [0, 77_777, 151_999];
        let gather = |threads| {
            let (pool, mut out) = (Pool::new(threads).unwrap(), [0.0; 3]);
            logprob_gather(&pool, &logits, vocab, &targets, &mut out).unwrap();
            out
        };
        assert_eq!(gather(1), gather(2));
        for ((row, &target), out) in logits.chunks(vocab).zip(&targets).zip(gather(1)) {
            let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            assert!((f64::from(out) - (f64::from(row[target as usize]) - total.ln())).abs() < 2e-6);
        }
    }

    #[test]
    fn targets_outside_the_vocabulary_are_refused() {
        let error = logprob_gather(&Pool::new(1).unwrap(), &[0.0; 4], 4, &[4], &mut [0.0]).unwrap_err();
        assert_eq!(error.to_string(), "target 4 lies outside a vocabulary of 4");
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 3]), f32::NEG_INFINITY);
    }
}
