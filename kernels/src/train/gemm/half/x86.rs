//! The half-precision micro-kernel of x86 with AVX512-FP16, and conversions. Leaves blocking to its parent.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::{BLOCK, Half, KC, RowPanel, TILE, TileShape};

/// Vectors of fp16 in a row of a tile.
const VECTORS: usize = Half::NR / 32;
/// A tile's sums of each block of a panel, before they are added up: stored, because reading them widened is
/// cheaper than widening them in registers.
#[repr(align(64))]
struct Sums {
    _tiles: [u16; KC / BLOCK * TILE],
}

/// # Safety
/// As of [`RowPanel::tile`], whose lengths hold.
#[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
pub(super) unsafe fn tile(depth: usize, a: RowPanel<'_>, b: &[u16], c: (*mut f32, usize), accumulate: bool) {
    let mut sums = MaybeUninit::<Sums>::uninit();
    let sums = sums.as_mut_ptr().cast::<u16>();
    // SAFETY: the caller's promise; a panel has at most the blocks there is room for, each written before it is read.
    unsafe {
        multiply(depth, a.words.as_ptr(), b.as_ptr(), sums);
        add_up(depth.div_ceil(BLOCK), sums, a.factors.as_ptr(), c, accumulate);
    }
}

/// # Safety
/// `a` holds `MR` rows `KC` apart of `depth` words, `b` `depth` rows of `NR`, `sums` a tile for each block.
#[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
unsafe fn multiply(depth: usize, a: *const u32, b: *const u16, mut sums: *mut u16) {
    let mut from = 0;
    // SAFETY: the caller's promise.
    unsafe {
        while from < depth {
            let to = depth.min(from + BLOCK);
            let mut block = [[_mm512_setzero_ph(); VECTORS]; Half::MR];
            for k in from..to {
                let b = b.add(k * Half::NR);
                let low = _mm512_castsi512_ph(_mm512_loadu_si512(b.cast()));
                let high = _mm512_castsi512_ph(_mm512_loadu_si512(b.add(32).cast()));
                for (row, block) in block.iter_mut().enumerate() {
                    let value = _mm512_set1_epi32((*a.add(row * KC + k)).cast_signed());
                    let value = _mm512_castsi512_ph(value);
                    block[0] = _mm512_fmadd_ph(value, low, block[0]);
                    block[1] = _mm512_fmadd_ph(value, high, block[1]);
                }
            }
            for (row, block) in block.iter().enumerate() {
                for (vector, block) in block.iter().enumerate() {
                    let out = sums.add(row * Half::NR + vector * 32);
                    _mm512_storeu_si512(out.cast(), _mm512_castph_si512(*block));
                }
            }
            sums = sums.add(TILE);
            from = to;
        }
    }
}

/// # Safety
/// `sums` holds `blocks` tiles, `factors` one for each row, `c` a tile.
#[target_feature(enable = "avx512f,avx512bw,avx512fp16")]
unsafe fn add_up(
    blocks: usize,
    sums: *const u16,
    factors: *const f32,
    (c, stride): (*mut f32, usize),
    accumulate: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for row in 0..Half::MR {
            let mut wide = [_mm512_setzero_ps(); 2 * VECTORS];
            for block in 0..blocks {
                let sums = sums.add(block * TILE + row * Half::NR);
                for (part, wide) in wide.iter_mut().enumerate() {
                    let narrow = _mm256_loadu_si256(sums.add(16 * part).cast());
                    *wide = _mm512_add_ps(*wide, _mm512_cvtph_ps(narrow));
                }
            }
            let factor = _mm512_set1_ps(*factors.add(row));
            for (part, wide) in wide.iter().enumerate() {
                let out = c.add(row * stride + 16 * part);
                let value = if accumulate {
                    _mm512_fmadd_ps(factor, *wide, _mm512_loadu_ps(out))
                } else {
                    _mm512_mul_ps(factor, *wide)
                };
                _mm512_storeu_ps(out, value);
            }
        }
    }
}

/// The lanes from `from` on that exist, of sixteen.
fn lanes(len: usize, from: usize) -> u16 {
    u16::MAX >> 16usize.saturating_sub(len - from)
}

/// Largest bits of a magnitude: not a number is above all.
///
/// # Safety
/// The instructions exist.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn largest(values: &[f32]) -> u32 {
    let mut most = _mm512_setzero_si512();
    for from in (0..values.len()).step_by(16) {
        let lanes = lanes(values.len(), from);
        // SAFETY: the mask leaves out what is past the end.
        let bits = unsafe { _mm512_maskz_loadu_epi32(lanes, values.as_ptr().add(from).cast()) };
        most = _mm512_max_epu32(most, _mm512_and_si512(bits, _mm512_set1_epi32(i32::MAX)));
    }
    _mm512_reduce_max_epu32(most)
}

/// Sixteen numbers from `from` on, zeros past the last, times `scale` as fp16.
///
/// # Safety
/// `from` is in `wide`.
#[target_feature(enable = "avx512f")]
unsafe fn to_half(wide: &[f32], from: usize, scale: __m512) -> __m256i {
    // SAFETY: the mask leaves out what is past the end.
    let values = unsafe { _mm512_maskz_loadu_ps(lanes(wide.len(), from), wide.as_ptr().add(from)) };
    _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm512_mul_ps(values, scale))
}

/// `scale · wide` as fp16.
///
/// # Safety
/// The instructions exist.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn narrow(wide: &[f32], scale: f32, out: &mut [u16]) {
    assert!(wide.len() <= out.len(), "narrow writes past its output");
    let scale = _mm512_set1_ps(scale);
    for from in (0..wide.len()).step_by(16) {
        // SAFETY: the mask leaves out what is past the end.
        unsafe {
            let half = to_half(wide, from, scale);
            _mm256_mask_storeu_epi16(out.as_mut_ptr().add(from).cast(), lanes(wide.len(), from), half);
        }
    }
}

/// `scale · wide` as fp16, twice in each word.
///
/// # Safety
/// The instructions exist.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn double(wide: &[f32], scale: f32, out: &mut [u32]) {
    assert!(wide.len() <= out.len(), "double writes past its output");
    let scale = _mm512_set1_ps(scale);
    for from in (0..wide.len()).step_by(16) {
        // SAFETY: the mask leaves out what is past the end.
        unsafe {
            let half = _mm512_cvtepu16_epi32(to_half(wide, from, scale));
            let twice = _mm512_or_si512(half, _mm512_slli_epi32::<16>(half));
            _mm512_mask_storeu_epi32(out.as_mut_ptr().add(from).cast(), lanes(wide.len(), from), twice);
        }
    }
}
