//! A row of logits read once: the largest value of each of its blocks, and what its softmax sums to, chunk by chunk. Leaves what
//! is drawn from them to `engine`.

use crate::isa::Isa;
use crate::reduce::{ExpSum, Largest};
use crate::simd::{Op, Simd, dispatch};

/// Values of which [`masses`] gives the largest.
pub const MAXIMA_BLOCK: usize = 256;
/// Values of which it gives the sum: few enough to stay in the nearest cache between their maxima and their sums.
pub const MASS_CHUNK: usize = 1024;

/// Puts the largest value of each [`MAXIMA_BLOCK`] of `row` into `maxima`, minus infinity where there are only NaN, which are
/// passed over; and, for each of `scales` in turn, `Σ exp(scale · (x − max))` of each [`MASS_CHUNK`] into `sums`, which become
/// `[scales, chunks]`, where `max` is the largest value of that chunk, 0 if it has none that is finite. [`settle`] brings them to
/// the largest of the row (Milakov and Gimelshein 2018, arXiv:1805.02867, §3), so that the row comes from memory once.
pub fn masses(row: &[f32], scales: &[f32], maxima: &mut Vec<f32>, sums: &mut Vec<f64>) {
    dispatch(Isa::detect(), Masses { row, scales, maxima, sums });
}

/// Makes the sums of each chunk that [`masses`] found at `scale` relative to the largest value of the row. Returns that value.
///
/// Unless the row is a distribution (no NaN, no plus infinity, something finite) one of the sums is NaN then.
pub fn settle(maxima: &[f32], scale: f32, sums: &mut [f64]) -> f32 {
    let largest = |maxima: &[f32]| maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let max = largest(maxima);
    for (sum, peaks) in sums.iter_mut().zip(maxima.chunks(MASS_CHUNK / MAXIMA_BLOCK)) {
        let below = f64::from(largest(peaks)) - f64::from(max);
        *sum *= (f64::from(scale) * below).exp();
    }
    max
}

/// [`masses`].
struct Masses<'a> {
    row: &'a [f32],
    scales: &'a [f32],
    maxima: &'a mut Vec<f32>,
    sums: &'a mut Vec<f64>,
}

impl Op for Masses<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { row, scales, maxima, sums } = self;
        let chunks = row.len().div_ceil(MASS_CHUNK);
        maxima.clear();
        maxima.reserve(row.len().div_ceil(MAXIMA_BLOCK));
        sums.clear();
        sums.resize(scales.len() * chunks, 0.0);
        for (index, chunk) in row.chunks(MASS_CHUNK).enumerate() {
            let mut peak = f32::NEG_INFINITY;
            for block in chunk.chunks(MAXIMA_BLOCK) {
                let largest = Largest { row: block }.run(s);
                peak = if largest > peak { largest } else { peak };
                maxima.push(largest);
            }
            // Without anything finite the sum is next to nothing, or NaN.
            let max = if peak == f32::NEG_INFINITY { 0.0 } else { peak };
            for (i, &scale) in scales.iter().enumerate() {
                sums[i * chunks + index] = ExpSum { row: chunk, max, scale }.run(s);
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
        fn maxima_and_masses_are_those_of_plain_loops(
            mut row in prop::collection::vec(-60.0..60.0f32, 1..5000),
            // Part of it far below, or out of the question.
            (from, to, low) in (0usize..5000, 0usize..5000, prop_oneof![Just(f32::NEG_INFINITY), Just(-500.0)]),
            scale in 0.1..5.0f32,
        ) {
            let end = row.len() - 1;
            row[from.min(end)..to.clamp(from, end.max(from)).min(end)].fill(low);
            let blocks: Vec<f32> = row
                .chunks(MAXIMA_BLOCK)
                .map(|block| block.iter().copied().fold(f32::NEG_INFINITY, f32::max))
                .collect();
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let scales = [1.0, scale];
            let plain = scales.map(|scale| {
                let weight = |&x: &f32| (f64::from(scale) * (f64::from(x) - f64::from(largest))).exp();
                row.chunks(MASS_CHUNK).map(|chunk| chunk.iter().map(weight).sum::<f64>()).collect::<Vec<_>>()
            });
            for isa in Isa::supported() {
                let (mut maxima, mut sums) = (vec![7.0], vec![7.0]);
                dispatch(isa, Masses { row: &row, scales: &scales, maxima: &mut maxima, sums: &mut sums });
                prop_assert_eq!(&maxima, &blocks, "{:?}", isa);
                let chunks = row.len().div_ceil(MASS_CHUNK);
                prop_assert_eq!(sums.len(), 2 * chunks);
                for (scale, sums) in scales.into_iter().zip(sums.chunks_mut(chunks)) {
                    prop_assert_eq!(settle(&maxima, scale, sums), largest);
                }
                for (sum, plain) in sums.iter().zip(plain.iter().flatten()) {
                    prop_assert!((sum - plain).abs() <= 4e-6 * plain + 1e-34, "{isa:?}: {sum} for {plain}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_distribution_shows() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        for isa in Isa::supported() {
            let masses = |row: &[f32]| {
                let (mut maxima, mut sums) = (Vec::new(), Vec::new());
                dispatch(isa, Masses { row, scales: &[1.0], maxima: &mut maxima, sums: &mut sums });
                (settle(&maxima, 1.0, &mut sums), maxima, sums.iter().sum::<f64>())
            };
            let mut row = vec![0.0; 3 * MASS_CHUNK];
            assert_eq!(masses(&row), (0.0, vec![0.0; 12], 3072.0), "{isa:?}");
            for (place, bad) in [(5, nan), (2000, inf), (3000, nan)] {
                row[place] = bad;
                assert!(masses(&row).2.is_nan(), "{isa:?}: {bad} at {place}");
                row[place] = 0.0;
            }
            // A chunk of nothing but what is not a number, and of what is out of the question.
            row[..MASS_CHUNK].fill(nan);
            assert!(masses(&row).2.is_nan(), "{isa:?}");
            row[..MASS_CHUNK].fill(-inf);
            assert_eq!(masses(&row).2, 2048.0, "{isa:?}");
            row.fill(-inf);
            assert!(masses(&row).2.is_nan(), "{isa:?}");
            assert_eq!(masses(&[nan, 1.0, -inf, nan]).1, [1.0], "{isa:?}");
            assert_eq!(masses(&[]), (-inf, vec![], 0.0), "{isa:?}");
        }
    }
}
