//! The vector operations of AVX-512, with dot products of bytes and of bf16, and half precision, where the machine has them,
//! and which of x86's sets an operation is compiled for. Leaves AVX2 to `avx2`, and kernels to the operations.
#![expect(unsafe_code, reason = "vector instructions")]

use std::arch::x86_64::*;

use super::avx2::{Avx2, sum256};
use super::tiles::{Bytes, Gathered, Pairs};
use super::{LANES, Op, Simd, amx};
use crate::isa::Isa;

/// 512-bit registers.
#[derive(Clone, Copy)]
struct Avx512(());

/// 512-bit registers and dot products of bytes.
#[derive(Clone, Copy)]
struct Avx512Vnni(());

/// 512-bit registers, dot products of bytes, and half precision.
#[derive(Clone, Copy)]
struct Avx512Fp16(());

/// 512-bit registers and dot products of bytes and bf16.
#[derive(Clone, Copy)]
struct Avx512Bf16(());

/// 512-bit registers, dot products of bytes, half precision, and products of tiles.
#[derive(Clone, Copy)]
struct Amx(());

/// Runs `op` with `isa`; `isa` must be one of x86.
pub(super) fn dispatch<O: Op>(isa: Isa, op: O) -> O::Output {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn avx2<O: Op>(op: O) -> O::Output {
        // SAFETY: compiled for it.
        op.run(unsafe { Avx2::new() })
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
    fn avx512<O: Op>(op: O) -> O::Output {
        op.run(Avx512(()))
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn avx512_vnni<O: Op>(op: O) -> O::Output {
        op.run(Avx512Vnni(()))
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512fp16")]
    fn avx512_fp16<O: Op>(op: O) -> O::Output {
        op.run(Avx512Fp16(()))
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
    fn avx512_bf16<O: Op>(op: O) -> O::Output {
        op.run(Avx512Bf16(()))
    }
    #[target_feature(
        enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx512fp16"
    )]
    fn amx<O: Op>(op: O) -> O::Output {
        op.run(Amx(()))
    }
    if !isa.is_supported() {
        return op.run(super::portable::Portable);
    }
    // SAFETY: the machine has the instructions, by the check above.
    unsafe {
        match isa {
            Isa::Amx => amx(op),
            Isa::Avx512Bf16 => avx512_bf16(op),
            Isa::Avx512Fp16 => avx512_fp16(op),
            Isa::Avx512Vnni => avx512_vnni(op),
            Isa::Avx512 => avx512(op),
            _ => avx2(op),
        }
    }
}

/// Methods made of intrinsics: each body is an unsafe block.
macro_rules! intrinsics {
    ($(fn $name:ident(self $(, $arg:ident: $ty:ty)*) $(-> $ret:ty)? $body:block)*) => {$(
        #[inline(always)]
        fn $name(self $(, $arg: $ty)*) $(-> $ret)? {
            // SAFETY: a value of this type exists only inside `dispatch`, where the instructions do; memory is that of
            // array references.
            unsafe { $body }
        }
    )*};
}
pub(super) use intrinsics;

/// What all 512-bit sets share.
macro_rules! avx512_methods {
    () => {
        type V = __m512;
        type W = __m512i;
        const MAX_ROWS: usize = 8;
        const MAX_TILES: usize = 24;

        #[inline(always)]
        unsafe fn load_at(self, x: *const f32) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_loadu_ps(x) }
        }
        #[inline(always)]
        unsafe fn store_at(self, v: __m512, out: *mut f32) {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_ps(out, v) }
        }
        #[inline(always)]
        unsafe fn load_words_at(self, x: *const u32) -> __m512i {
            // SAFETY: the caller's promise.
            unsafe { _mm512_loadu_si512(x.cast()) }
        }
        #[inline(always)]
        unsafe fn load_bytes_at(self, x: *const i8) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.cast()))) }
        }
        #[inline(always)]
        unsafe fn load_halves_at(self, x: *const u16) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.cast())) }
        }
        intrinsics! {
            fn load(self, x: &[f32; LANES]) -> __m512 { _mm512_loadu_ps(x.as_ptr()) }
            fn store(self, v: __m512, out: &mut [f32; LANES]) { _mm512_storeu_ps(out.as_mut_ptr(), v) }
            fn splat(self, x: f32) -> __m512 { _mm512_set1_ps(x) }
            fn splat_word(self, x: u32) -> __m512i { _mm512_set1_epi32(x as i32) }
            fn add(self, a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
            fn sub(self, a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
            fn mul(self, a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
            fn div(self, a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
            fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
            fn max(self, a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
            fn min(self, a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
            fn above(self, a: __m512, b: __m512) -> u32 { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b).into() }
            fn keep_above(self, x: __m512, a: __m512, b: __m512) -> __m512 {
                _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), x)
            }
            fn round(self, a: __m512) -> __m512 {
                _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
            }
            fn scale(self, a: __m512, n: __m512) -> __m512 { _mm512_scalef_ps(a, n) }
            fn sum(self, a: __m512) -> f32 {
                sum256(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a)))
            }
            fn largest(self, a: __m512) -> f32 { _mm512_reduce_max_ps(a) }
            fn even(self, a: __m512i) -> __m512 { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(a)) }
            fn odd(self, a: __m512i) -> __m512 {
                _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(0xffff_0000_u32 as i32)))
            }
            fn words(self, words: __m512i) -> [u32; LANES] { std::mem::transmute(words) }
            fn to_halves(self, v: __m512, out: &mut [u16; LANES]) {
                let narrow = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
                _mm256_storeu_si256(out.as_mut_ptr().cast(), narrow);
            }
            fn widen_halves(self, pairs: __m512i) -> [__m512; 2] {
                let (even, odd) = (_mm512_cvtepi32_epi16(pairs), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(pairs)));
                [_mm512_cvtph_ps(even), _mm512_cvtph_ps(odd)]
            }
            fn bits(self, words: __m512i, shift: u32, mask: u32) -> __m512i {
                let right = _mm512_srlv_epi32(words, _mm512_set1_epi32(shift as i32));
                _mm512_and_si512(right, _mm512_set1_epi32(mask as i32))
            }
            fn join(self, low: __m512i, high: __m512i) -> __m512i {
                _mm512_or_si512(low, _mm512_slli_epi32::<4>(high))
            }
            fn add_bits(self, a: __m512i, b: __m512i) -> __m512 { _mm512_castsi512_ps(_mm512_add_epi32(a, b)) }
            fn to_f32(self, words: __m512i) -> __m512 { _mm512_cvtepi32_ps(words) }
            fn to_bytes(self, v: __m512, out: &mut [i8; LANES]) {
                _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
            }
            fn store_past(self, v: __m512, out: &mut [f32; LANES]) {
                if out.as_ptr().addr().is_multiple_of(64) {
                    _mm512_stream_ps(out.as_mut_ptr(), v);
                } else {
                    _mm512_storeu_ps(out.as_mut_ptr(), v);
                }
            }
            fn end_stores_past(self) { _mm_sfence() }
            fn prefetch(self, x: *const u8) { _mm_prefetch::<_MM_HINT_T0>(x.cast()) }
            fn prefetch_far(self, x: *const u8) { _mm_prefetch::<_MM_HINT_T1>(x.cast()) }
            fn prefetch_to_write(self, x: *const u8) {
                // In assembly: of its intrinsic the compiler makes a plain request. Processors that do not know it go on.
                std::arch::asm!("prefetchw [{}]", in(reg) x, options(nostack, preserves_flags, readonly))
            }
        }
    };
}

