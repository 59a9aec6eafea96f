//! Weights in eight or four bits: blocks of inputs that share a scale, the largest magnitude among them. Leaves where
//! codes lie to `coded` and `packed`.

use half::f16;

use crate::simd::halves::magnitude;

/// Consecutive inputs of an output that share a scale.
pub(crate) const BLOCK: usize = 64;

/// The sixteen values of a 4-bit NormalFloat: quantiles of a normal distribution, scaled to −1..=1 with an exact zero
/// (Dettmers et al. 2023, arXiv:2305.14314, Appendix E).
pub(crate) const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_04,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The scale of a block: what a code of full magnitude stands for is its largest value, nearly.
#[inline(always)]
pub(super) fn int8_scale(block: &[f32]) -> f16 {
    f16::from_f32(largest(block) / 127.0)
}

/// The code of `x`, of which that of zero is `128`: nearest, ties to even.
#[inline(always)]
pub(super) fn int8_code(x: f32, scale: f32) -> u8 {
    let code = if scale > 0.0 { (x / scale).clamp(-127.0, 127.0) } else { 0.0 };
    // From 2²³ on numbers are integers, and their lowest bits are those of the integer.
    (code + (8_388_608.0 + 128.0)).to_bits() as u8
}

/// As [`int8_scale`].
#[inline(always)]
pub(super) fn nf4_scale(block: &[f32]) -> f32 {
    largest(block)
}

/// The code of the nearest of [`NF4`]'s values.
#[inline(always)]
pub(super) fn nf4_code(x: f32, scale: f32) -> u8 {
    let x = if scale > 0.0 { x / scale } else { 0.0 };
    // Codes ascend with their values, so the nearest is the number of midpoints below.
    NF4.windows(2).filter(|pair| x > (pair[0] + pair[1]) / 2.0).count() as u8
}

#[inline(always)]
fn largest(block: &[f32]) -> f32 {
    f32::from_bits(magnitude(block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_the_table_is_its_own_code() {
        for (code, value) in NF4.iter().enumerate() {
            assert_eq!(nf4_code(value * 3.0, 3.0), code as u8);
        }
        assert_eq!((nf4_code(0.04, 1.0), nf4_code(-0.04, 1.0), nf4_code(0.03, 1.0)), (8, 7, 7));
        assert_eq!((nf4_code(5.0, 0.0), NF4[7]), (7, 0.0));
    }

    #[test]
    fn eight_bits_reach_from_the_largest_to_its_opposite() {
        let scale = int8_scale(&[0.5, -2.54, 1.0]).to_f32();
        let value = |x| (f32::from(int8_code(x, scale)) - 128.0) * scale;
        // Half precision has eleven bits.
        assert!((value(-2.54) + 2.54).abs() < 2.54 / 2048.0 && (value(2.54) - 2.54).abs() < 2.54 / 2048.0);
        assert!((value(0.505) - 0.505).abs() <= scale / 2.0 + 1e-6);
        assert_eq!((int8_scale(&[0.0; 3]).to_f32(), int8_code(0.0, 0.0)), (0.0, 128));
    }
}
