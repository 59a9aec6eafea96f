//! The vector operations in plain Rust: for machines without a faster set, and the oracle of those. Leaves kernels to
//! the operations.
#![expect(unsafe_code, reason = "kernels address their operands by pointer")]

use half::{bf16, f16};

use super::{LANES, Simd};
use crate::isa::Isa;

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

type V = [f32; LANES];

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type V = V;
    type W = [u32; LANES];
    const ISA: Isa = Isa::Portable;
    const HAS_DOT: bool = false;
    const MAX_ROWS: usize = 2;
    const MAX_TILES: usize = 2;

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> V {
        *x
    }
    #[inline(always)]
    fn store(self, v: V, out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    unsafe fn load_at(self, x: *const f32) -> V {
        // SAFETY: the caller's promise.
        unsafe { x.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_at(self, v: V, out: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { out.cast::<V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_words_at(self, x: *const u32) -> [u32; LANES] {
        // SAFETY: the caller's promise.
        unsafe { x.cast::<[u32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_bytes_at(self, x: *const i8) -> V {
        // SAFETY: the caller's promise.
        unsafe { x.cast::<[i8; LANES]>().read() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_halves_at(self, x: *const u16) -> V {
        // SAFETY: the caller's promise.
        unsafe { x.cast::<[u16; LANES]>().read_unaligned() }.map(|half| f16::from_bits(half).to_f32())
    }
    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }
    #[inline(always)]
    fn splat_word(self, x: u32) -> [u32; LANES] {
        [x; LANES]
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        // Not `f32::mul_add`, which is a library call where the instruction is missing.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn above(self, a: V, b: V) -> u32 {
        (0..LANES).fold(0, |bits, i| bits | u32::from(a[i] > b[i]) << i)
    }
    #[inline(always)]
    fn keep_above(self, x: V, a: V, b: V) -> V {
        std::array::from_fn(|i| if a[i] > b[i] { x[i] } else { 0.0 })
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn scale(self, a: V, n: V) -> V {
        // In two steps, so that each factor is a normal number.
        let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
        zip(a, n, |a, n| a * power(n as i32 >> 1) * power(n as i32 - (n as i32 >> 1)))
    }
    #[inline(always)]
    fn sum(self, a: V) -> f32 {
        let mut a = a;
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] += a[i + half];
            }
        }
        a[0]
    }
    #[inline(always)]
    fn largest(self, a: V) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }
    #[inline(always)]
    fn even(self, a: [u32; LANES]) -> V {
        a.map(|word| f32::from_bits(word << 16))
    }
    #[inline(always)]
    fn odd(self, a: [u32; LANES]) -> V {
        a.map(|word| f32::from_bits(word & 0xffff_0000))
    }
    #[inline(always)]
    fn words(self, words: [u32; LANES]) -> [u32; LANES] {
        words
    }
    #[inline(always)]
    fn bits(self, words: [u32; LANES], shift: u32, mask: u32) -> [u32; LANES] {
        words.map(|word| word >> shift & mask)
    }
    #[inline(always)]
    fn join(self, low: [u32; LANES], high: [u32; LANES]) -> [u32; LANES] {
        std::array::from_fn(|i| low[i] | high[i] << 4)
    }
    #[inline(always)]
    fn to_f32(self, words: [u32; LANES]) -> V {
        words.map(|word| word.cast_signed() as f32)
    }
    #[inline(always)]
    fn to_bytes(self, v: V, out: &mut [i8; LANES]) {
        *out = v.map(|x| x as i8);
    }
    #[inline(always)]
    fn to_bf16(self, v: V, out: &mut [u16; LANES]) {
        *out = v.map(|x| bf16::from_f32(x).to_bits());
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