/// The dot product of bytes as one instruction.
macro_rules! vnni_methods {
    () => {
        intrinsics! {
            fn dot_bytes(self, acc: __m512i, c: __m512i, a: __m512i) -> __m512i { _mm512_dpbusd_epi32(acc, c, a) }
        }
    };
}

/// bf16 by rounding integers.
macro_rules! rounded_bf16_methods {
    () => {
        intrinsics! {
            fn to_bf16(self, v: __m512, out: &mut [u16; LANES]) {
                let bits = _mm512_castps_si512(v);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
                let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
                let rounded = _mm512_mask_mov_epi32(rounded, nan, quiet);
                let narrow = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded));
                _mm256_storeu_si256(out.as_mut_ptr().cast(), narrow);
            }
        }
    };
}

/// Rounding to bf16 as one instruction, to which numbers too small to be normal are zero.
macro_rules! bf16_methods {
    () => {
        intrinsics! {
            fn to_bf16(self, v: __m512, out: &mut [u16; LANES]) {
                let narrow = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
                _mm256_storeu_si256(out.as_mut_ptr().cast(), narrow);
            }
        }
    };
}

/// Arithmetic in half precision.
macro_rules! half_methods {
    () => {
        const HAS_HALVES: bool = true;
        intrinsics! {
            fn mul_add_halves(self, acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
                let (a, b) = (_mm512_castsi512_ph(a), _mm512_castsi512_ph(b));
                _mm512_castph_si512(_mm512_fmadd_ph(a, b, _mm512_castsi512_ph(acc)))
            }
            fn add_halves(self, acc: __m512, pairs: __m512i) -> __m512 {
                // Sign, exponent and digits in the places that f32 has for them; the exponent is short by a constant factor.
                let places = _mm512_set1_epi32(0x8fff_e000_u32 as i32);
                let even = _mm512_srai_epi32::<3>(_mm512_slli_epi32::<16>(pairs));
                let (even, odd) = (_mm512_and_si512(even, places), _mm512_and_si512(_mm512_srai_epi32::<3>(pairs), places));
                let (even, odd) = (_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd));
                let bias = _mm512_set1_ps(super::halves::BIAS);
                _mm512_fmadd_ps(odd, bias, _mm512_fmadd_ps(even, bias, acc))
            }
        }
    };
}

