//! The vector operations of AVX2 with FMA and conversions of half precision: a vector is a pair of registers, written out,
//! since closures would be compiled without the instructions. Leaves kernels to the operations.
#![expect(unsafe_code, reason = "vector instructions")]

use std::arch::x86_64::*;

use super::x86::intrinsics;
use super::{LANES, Simd};
use crate::isa::Isa;

/// 256-bit registers with FMA.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The machine must have the instructions, and the caller be compiled for them.
    #[inline(always)]
    pub(super) unsafe fn new() -> Self {
        Self(())
    }
}

impl Simd for Avx2 {
    type V = [__m256; 2];
    type W = [__m256i; 2];
    const ISA: Isa = Isa::Avx2;
    const HAS_DOT: bool = false;
    const HAS_BYTES: bool = false;
    const MAX_ROWS: usize = 4;
    const MAX_TILES: usize = 4;

    #[inline(always)]
    unsafe fn load_at(self, x: *const f32) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8))] }
    }
    #[inline(always)]
    unsafe fn store_at(self, v: Self::V, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_ps(out, v[0]);
            _mm256_storeu_ps(out.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_words_at(self, x: *const u32) -> Self::W {
        // SAFETY: the caller's promise.
        unsafe { [_mm256_loadu_si256(x.cast()), _mm256_loadu_si256(x.add(8).cast())] }
    }
    #[inline(always)]
    unsafe fn load_bytes_at(self, x: *const i8) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { [bytes256(x), bytes256(x.add(8))] }
    }
    #[inline(always)]
    unsafe fn load_halves_at(self, x: *const u16) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe {
            [_mm256_cvtph_ps(_mm_loadu_si128(x.cast())), _mm256_cvtph_ps(_mm_loadu_si128(x.add(8).cast()))]
        }
    }
    intrinsics! {
        fn load(self, x: &[f32; LANES]) -> Self::V {
            [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))]
        }
        fn store(self, v: Self::V, out: &mut [f32; LANES]) {
            _mm256_storeu_ps(out.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v[1]);
        }
        fn splat(self, x: f32) -> Self::V { [_mm256_set1_ps(x); 2] }
        fn splat_word(self, x: u32) -> Self::W { [_mm256_set1_epi32(x as i32); 2] }
        fn add(self, a: Self::V, b: Self::V) -> Self::V { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        fn sub(self, a: Self::V, b: Self::V) -> Self::V { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
        fn mul(self, a: Self::V, b: Self::V) -> Self::V { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        fn div(self, a: Self::V, b: Self::V) -> Self::V { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
        fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }
        fn max(self, a: Self::V, b: Self::V) -> Self::V { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
        fn min(self, a: Self::V, b: Self::V) -> Self::V { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
        fn above(self, a: Self::V, b: Self::V) -> u32 {
            let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0]));
            let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1]));
            (low | high << 8) as u32
        }
        fn keep_above(self, x: Self::V, a: Self::V, b: Self::V) -> Self::V {
            [
                _mm256_and_ps(x[0], _mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0])),
                _mm256_and_ps(x[1], _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1])),
            ]
        }
        fn round(self, a: Self::V) -> Self::V {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            [_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])]
        }
        fn scale(self, a: Self::V, n: Self::V) -> Self::V { [scale256(a[0], n[0]), scale256(a[1], n[1])] }
        fn raise(self, a: Self::V, n: Self::V) -> Self::V { [raise256(a[0], n[0]), raise256(a[1], n[1])] }
        fn sum(self, a: Self::V) -> f32 { sum256(_mm256_add_ps(a[0], a[1])) }
        fn largest(self, a: Self::V) -> f32 {
            let a = _mm256_max_ps(a[0], a[1]);
            let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps::<1>(a, a)))
        }
        fn even(self, a: Self::W) -> Self::V {
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(a[0])), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a[1]))]
        }
        fn odd(self, a: Self::W) -> Self::V {
            let mask = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            [_mm256_castsi256_ps(_mm256_and_si256(a[0], mask)), _mm256_castsi256_ps(_mm256_and_si256(a[1], mask))]
        }
        fn dot_pairs(self, acc: Self::W, c: Self::W, a: [Self::W; 2]) -> Self::W {
            [dot_pairs256(acc[0], c[0], [a[0][0], a[1][0]]), dot_pairs256(acc[1], c[1], [a[0][1], a[1][1]])]
        }
        fn add_products(self, sums: Self::W, c: Self::W, a: Self::W) -> Self::W {
            [
                _mm256_add_epi16(sums[0], _mm256_maddubs_epi16(c[0], a[0])),
                _mm256_add_epi16(sums[1], _mm256_maddubs_epi16(c[1], a[1])),
            ]
        }
        fn add_sums(self, acc: Self::W, sums: Self::W) -> Self::W {
            let ones = _mm256_set1_epi16(1);
            [
                _mm256_add_epi32(acc[0], _mm256_madd_epi16(sums[0], ones)),
                _mm256_add_epi32(acc[1], _mm256_madd_epi16(sums[1], ones)),
            ]
        }
        fn words(self, words: Self::W) -> [u32; LANES] { std::mem::transmute(words) }
        fn widen_halves(self, pairs: Self::W) -> [Self::V; 2] {
            let low = _mm256_set1_epi32(0xffff);
            let even = in_order(_mm256_and_si256(pairs[0], low), _mm256_and_si256(pairs[1], low));
            let odd = in_order(_mm256_srli_epi32::<16>(pairs[0]), _mm256_srli_epi32::<16>(pairs[1]));
            [widen256(even), widen256(odd)]
        }
        fn bits(self, words: Self::W, shift: u32, mask: u32) -> Self::W {
            let (right, mask) = (_mm256_set1_epi32(shift as i32), _mm256_set1_epi32(mask as i32));
            [
                _mm256_and_si256(_mm256_srlv_epi32(words[0], right), mask),
                _mm256_and_si256(_mm256_srlv_epi32(words[1], right), mask),
            ]
        }
        fn join(self, low: Self::W, high: Self::W) -> Self::W {
            [
                _mm256_or_si256(low[0], _mm256_slli_epi32::<4>(high[0])),
                _mm256_or_si256(low[1], _mm256_slli_epi32::<4>(high[1])),
            ]
        }
        fn to_f32(self, words: Self::W) -> Self::V { [_mm256_cvtepi32_ps(words[0]), _mm256_cvtepi32_ps(words[1])] }
        fn to_bytes(self, v: Self::V, out: &mut [i8; LANES]) {
            // As below; then the lower eight bytes of each half.
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        }
        fn to_bf16(self, v: Self::V, out: &mut [u16; LANES]) {
            _mm256_storeu_si256(out.as_mut_ptr().cast(), in_order(round256(v[0]), round256(v[1])));
        }
        fn store_past(self, v: Self::V, out: &mut [f32; LANES]) {
            if out.as_ptr().addr().is_multiple_of(32) {
                _mm256_stream_ps(out.as_mut_ptr(), v[0]);
                _mm256_stream_ps(out.as_mut_ptr().add(8), v[1]);
            } else {
                _mm256_storeu_ps(out.as_mut_ptr(), v[0]);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), v[1]);
            }
        }
        fn end_stores_past(self) { _mm_sfence() }
        fn prefetch(self, x: *const u8) { _mm_prefetch::<_MM_HINT_T0>(x.cast()) }
        fn prefetch_to_write(self, x: *const u8) {
            std::arch::asm!("prefetchw [{}]", in(reg) x, options(nostack, preserves_flags, readonly))
        }
    }
}

