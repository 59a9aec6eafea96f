//! Elementary functions over [`Simd`]. Leaves the vector operations to their instruction sets.

use super::{LANES, Simd};

/// `eˣ` within 2 units in the last place; 0 below −104, infinite above 88.73, NaN for NaN.
///
/// `x = n ln 2 + r` with `|r| ≤ ln 2 / 2` (Cody and Waite's two-part ln 2), then a polynomial of degree 6 in `r` fitted
/// for the relative error, then a scaling by `2^n`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.min(s.splat(89.0), s.max(s.splat(-104.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-0.693_359_4), x);
    let r = s.mul_add(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.mul_add(p, r, s.splat(c));
    }
    let p = s.add(s.mul_add(p, s.mul(r, r), r), s.splat(1.0));
    s.scale(p, n)
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
    let mut words = [0; LANES / 2];
    for (word, pair) in words.iter_mut().zip(halves.as_chunks::<2>().0) {
        *word = u32::from(pair[0]) | u32::from(pair[1]) << 16;
    }
    words
}
