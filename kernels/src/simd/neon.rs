//! The vector operations of 64-bit Arm, in groups of four registers. Leaves kernels to the operations.
#![expect(unsafe_code, reason = "vector instructions")]

use std::arch::aarch64::*;

use half::{bf16, f16};

use super::{LANES, Op, Simd};
use crate::isa::Isa;

/// 128-bit registers; a vector is four of them.
#[derive(Clone, Copy)]
struct Neon(());

/// Runs `op`.
pub(super) fn dispatch<O: Op>(op: O) -> O::Output {
    #[target_feature(enable = "neon")]
    fn neon<O: Op>(op: O) -> O::Output {
        op.run(Neon(()))
    }
    if !Isa::Neon.is_supported() {
        return op.run(super::portable::Portable);
    }
    // SAFETY: the machine has the instructions, by the check above.
    unsafe { neon(op) }
}

type V = [float32x4_t; 4];
type W = [uint32x4_t; 4];

/// One expression for each of the four registers.
macro_rules! four {
    (|$i:ident| $body:expr) => {{
        // SAFETY: a value of `Neon` exists only inside `dispatch`, where the instructions do.
        unsafe {
            [
                {
                    let $i = 0;
                    $body
                },
                {
                    let $i = 1;
                    $body
                },
                {
                    let $i = 2;
                    $body
                },
                {
                    let $i = 3;
                    $body
                },
            ]
        }
    }};
}

