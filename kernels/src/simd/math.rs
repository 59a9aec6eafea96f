//! Elementary functions over [`Simd`]. Leaves the vector operations to their instruction sets.

use super::{LANES, Simd};

/// `eˣ` within 2 units in the last place; 0 below −87.33, infinite above 88.73, NaN for NaN.
///
/// `x = n ln 2 + r` with `|r| ≤ ln 2 / 2` (Cody and Waite's two-part ln 2), then a polynomial of degree 6 in `r` fitted
/// for the relative error, then a scaling by `2^n`. Numbers too small to be normal are not made on the way to zero either:
/// processors take over a hundred cycles for one.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let (all, least) = (x, s.splat(-87.33));
    let x = s.min(s.splat(89.0), s.max(least, x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-0.693_359_4), x);
    let r = s.mul_add(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.mul_add(p, r, s.splat(c));
    }
    let p = s.add(s.mul_add(p, s.mul(r, r), r), s.splat(1.0));
    let power = s.scale(p, n);
    s.sub(power, s.keep_above(power, least, all))
}

/// `2^y` for `y` up to 126, within 2 units in the last place, exact for integers; the smallest normal number below −126, NaN for
/// NaN.
///
/// `y = n + f` with `|f| ≤ ½`, then a polynomial of degree 5 in `f` fitted for the relative error (1e-7). Half of the operations of
/// [`exp`] where `2^n` is not one.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(s: S, y: S::V) -> S::V {
    let y = s.max(s.splat(-126.0), y);
    let n = s.round(y);
    let f = s.sub(y, n);
    let mut p = s.splat(1.330_060_7e-3);
    for c in [9.669_691e-3, 5.550_558_5e-2, 2.402_228_3e-1, std::f32::consts::LN_2, 1.0] {
        p = s.mul_add(p, f, s.splat(c));
    }
    s.raise(p, n)
}

/// Hyperbolic tangent within 2⁻²³ (absolutely).
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let e = exp(s, s.add(x, x));
    s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(e, s.splat(1.0))))
}

/// The first sixteen values of a run; a shorter one is filled up with `fill`.
#[inline(always)]
pub(crate) fn padded(x: &[f32], fill: f32) -> [f32; LANES] {
    if let Some(lanes) = x.first_chunk() {
        return *lanes;
    }
    let mut lanes = [fill; LANES];
    lanes[..x.len()].copy_from_slice(x);
    lanes
}

/// The first sixteen values of a run as bf16; a shorter one ends in zeros.
#[inline(always)]
pub(crate) fn narrowed<S: Simd>(s: S, x: &[f32]) -> [u16; LANES] {
    let mut out = [0; LANES];
    s.to_bf16(s.load(&padded(x, 0.0)), &mut out);
    out
}

/// Neighbours as a word, the even one in its low half.
#[inline(always)]
pub(crate) fn paired(halves: &[u16; LANES]) -> [u32; LANES / 2] {
    let words: [u32; LANES / 2] = bytemuck::cast(*halves);
    if cfg!(target_endian = "big") { words.map(|word| word.rotate_left(16)) } else { words }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::isa::Isa;
    use crate::simd::{Op, dispatch};

    struct Each<F>(F, [f32; LANES]);

    trait Function {
        fn of<S: Simd>(&self, s: S, x: S::V) -> S::V;
    }

    #[derive(Clone, Copy)]
    struct Exp;

    impl Function for Exp {
        #[inline(always)]
        fn of<S: Simd>(&self, s: S, x: S::V) -> S::V {
            exp(s, x)
        }
    }

    #[derive(Clone, Copy)]
    struct Exp2;

    impl Function for Exp2 {
        #[inline(always)]
        fn of<S: Simd>(&self, s: S, x: S::V) -> S::V {
            exp2(s, x)
        }
    }

    impl<F: Function> Op for Each<F> {
        type Output = [f32; LANES];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f32; LANES] {
            let mut out = [f32::NAN; LANES];
            s.store(self.0.of(s, s.load(&self.1)), &mut out);
            out
        }
    }

    /// Compares with `exact` at every thousandth.
    fn check<F: Function + Copy>(isa: Isa, function: F, thousandths: Range<i32>, exact: fn(f64) -> f64) {
        for first in thousandths.step_by(LANES) {
            let row: [f32; LANES] = std::array::from_fn(|i| (first + i as i32) as f32 * 1e-3 + 1e-4);
            for (x, actual) in row.into_iter().zip(dispatch(isa, Each(function, row))) {
                let expected = exact(f64::from(x)) as f32;
                let ulps = (i64::from(actual.to_bits()) - i64::from(expected.to_bits())).abs();
                assert!(ulps <= 2, "{isa:?}: {actual} at {x}, not {expected}");
            }
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place_everywhere() {
        for isa in Isa::supported() {
            check(isa, Exp, -87_330..90_000, f64::exp);
            check(isa, Exp, -110_000..-87_350, |_| 0.0);
            let mut row = [0.0; LANES];
            (row[0], row[1], row[2]) = (f32::NEG_INFINITY, f32::INFINITY, f32::NAN);
            let out = dispatch(isa, Each(Exp, row));
            assert!(
                out[0] == 0.0 && out[1] == f32::INFINITY && out[2].is_nan() && out[3] == 1.0,
                "{isa:?} {out:?}"
            );
        }
    }

    #[test]
    fn powers_of_two_are_within_two_units_in_the_last_place() {
        for isa in Isa::supported() {
            check(isa, Exp2, -126_000..125_900, f64::exp2);
            let mut row = [0.0; LANES];
            row[..6].copy_from_slice(&[f32::NEG_INFINITY, f32::NAN, -1e30, -126.0, 126.0, -3.0]);
            let mut out = dispatch(isa, Each(Exp2, row));
            assert!(out[1].is_nan(), "{isa:?} {out:?}");
            out[1] = 7.0;
            let least = f32::MIN_POSITIVE;
            assert_eq!(out[..7], [least, 7.0, least, least, 2f32.powi(126), 0.125, 1.0], "{isa:?}");
        }
    }
}