impl Simd for Avx512Bf16 {
    const ISA: Isa = Isa::Avx512Bf16;
    const HAS_DOT: bool = true;
    avx512_methods!();
    vnni_methods!();
    bf16_methods!();
    intrinsics! {
        fn dot_bf16(self, acc: __m512, a: __m512i, b: __m512i) -> __m512 {
            _mm512_dpbf16_ps(acc, std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b))
        }
    }
}

impl Simd for Amx {
    const ISA: Isa = Isa::Amx;
    // As slow as on every processor with tiles.
    const HAS_DOT: bool = false;
    const HAS_TILES: bool = true;
    avx512_methods!();
    vnni_methods!();
    bf16_methods!();
    half_methods!();

    #[inline(always)]
    fn begin_tiles(self, depths: [usize; 2]) {
        // SAFETY: a value of this type exists only where tiles do.
        unsafe { amx::configure(depths) }
    }
    #[inline(always)]
    fn end_tiles(self) {
        // SAFETY: as above.
        unsafe { amx::release() }
    }
    #[inline(always)]
    unsafe fn multiply_tiles(self, shape: (usize, usize), product: &Pairs) {
        // SAFETY: as above; what is read and written is promised by the caller.
        unsafe { amx::multiply(shape, product) }
    }
    #[inline(always)]
    unsafe fn multiply_gathered(self, product: &Gathered<'_>) {
        // SAFETY: as above.
        unsafe { amx::multiply_gathered(product) }
    }
    #[inline(always)]
    unsafe fn dot_tiles(self, shape: (usize, usize), product: &Bytes) {
        // SAFETY: as above.
        unsafe { amx::dot(shape, product) }
    }
}

impl Simd for Avx512Fp16 {
    const ISA: Isa = Isa::Avx512Fp16;
    const HAS_DOT: bool = false;
    avx512_methods!();
    vnni_methods!();
    rounded_bf16_methods!();
    half_methods!();
}

impl Simd for Avx512Vnni {
    const ISA: Isa = Isa::Avx512Vnni;
    const HAS_DOT: bool = false;
    avx512_methods!();
    vnni_methods!();
    rounded_bf16_methods!();
}

impl Simd for Avx512 {
    const ISA: Isa = Isa::Avx512;
    const HAS_DOT: bool = false;
    const HAS_BYTES: bool = false;
    avx512_methods!();
    rounded_bf16_methods!();
    intrinsics! {
        fn dot_pairs(self, acc: __m512i, c: __m512i, a: [__m512i; 2]) -> __m512i {
            let even = _mm512_madd_epi16(_mm512_and_si512(c, _mm512_set1_epi16(0xff)), a[0]);
            let odd = _mm512_madd_epi16(_mm512_srli_epi16::<8>(c), a[1]);
            _mm512_add_epi32(_mm512_add_epi32(acc, even), odd)
        }
        fn add_products(self, sums: __m512i, c: __m512i, a: __m512i) -> __m512i {
            _mm512_add_epi16(sums, _mm512_maddubs_epi16(c, a))
        }
        fn add_sums(self, acc: __m512i, sums: __m512i) -> __m512i {
            _mm512_add_epi32(acc, _mm512_madd_epi16(sums, _mm512_set1_epi16(1)))
        }
    }
}
