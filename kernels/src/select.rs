//! Large values of a row: the places of values in a range, the sum of what lies above several. Leaves the maxima of its blocks to
//! `mass`, and which values are wanted to `engine`.

use crate::isa::Isa;
use crate::simd::{LANES, Op, Simd, dispatch, padded};

/// Values whose sum is kept in f32; the sums of such blocks are added in f64.
const BLOCK: usize = 2048;

/// Visits the index of each value above `low` and not above `high`, in order; a NaN is not above anything.
pub fn for_each_between(row: &[f32], low: f32, high: f32, visit: impl FnMut(usize)) {
    dispatch(Isa::detect(), ForEachBetween { row, low, high, visit });
}

/// For each of `thresholds`, the sum of the values above it, all of which are finite; in a fixed order.
pub fn sums_above<const N: usize>(row: &[f32], thresholds: [f32; N]) -> [f64; N] {
    dispatch(Isa::detect(), SumsAbove { row, thresholds })
}

/// [`for_each_between`].
struct ForEachBetween<'a, F> {
    row: &'a [f32],
    low: f32,
    high: f32,
    visit: F,
}

impl<F: FnMut(usize)> ForEachBetween<'_, F> {
    #[inline(always)]
    fn visit<S: Simd>(&mut self, s: S, start: usize, lanes: &[f32; LANES]) {
        let values = s.load(lanes);
        let mut between = s.above(values, s.splat(self.low));
        if between != 0 {
            between &= !s.above(values, s.splat(self.high));
        }
        while between != 0 {
            (self.visit)(start + between.trailing_zeros() as usize);
            between &= between - 1;
        }
    }
}

impl<F: FnMut(usize)> Op for ForEachBetween<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (whole, tail) = self.row.as_chunks::<LANES>();
        for (i, lanes) in whole.iter().enumerate() {
            self.visit(s, i * LANES, lanes);
        }
        if !tail.is_empty() {
            self.visit(s, whole.len() * LANES, &padded(tail, f32::NEG_INFINITY));
        }
    }
}

/// [`sums_above`].
struct SumsAbove<'a, const N: usize> {
    row: &'a [f32],
    thresholds: [f32; N],
}

impl<const N: usize> Op for SumsAbove<'_, N> {
    type Output = [f64; N];

    // Loops rather than closures, which are compiled without the instructions.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f64; N] {
        let mut thresholds = [s.splat(0.0); N];
        for (splat, threshold) in thresholds.iter_mut().zip(self.thresholds) {
            *splat = s.splat(threshold);
        }
        let mut totals = [0.0; N];
        for block in self.row.chunks(BLOCK) {
            let mut sums = [s.splat(0.0); N];
            let (whole, tail) = block.as_chunks::<LANES>();
            for lanes in whole {
                let values = s.load(lanes);
                for (sum, threshold) in sums.iter_mut().zip(&thresholds) {
                    *sum = s.add(*sum, s.keep_above(values, *threshold));
                }
            }
            let tail = s.load(&padded(tail, f32::NEG_INFINITY));
            for (sum, threshold) in sums.iter_mut().zip(&thresholds) {
                *sum = s.add(*sum, s.keep_above(tail, *threshold));
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total += f64::from(s.sum(sum));
            }
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn large_values_are_those_of_a_plain_loop(
            // Few distinct values, so that some equal the threshold.
            row in prop::collection::vec((-40i8..40).prop_map(|x| f32::from(x) * 0.5), 0..5000),
            threshold in (-42i8..42).prop_map(|x| f32::from(x) * 0.5),
            width in prop_oneof![Just(f32::INFINITY), (0u8..9).prop_map(f32::from)],
        ) {
            let (low, high) = (threshold, threshold + width);
            let between: Vec<usize> = (0..row.len()).filter(|&i| row[i] > low && row[i] <= high).collect();
            let sum = |threshold| row.iter().filter(|x| **x > threshold).map(|&x| f64::from(x)).sum::<f64>();
            for isa in Isa::supported() {
                let mut out = Vec::new();
                dispatch(isa, ForEachBetween { row: &row, low, high, visit: |i| out.push(i) });
                prop_assert_eq!(&out, &between, "{:?}", isa);
                // Halves of small integers: exact in any order.
                let thresholds = [threshold, -50.0, 50.0];
                let sums = dispatch(isa, SumsAbove { row: &row, thresholds });
                prop_assert_eq!(sums, thresholds.map(sum), "{:?}", isa);
            }
        }
    }

    #[test]
    fn nothing_that_is_not_a_number_is_large() {
        let row = [f32::NAN, 1.0, f32::NEG_INFINITY, f32::NAN];
        for isa in Isa::supported() {
            let mut above = Vec::new();
            let visit = |i| above.push(i);
            dispatch(isa, ForEachBetween { row: &row, low: f32::NEG_INFINITY, high: f32::INFINITY, visit });
            assert_eq!(above, [1], "{isa:?}");
        }
    }
}