/// Eight signed bytes as f32.
///
/// # Safety
/// Eight bytes must be readable at `x`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn bytes256(x: *const i8) -> __m256 {
    // SAFETY: the caller's promise.
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(x.cast()) }))
}

/// Sum of eight lanes by halves.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn sum256(a: __m256) -> f32 {
    let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
    let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps::<1>(a, a)))
}

/// Sixteen words below 2^16 as numbers of two bytes. The pack works inside 128-bit halves; the permutation puts the quarters
/// in order.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn in_order(a: __m256i, b: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(a, b))
}

/// Sixteen numbers in half precision as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen256(halves: __m256i) -> [__m256; 2] {
    let (low, high) = (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
    [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
}

/// [`Simd::dot_pairs`] of eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn dot_pairs256(acc: __m256i, c: __m256i, a: [__m256i; 2]) -> __m256i {
    let even = _mm256_madd_epi16(_mm256_and_si256(c, _mm256_set1_epi16(0xff)), a[0]);
    let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(c), a[1]);
    _mm256_add_epi32(_mm256_add_epi32(acc, even), odd)
}

/// `a · 2^n` in two steps, so that each factor is a normal number.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn scale256(a: __m256, n: __m256) -> __m256 {
    let n = _mm256_cvtps_epi32(n);
    let half = _mm256_srai_epi32::<1>(n);
    let bias = _mm256_set1_epi32(127);
    let first = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias)));
    let rest = _mm256_add_epi32(_mm256_sub_epi32(n, half), bias);
    _mm256_mul_ps(_mm256_mul_ps(a, first), _mm256_castsi256_ps(_mm256_slli_epi32::<23>(rest)))
}

/// [`Simd::raise`] of eight lanes: the exponent is added where it lies.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn raise256(a: __m256, n: __m256) -> __m256 {
    let power = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
    _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), power))
}

/// bf16 bits of each lane, ties to even, in 32-bit words.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn round256(v: __m256) -> __m256i {
    let bits = _mm256_castps_si256(v);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
    let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v);
    let rounded = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), nan);
    _mm256_srli_epi32::<16>(_mm256_castps_si256(rounded))
}
