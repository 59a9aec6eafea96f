//! Large values of a row: their places, and what they have of its softmax. Leaves the maxima of its blocks to `mass`, and which
//! values are wanted to `engine`.

use crate::isa::Isa;
use crate::reduce::power;
use crate::simd::{LANES, Op, Simd, dispatch, padded};

/// Values whose sum is kept in f32; the sums of such blocks are added in f64.
const BLOCK: usize = 2048;

/// Visits the index of each value above `threshold`, in order; a NaN is not above anything.
pub fn for_each_above(row: &[f32], threshold: f32, visit: impl FnMut(usize)) {
    dispatch(Isa::detect(), ForEachAbove { row, threshold, visit });
}

/// `Σ exp(scale · (x − max))` of the values above `threshold`, none of which is above `max`, for a positive scale; in a fixed order.
pub fn exp_sum_above(row: &[f32], threshold: f32, max: f32, scale: f32) -> f64 {
    dispatch(Isa::detect(), ExpSumAbove { row, threshold, max, scale })
}

/// [`for_each_above`].
struct ForEachAbove<'a, F> {
    row: &'a [f32],
    threshold: f32,
    visit: F,
}

impl<F: FnMut(usize)> ForEachAbove<'_, F> {
    #[inline(always)]
    fn visit<S: Simd>(&mut self, s: S, start: usize, lanes: &[f32; LANES]) {
        let mut above = s.above(s.load(lanes), s.splat(self.threshold));
        while above != 0 {
            (self.visit)(start + above.trailing_zeros() as usize);
            above &= above - 1;
        }
    }
}

impl<F: FnMut(usize)> Op for ForEachAbove<'_, F> {
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

/// [`exp_sum_above`].
struct ExpSumAbove<'a> {
    row: &'a [f32],
    threshold: f32,
    max: f32,
    scale: f32,
}

impl Op for ExpSumAbove<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let Self { row, threshold, max, scale } = self;
        let threshold = s.splat(threshold);
        let mut total = 0.0;
        for block in row.chunks(BLOCK) {
            let mut sum = s.splat(0.0);
            let (whole, tail) = block.as_chunks::<LANES>();
            for lanes in whole {
                let values = s.load(lanes);
                sum = s.add(sum, s.keep_above(power(s, scale, max, values), values, threshold));
            }
            if !tail.is_empty() {
                let values = s.load(&padded(tail, f32::NEG_INFINITY));
                sum = s.add(sum, s.keep_above(power(s, scale, max, values), values, threshold));
            }
            total += f64::from(s.sum(sum));
        }
        total
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
            scale in 0.1..3.0f32,
        ) {
            let above: Vec<usize> = (0..row.len()).filter(|&i| row[i] > threshold).collect();
            let plain: f64 = above.iter().map(|&i| (f64::from(scale) * f64::from(row[i] - 20.0)).exp()).sum();
            for isa in Isa::supported() {
                let mut out = Vec::new();
                dispatch(isa, ForEachAbove { row: &row, threshold, visit: |i| out.push(i) });
                prop_assert_eq!(&out, &above, "{:?}", isa);
                let sum = dispatch(isa, ExpSumAbove { row: &row, threshold, max: 20.0, scale });
                prop_assert!((sum - plain).abs() <= 4e-6 * plain + 1e-34, "{isa:?}: {sum} for {plain}");
            }
        }
    }

    #[test]
    fn nothing_that_is_not_a_number_is_large() {
        let row = [f32::NAN, 1.0, f32::NEG_INFINITY, f32::NAN];
        for isa in Isa::supported() {
            let mut above = Vec::new();
            let (threshold, visit) = (f32::NEG_INFINITY, |i| above.push(i));
            dispatch(isa, ForEachAbove { row: &row, threshold, visit });
            assert_eq!(above, [1], "{isa:?}");
            assert_eq!(
                dispatch(isa, ExpSumAbove { row: &row, threshold, max: 1.0, scale: 1.0 }),
                1.0,
                "{isa:?}"
            );
        }
    }
}