impl Simd for Neon {
    type V = V;
    type W = W;
    const ISA: Isa = Isa::Neon;
    const HAS_DOT: bool = false;
    const MAX_ROWS: usize = 4;
    const MAX_TILES: usize = 6;

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> V {
        four!(|i| vld1q_f32(x.as_ptr().add(4 * i)))
    }
    #[inline(always)]
    fn store(self, v: V, out: &mut [f32; LANES]) {
        four!(|i| vst1q_f32(out.as_mut_ptr().add(4 * i), v[i]));
    }
    #[inline(always)]
    unsafe fn load_at(self, x: *const f32) -> V {
        four!(|i| vld1q_f32(x.add(4 * i)))
    }
    #[inline(always)]
    unsafe fn store_at(self, v: V, out: *mut f32) {
        four!(|i| vst1q_f32(out.add(4 * i), v[i]));
    }
    #[inline(always)]
    unsafe fn load_words_at(self, x: *const u32) -> W {
        four!(|i| vld1q_u32(x.add(4 * i)))
    }
    #[inline(always)]
    unsafe fn load_bytes_at(self, x: *const i8) -> V {
        // SAFETY: the caller's promise, and a value of `Neon` exists only where the instructions do.
        let four = unsafe {
            let codes = vld1q_s8(x);
            let (low, high) = (vmovl_s8(vget_low_s8(codes)), vmovl_s8(vget_high_s8(codes)));
            [vget_low_s16(low), vget_high_s16(low), vget_low_s16(high), vget_high_s16(high)]
        };
        four!(|i| vcvtq_f32_s32(vmovl_s16(four[i])))
    }
    #[inline(always)]
    unsafe fn load_halves_at(self, x: *const u16) -> V {
        four!(|i| {
            let halves: [f32; 4] = std::array::from_fn(|j| f16::from_bits(*x.add(4 * i + j)).to_f32());
            vld1q_f32(halves.as_ptr())
        })
    }
    #[inline(always)]
    fn splat(self, x: f32) -> V {
        four!(|_i| vdupq_n_f32(x))
    }
    #[inline(always)]
    fn splat_word(self, x: u32) -> W {
        four!(|_i| vdupq_n_u32(x))
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        four!(|i| vaddq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        four!(|i| vsubq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        four!(|i| vmulq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        four!(|i| vdivq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        four!(|i| vfmaq_f32(c[i], a[i], b[i]))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        four!(|i| vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i]))
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        four!(|i| vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i]))
    }
    #[inline(always)]
    fn above(self, a: V, b: V) -> u32 {
        let bits = [1, 2, 4, 8];
        let [a, b, c, d] = four!(|i| vaddvq_u32(vandq_u32(vcgtq_f32(a[i], b[i]), vld1q_u32(bits.as_ptr()))));
        a | b << 4 | c << 8 | d << 12
    }
    #[inline(always)]
    fn keep_above(self, x: V, a: V, b: V) -> V {
        four!(|i| vbslq_f32(vcgtq_f32(a[i], b[i]), x[i], vdupq_n_f32(0.0)))
    }
    #[inline(always)]
    fn round(self, a: V) -> V {
        four!(|i| vrndnq_f32(a[i]))
    }
    #[inline(always)]
    fn scale(self, a: V, n: V) -> V {
        four!(|i| {
            // In two steps, so that each factor is a normal number.
            let n = vcvtnq_s32_f32(n[i]);
            let half = vshrq_n_s32::<1>(n);
            let bias = vdupq_n_s32(127);
            let first = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(half, bias)));
            let rest = vshlq_n_s32::<23>(vaddq_s32(vsubq_s32(n, half), bias));
            vmulq_f32(vmulq_f32(a[i], first), vreinterpretq_f32_s32(rest))
        })
    }
    #[inline(always)]
    fn raise(self, a: V, n: V) -> V {
        four!(|i| {
            let power = vshlq_n_s32::<23>(vcvtnq_s32_f32(n[i]));
            vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a[i]), power))
        })
    }
    #[inline(always)]
    fn sum(self, a: V) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(a, &mut lanes);
        super::portable::Portable.sum(lanes)
    }
    #[inline(always)]
    fn largest(self, a: V) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(a, &mut lanes);
        super::portable::Portable.largest(lanes)
    }
    #[inline(always)]
    fn even(self, a: W) -> V {
        four!(|i| vreinterpretq_f32_u32(vshlq_n_u32::<16>(a[i])))
    }
    #[inline(always)]
    fn odd(self, a: W) -> V {
        four!(|i| vreinterpretq_f32_u32(vandq_u32(a[i], vdupq_n_u32(0xffff_0000))))
    }
    #[inline(always)]
    fn dot_bytes(self, acc: W, c: W, a: W) -> W {
        four!(|i| {
            // Products of an unsigned and a signed byte fit sixteen bits.
            let (c, a) = (vreinterpretq_u8_u32(c[i]), vreinterpretq_s8_u32(a[i]));
            let c = [vmovl_u8(vget_low_u8(c)), vmovl_u8(vget_high_u8(c))];
            let a = [vmovl_s8(vget_low_s8(a)), vmovl_s8(vget_high_s8(a))];
            let pairs = [0, 1].map(|h| vpaddlq_s16(vmulq_s16(vreinterpretq_s16_u16(c[h]), a[h])));
            vaddq_u32(acc[i], vreinterpretq_u32_s32(vpaddq_s32(pairs[0], pairs[1])))
        })
    }
    #[inline(always)]
    fn words(self, words: W) -> [u32; LANES] {
        // SAFETY: both are sixteen words.
        unsafe { std::mem::transmute(words) }
    }
    #[inline(always)]
    fn bits(self, words: W, shift: u32, mask: u32) -> W {
        // To the right by shifting to the left by less than nothing.
        four!(|i| {
            let shifted = vshlq_u32(words[i], vdupq_n_s32(-shift.cast_signed()));
            vandq_u32(shifted, vdupq_n_u32(mask))
        })
    }
    #[inline(always)]
    fn join(self, low: W, high: W) -> W {
        four!(|i| vorrq_u32(low[i], vshlq_n_u32::<4>(high[i])))
    }
    #[inline(always)]
    fn to_f32(self, words: W) -> V {
        four!(|i| vcvtq_f32_s32(vreinterpretq_s32_u32(words[i])))
    }
    #[inline(always)]
    fn to_bytes(self, v: V, out: &mut [i8; LANES]) {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        *out = lanes.map(|x| x as i8);
    }
    #[inline(always)]
    fn to_bf16(self, v: V, out: &mut [u16; LANES]) {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        *out = lanes.map(|x| bf16::from_f32(x).to_bits());
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
