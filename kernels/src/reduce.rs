//! Reductions over a row of logits, each with a fixed order of summation. Leaves sampling to `engine`.

use crate::error::check_len;
use crate::isa::Isa;
use crate::rows::for_each_chunk;
use crate::simd::{LANES, Op, Simd, dispatch, exp, padded};
use crate::{KernelError, Pool};

/// Values whose sum is kept in f32; the sums of such blocks are added in f64.
const BLOCK: usize = 2048;
/// Vectors in flight.
const UNROLL: usize = 4;
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
    (f64::from(max) + dispatch(isa, ExpSum { row, shift: max, scale: 1.0 }).ln()) as f32
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

/// `Σ exp(scale · row − shift)`, in the order of [`sum`] over [`exp_shifted`].
pub fn exp_sum(row: &[f32], shift: f32, scale: f32) -> f32 {
    dispatch(Isa::detect(), ExpSum { row, shift, scale }) as f32
}

/// `out = exp(scale · row − shift)`.
///
/// # Errors
/// [`KernelError::Length`] if lengths differ.
pub fn exp_shifted(row: &[f32], shift: f32, scale: f32, out: &mut [f32]) -> Result<(), KernelError> {
    check_len("out", out.len(), row.len())?;
    dispatch(Isa::detect(), ExpShifted { row, shift, scale, out });
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

/// The sum of `exp(scale · value − shift)`.
struct ExpSum<'a> {
    row: &'a [f32],
    shift: f32,
    scale: f32,
}

impl Op for ExpSum<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let (scale, shift) = (s.splat(self.scale), s.splat(-self.shift));
        let mut total = 0.0;
        for block in self.row.chunks(BLOCK) {
            let mut sums = [s.splat(0.0); UNROLL];
            let (wide, tail) = block.as_chunks::<{ UNROLL * LANES }>();
            for wide in wide {
                for (sum, lanes) in sums.iter_mut().zip(wide.as_chunks::<LANES>().0) {
                    *sum = s.add(*sum, exp(s, s.mul_add(s.load(lanes), scale, shift)));
                }
            }
            for tail in tail.chunks(LANES) {
                let tail = s.load(&padded(tail, f32::NEG_INFINITY));
                sums[0] = s.add(sums[0], exp(s, s.mul_add(tail, scale, shift)));
            }
            let [a, b, c, d] = sums;
            total += f64::from(s.sum(s.add(s.add(a, b), s.add(c, d))));
        }
        total
    }
}

/// `out = exp(scale · row − shift)`.
struct ExpShifted<'a> {
    row: &'a [f32],
    shift: f32,
    scale: f32,
    out: &'a mut [f32],
}

impl Op for ExpShifted<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (scale, shift) = (s.splat(self.scale), s.splat(-self.shift));
        let (rows, row_tail) = self.row.as_chunks::<LANES>();
        let (outs, out_tail) = self.out.as_chunks_mut::<LANES>();
        for (row, out) in rows.iter().zip(outs) {
            s.store(exp(s, s.mul_add(s.load(row), scale, shift)), out);
        }
        if !out_tail.is_empty() {
            let mut last = [0.0; LANES];
            s.store(exp(s, s.mul_add(s.load(&padded(row_tail, 0.0)), scale, shift)), &mut last);
            out_tail.copy_from_slice(&last[..out_tail.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn isas() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_supported())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn reductions_equal_plain_ones(row in proptest::collection::vec(-50.0..50.0f32, 1..5000)) {
            let plain_sum: f64 = row.iter().map(|&x| f64::from(x)).sum();
            let plain_log: f64 = row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for isa in isas() {
                prop_assert_eq!(dispatch(isa, Largest { row: &row }), largest);
                let sum = dispatch(isa, Sum { row: &row });
                prop_assert!((sum - plain_sum).abs() < 1e-2, "{isa:?}: {sum} for {plain_sum}");
                let log = log_sum_exp_with(isa, &row);
                prop_assert!((f64::from(log) - plain_log).abs() < 1e-5, "{isa:?}: {log} for {plain_log}");
                let mut out = vec![f32::NAN; row.len()];
                dispatch(isa, ExpShifted { row: &row, shift: 3.0, scale: 0.5, out: &mut out });
                let fused = dispatch(isa, ExpSum { row: &row, shift: 3.0, scale: 0.5 });
                prop_assert_eq!(fused, dispatch(isa, Sum { row: &out }), "{:?}", isa);
                for (&x, &out) in row.iter().zip(&out) {
                    let expected = (f64::from(x) * 0.5 - 3.0).exp();
                    prop_assert!((f64::from(out) - expected).abs() < 3e-6 * expected, "{isa:?}: exp at {x}");
                }
            }
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place_everywhere() {
        let row: Vec<f32> = (-110_000..90_000).map(|i| i as f32 * 1e-3 + 1e-4).collect();
        for isa in isas() {
            let mut out = vec![f32::NAN; row.len()];
            dispatch(isa, ExpShifted { row: &row, shift: 0.0, scale: 1.0, out: &mut out });
            for (&x, &actual) in row.iter().zip(&out) {
                let expected = f64::from(x).exp() as f32;
                let ulps = (i64::from(actual.to_bits()) - i64::from(expected.to_bits())).abs();
                assert!(ulps <= 2, "{isa:?}: exp({x}) is {actual}, not {expected}");
            }
            let row = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0];
            let mut out = [1.0; 4];
            dispatch(isa, ExpShifted { row: &row, shift: 0.0, scale: 1.0, out: &mut out });
            assert!(
                out[0] == 0.0 && out[1] == f32::INFINITY && out[2].is_nan() && out[3] == 1.0,
                "{isa:?} {out:?}"
            );
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
