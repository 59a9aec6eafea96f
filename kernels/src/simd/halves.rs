//! Half precision in plain Rust: pairs of numbers, as the oracle of the instructions and what stands in for them, and powers
//! of two that bring others into its range. Leaves vectors to its siblings.

use half::f16;

use super::LANES;

/// Half precision has fifteen values of the exponent less below one than f32 has: what makes up for it.
pub(super) const BIAS: f32 = f32::from_bits((112 + 127) << 23);

/// Pairs, the even one in the low half of each word, as f32: first the even ones, then the odd ones.
#[inline(always)]
pub(super) fn widen(pairs: [u32; LANES]) -> [[f32; LANES]; 2] {
    [pairs.map(|pair| widened(pair & 0xffff)), pairs.map(|pair| widened(pair >> 16))]
}

/// A number in half precision as f32, in steps that vectorise.
#[inline(always)]
fn widened(half: u32) -> f32 {
    let magnitude = (half & 0x7fff) << 13;
    let finite = (f32::from_bits(magnitude) * BIAS).to_bits();
    let bits = if half & 0x7c00 == 0x7c00 { magnitude | 0x7f80_0000 } else { finite };
    f32::from_bits(bits | (half & 0x8000) << 16)
}

/// `acc = a · b + acc`, each rounded once.
#[inline(always)]
pub(super) fn mul_add(acc: &mut [u32; LANES], a: &[u32; LANES], b: &[u32; LANES]) {
    for (acc, (a, b)) in acc.iter_mut().zip(a.iter().zip(b)) {
        let [low, high] = [0, 16].map(|shift| {
            let [acc, a, b] = [*acc, *a, *b].map(|pair| f16::from_bits((pair >> shift) as u16).to_f64());
            u32::from(rounded(a * b + acc).to_bits())
        });
        *acc = low | high << 16;
    }
}

/// Rounded to half precision once, ties to even: by way of f32 rounded to odd, which no second rounding takes for a tie.
pub(crate) fn rounded(x: f64) -> f16 {
    let near = x as f32;
    let towards_zero = near.to_bits() - u32::from(f64::from(near).abs() > x.abs());
    f16::from_f32(f32::from_bits(towards_zero | u32::from(f64::from(near) != x)))
}

/// Bits of the largest magnitude, zero without values. Magnitudes are ordered as their bits are, which vectorises; not a
/// number is above all.
#[inline(always)]
pub(crate) fn magnitude(values: &[f32]) -> u32 {
    values.iter().fold(0, |largest, x| x.abs().to_bits().max(largest))
}

/// The power of two that brings `largest`, bits of a magnitude, to `2^exponent` or up to twice as much, and its inverse, as
/// far as both are normal numbers. `None` of what is not finite.
#[inline(always)]
pub(crate) fn power_of_two(largest: u32, exponent: i32) -> Option<(f32, f32)> {
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    match largest >> 23 {
        0xff => None,
        biased => {
            let n = (exponent + 127 - biased as i32).clamp(-126, 126);
            Some((power(n), power(-n)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (wide, expected) = (widened(u32::from(bits)), f16::from_bits(bits).to_f32());
            assert!(wide.to_bits() == expected.to_bits() || wide.is_nan() && expected.is_nan(), "{bits:04x}");
        }
    }
}
