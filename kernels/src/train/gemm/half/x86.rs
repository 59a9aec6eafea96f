//! The half-precision micro-kernel of x86 with AVX512-FP16, and conversions. Leaves blocking to its parent.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::bf16::TURNED;
use super::{BLOCK, Half, KC, RowPanel, TILE, TileShape};
use crate::simd::LANES;

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

/// Lanes of what is left after whole vectors.
fn lanes(rest: usize) -> u16 {
    u16::MAX >> (16 - rest)
}

/// Bits of magnitudes.
#[target_feature(enable = "avx512f")]
fn magnitudes(bits: __m512i) -> __m512i {
    _mm512_and_si512(bits, _mm512_set1_epi32(i32::MAX))
}

/// Largest bits of a magnitude: not a number is above all.
///
/// # Safety
/// The instructions exist.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn largest(values: &[f32]) -> u32 {
    // Several, so that loads do not wait for each other.
    let mut most = [_mm512_setzero_si512(); 4];
    let (whole, rest) = values.as_chunks::<64>();
    for values in whole {
        for (part, most) in most.iter_mut().enumerate() {
            // SAFETY: four vectors are in 64 values.
            let bits = unsafe { _mm512_loadu_si512(values.as_ptr().add(16 * part).cast()) };
            *most = _mm512_max_epu32(*most, magnitudes(bits));
        }
    }
    for values in rest.chunks(16) {
        // SAFETY: the mask leaves out what is past the end.
        let bits = unsafe { _mm512_maskz_loadu_epi32(lanes(values.len()), values.as_ptr().cast()) };
        most[0] = _mm512_max_epu32(most[0], magnitudes(bits));
    }
    let [a, b, c, d] = most;
    _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_max_epu32(a, b), _mm512_max_epu32(c, d)))
}

/// Sixteen numbers times `scale` as fp16.
#[target_feature(enable = "avx512f")]
fn to_half(values: __m512, scale: __m512) -> __m256i {
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
    for (wide, out) in wide.chunks(16).zip(out.chunks_mut(16)) {
        let lanes = lanes(wide.len());
        // SAFETY: the mask leaves out what is past the end.
        unsafe {
            let half = to_half(_mm512_maskz_loadu_ps(lanes, wide.as_ptr()), scale);
            _mm256_mask_storeu_epi16(out.as_mut_ptr().cast(), lanes, half);
        }
    }
}

/// fp16 numbers, each twice in a word.
#[target_feature(enable = "avx512f")]
fn twice(half: __m256i) -> __m512i {
    let half = _mm512_cvtepu16_epi32(half);
    _mm512_or_si512(half, _mm512_slli_epi32::<16>(half))
}

/// `scale · wide` as fp16, twice in each word.
///
/// # Safety
/// The instructions exist.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn double(wide: &[f32], scale: f32, out: &mut [u32]) {
    assert!(wide.len() <= out.len(), "double writes past its output");
    let scale = _mm512_set1_ps(scale);
    let (whole, rest) = wide.as_chunks::<16>();
    let (whole_out, rest_out) = out.split_at_mut(16 * whole.len());
    for (wide, out) in whole.iter().zip(whole_out.as_chunks_mut::<16>().0) {
        // SAFETY: both are whole vectors.
        unsafe {
            let words = twice(to_half(_mm512_loadu_ps(wide.as_ptr()), scale));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), words);
        }
    }
    if !rest.is_empty() {
        let lanes = lanes(rest.len());
        // SAFETY: the mask leaves out what is past the end.
        unsafe {
            let words = twice(to_half(_mm512_maskz_loadu_ps(lanes, rest.as_ptr()), scale));
            _mm512_mask_storeu_epi32(rest_out.as_mut_ptr().cast(), lanes, words);
        }
    }
}

/// The even and the odd inputs of words of two bf16 numbers, times `scale` as fp16.
#[target_feature(enable = "avx512f")]
fn halves(words: __m512i, scale: __m512) -> [__m256i; 2] {
    let odd = _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
    [_mm512_slli_epi32::<16>(words), odd].map(|bits| to_half(_mm512_castsi512_ps(bits), scale))
}

/// Writes `scale` times the pairs of inputs of sixteen outputs as fp16 rows [`Half::NR`] apart, one for each of `rows`
/// inputs.
///
/// # Safety
/// The instructions exist.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn narrow_pairs(words: &[[u32; LANES]], scale: f32, rows: usize, out: &mut [u16]) {
    assert!(rows.div_ceil(2) <= words.len(), "narrow_pairs reads past its input");
    assert!(rows == 0 || (rows - 1) * Half::NR + LANES <= out.len(), "narrow_pairs writes past its output");
    let scale = _mm512_set1_ps(scale);
    let out = out.as_mut_ptr();
    for (pair, words) in words.iter().enumerate().take(rows.div_ceil(2)) {
        // SAFETY: by the assertions.
        unsafe {
            let [even, odd] = halves(_mm512_loadu_si512(words.as_ptr().cast()), scale);
            let out = out.add(2 * pair * Half::NR);
            _mm256_storeu_si256(out.cast(), even);
            if 2 * pair + 1 < rows {
                _mm256_storeu_si256(out.add(Half::NR).cast(), odd);
            }
        }
    }
}

/// Writes `scale` times sixteen pairs of inputs of `height` outputs as fp16 rows [`Half::NR`] apart, one for each output.
///
/// # Safety
/// The instructions exist.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn turn_pairs(words: &[[u32; LANES]], scale: f32, height: usize, out: &mut [u16]) {
    assert!(words.len() >= LANES && height <= LANES, "turn_pairs reads past its input");
    assert!(
        height == 0 || (height - 1) * Half::NR + TURNED <= out.len(),
        "turn_pairs writes past its output"
    );
    let scale = _mm512_set1_ps(scale);
    let mut pairs = [_mm512_setzero_si512(); LANES];
    for (pair, words) in pairs.iter_mut().zip(words) {
        // SAFETY: sixteen words are a vector.
        *pair = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
    }
    let outputs = transpose(pairs);
    for (row, words) in outputs.into_iter().enumerate().take(height) {
        // A word holds an even input and the odd one after it, so halves of the vector are sixteen inputs in order.
        let parts = [_mm512_castsi512_si256(words), _mm512_extracti64x4_epi64::<1>(words)];
        for (part, words) in parts.into_iter().enumerate() {
            let bits = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(words));
            let half = to_half(_mm512_castsi512_ps(bits), scale);
            // SAFETY: by the assertions.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(row * Half::NR + 16 * part).cast(), half) };
        }
    }
}

/// The transpose of sixteen rows of sixteen words.
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut out = rows;
    // Within fours of rows, blocks of four words.
    for four in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|row| rows[4 * four + row]);
        let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        out[4 * four] = _mm512_unpacklo_epi64(ab_low, cd_low);
        out[4 * four + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
        out[4 * four + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
        out[4 * four + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
    }
    // Then the blocks themselves.
    let fours = out;
    for column in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|four| fours[4 * four + column]);
        let (ab_low, ab_high) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (cd_low, cd_high) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        out[column] = _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low);
        out[4 + column] = _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high);
        out[8 + column] = _mm512_shuffle_i32x4::<0xdd>(ab_low, cd_low);
        out[12 + column] = _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high);
    }
    out
}
