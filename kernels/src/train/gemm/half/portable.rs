//! What the half-precision instructions do, a number at a time: their oracle.

use half::f16;

use crate::simd::halves::magnitude;

use super::bf16::TURNED;
use super::{BLOCK, Half, KC, RowPanel, TileShape};
use crate::simd::LANES;

/// Largest bits of a magnitude: not a number is above all.
///
/// # Safety
/// None.
pub(super) unsafe fn largest(values: &[f32]) -> u32 {
    magnitude(values)
}

/// # Safety
/// None.
pub(super) unsafe fn narrow(wide: &[f32], scale: f32, out: &mut [u16]) {
    out.iter_mut().zip(wide).for_each(|(out, value)| *out = f16::from_f32(value * scale).to_bits());
}

/// The even and the odd input of a word of two bf16 numbers, times `scale` as fp16.
fn halves(word: u32, scale: f32) -> [u16; 2] {
    [word << 16, word & 0xffff_0000].map(|bits| f16::from_f32(f32::from_bits(bits) * scale).to_bits())
}

/// # Safety
/// None.
pub(super) unsafe fn narrow_pairs(words: &[[u32; LANES]], scale: f32, rows: usize, out: &mut [u16]) {
    for row in 0..rows {
        for lane in 0..LANES {
            out[row * Half::NR + lane] = halves(words[row / 2][lane], scale)[row % 2];
        }
    }
}

/// # Safety
/// None.
pub(super) unsafe fn turn_pairs(words: &[[u32; LANES]], scale: f32, height: usize, out: &mut [u16]) {
    for row in 0..height {
        for input in 0..TURNED {
            out[row * Half::NR + input] = halves(words[input / 2][row], scale)[input % 2];
        }
    }
}

/// # Safety
/// None.
pub(super) unsafe fn double(wide: &[f32], scale: f32, out: &mut [u32]) {
    for (out, value) in out.iter_mut().zip(wide) {
        *out = u32::from(f16::from_f32(value * scale).to_bits()) * 0x1_0001;
    }
}

/// The fp16 number nearest to `value`. On the way through f32 what is cut off leaves the last digit odd, so that
/// nothing is rounded twice.
fn nearest(value: f64) -> f16 {
    let single = value as f32;
    if f64::from(single) == value {
        return f16::from_f32(single);
    }
    let is_larger = f64::from(single).abs() > value.abs();
    f16::from_f32(f32::from_bits((single.to_bits() - u32::from(is_larger)) | 1))
}

/// # Safety
/// As of [`RowPanel::tile`].
pub(super) unsafe fn tile(
    depth: usize,
    a: RowPanel<'_>,
    b: &[u16],
    (c, stride): (*mut f32, usize),
    accumulate: bool,
) {
    let left = |row: usize, k: usize| f16::from_bits(a.words[row * KC + k] as u16).to_f64();
    let right = |k: usize, column: usize| f16::from_bits(b[k * Half::NR + column]).to_f64();
    for row in 0..Half::MR {
        for column in 0..Half::NR {
            let mut sum = 0.0f32;
            for from in (0..depth).step_by(BLOCK) {
                let mut block = f16::ZERO;
                for k in from..depth.min(from + BLOCK) {
                    block = nearest(block.to_f64() + left(row, k) * right(k, column));
                }
                sum += block.to_f32();
            }
            // SAFETY: the caller's promise.
            let out = unsafe { &mut *c.add(row * stride + column) };
            let old = if accumulate { *out } else { 0.0 };
            *out = a.factors[row].mul_add(sum, old);
        }
    }
}
