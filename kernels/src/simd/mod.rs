//! Sixteen numbers at a time: the few vector operations the kernels are written in, once for each instruction set.
//! Leaves the kernels themselves to the operations, which are written once over [`Simd`].
//!
//! A kernel is an [`Op`]. [`dispatch`] runs it inside a function compiled for the instruction set, and everything it
//! calls is inlined there.
#![expect(unsafe_code, reason = "kernels address their operands by pointer")]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod bytes;
pub(crate) mod halves;
mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
pub(crate) mod tile;
pub(crate) mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::has_amx;
pub(crate) use math::{exp, exp2, narrowed, padded, paired, tanh};

use crate::isa::Isa;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Vectors of sixteen f32 (`V`) and sixteen 32-bit words (`W`). A value of an implementing type exists only where its
/// instructions do, which is what makes the methods safe.
pub(crate) trait Simd: Copy {
    /// Sixteen f32.
    type V: Copy;
    /// Sixteen words; a word may be a pair of bf16, the even one in its low half.
    type W: Copy;
    /// The instruction set.
    const ISA: Isa;
    /// There is an instruction for [`Simd::dot_bf16`]: left operands of bf16 products are then kept as pairs, and else
    /// as f32 (rounded to bf16), which the other sets multiply faster.
    const HAS_DOT: bool;
    /// There is an instruction for [`Simd::mul_add_halves`], twice as wide as that for f32.
    const HAS_HALVES: bool = false;
    /// There is an instruction for [`Simd::dot_bytes`]. Else activations beside codes of eight bits are kept as numbers of
    /// sixteen ([`Simd::dot_pairs`]), and products with smaller codes are summed in sixteen bits as far as sums fit
    /// ([`Simd::add_products`], [`Simd::add_sums`]).
    const HAS_BYTES: bool = true;
    /// There are instructions for [`Simd::multiply_tiles`], [`Simd::multiply_gathered`] and [`Simd::dot_tiles`], far faster than all
    /// others.
    const HAS_TILES: bool = false;
    /// Most rows of a tile of products.
    const MAX_ROWS: usize;
    /// Most sums of a tile of products: what the registers hold beside the operands.
    const MAX_TILES: usize;

    fn load(self, x: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V, out: &mut [f32; LANES]);
    /// # Safety
    /// Sixteen f32 must be readable at `x`.
    unsafe fn load_at(self, x: *const f32) -> Self::V;
    /// # Safety
    /// Sixteen f32 must be writable at `out`.
    unsafe fn store_at(self, v: Self::V, out: *mut f32);
    /// # Safety
    /// Sixteen words must be readable at `x`.
    unsafe fn load_words_at(self, x: *const u32) -> Self::W;
    #[inline(always)]
    fn load_words(self, words: &[u32; LANES]) -> Self::W {
        // SAFETY: sixteen words.
        unsafe { self.load_words_at(words.as_ptr()) }
    }
    /// Signed bytes as f32.
    ///
    /// # Safety
    /// Sixteen bytes must be readable at `x`.
    unsafe fn load_bytes_at(self, x: *const i8) -> Self::V;
    /// Numbers in half precision as f32.
    ///
    /// # Safety
    /// Sixteen numbers of two bytes must be readable at `x`.
    unsafe fn load_halves_at(self, x: *const u16) -> Self::V;
    fn splat(self, x: f32) -> Self::V;
    fn splat_word(self, x: u32) -> Self::W;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a > b ? a : b`: the second if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`: the second if either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Which lanes of `a` are above those of `b`, the first in the lowest bit; none with a NaN.
    fn above(self, a: Self::V, b: Self::V) -> u32;
    /// `a > b ? x : 0`.
    fn keep_above(self, x: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// The nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `a · 2^n` for integral `n` in −160..=160.
    fn scale(self, a: Self::V, n: Self::V) -> Self::V;
    /// [`Simd::scale`] where `a` and the result are normal numbers, or both `a` and `n` NaN.
    #[inline(always)]
    fn raise(self, a: Self::V, n: Self::V) -> Self::V {
        self.scale(a, n)
    }
    /// The sum of the lanes, by halves.
    fn sum(self, a: Self::V) -> f32;
    /// The largest lane.
    fn largest(self, a: Self::V) -> f32;
    /// The even bf16 of each pair.
    fn even(self, a: Self::W) -> Self::V;
    /// The odd bf16 of each pair.
    fn odd(self, a: Self::W) -> Self::V;
    /// `acc + a₀b₀ + a₁b₁` of bf16 pairs.
    #[inline(always)]
    fn dot_bf16(self, acc: Self::V, a: Self::W, b: Self::W) -> Self::V {
        self.mul_add(self.odd(a), self.odd(b), self.mul_add(self.even(a), self.even(b), acc))
    }
    /// `acc + c₀a₀ + c₁a₁ + c₂a₂ + c₃a₃` of the four bytes of each word, those of `c` unsigned, those of `a` signed and
    /// not −128; sums are signed.
    #[inline(always)]
    fn dot_bytes(self, acc: Self::W, c: Self::W, a: Self::W) -> Self::W {
        self.load_words(&bytes::dot(self.words(acc), self.words(c), self.words(a)))
    }
    /// As [`Simd::dot_bytes`], where `a` holds sixteen bits of the inputs 0 and 2, then of 1 and 3.
    #[inline(always)]
    fn dot_pairs(self, acc: Self::W, c: Self::W, a: [Self::W; 2]) -> Self::W {
        self.load_words(&bytes::dot_pairs(self.words(acc), self.words(c), a.map(|a| self.words(a))))
    }
    /// `sums + (c₀a₀ + c₁a₁, c₂a₂ + c₃a₃)`, bytes as of [`Simd::dot_bytes`] and sums of sixteen bits, which must hold them.
    #[inline(always)]
    fn add_products(self, sums: Self::W, c: Self::W, a: Self::W) -> Self::W {
        self.load_words(&bytes::add_products(self.words(sums), self.words(c), self.words(a)))
    }
    /// `acc` and both [`Simd::add_products`] of each word.
    #[inline(always)]
    fn add_sums(self, acc: Self::W, sums: Self::W) -> Self::W {
        self.load_words(&bytes::add_sums(self.words(acc), self.words(sums)))
    }
    /// `a · b + acc` of pairs in half precision, each rounded to half precision.
    #[inline(always)]
    fn mul_add_halves(self, acc: Self::W, a: Self::W, b: Self::W) -> Self::W {
        let [mut acc, a, b] = [acc, a, b].map(|words| self.words(words));
        halves::mul_add(&mut acc, &a, &b);
        self.load_words(&acc)
    }
    /// `acc + pair₀ + pair₁` of finite pairs in half precision.
    #[inline(always)]
    fn add_halves(self, acc: Self::V, pairs: Self::W) -> Self::V {
        let [even, odd] = self.widen_halves(pairs);
        self.add(self.add(acc, even), odd)
    }
    /// Pairs in half precision as f32: first the even ones, then the odd ones.
    #[inline(always)]
    fn widen_halves(self, pairs: Self::W) -> [Self::V; 2] {
        halves::widen(self.words(pairs)).map(|values| self.load(&values))
    }
    /// Rounds to half precision, ties to even.
    #[inline(always)]
    fn to_halves(self, v: Self::V, out: &mut [u16; LANES]) {
        let mut values = [0.0; LANES];
        self.store(v, &mut values);
        *out = values.map(|x| half::f16::from_f32(x).to_bits());
    }
    /// Before products of tiles whose right operands have so many words in a column, of two kinds: sixteen, or fewer.
    #[inline(always)]
    fn begin_tiles(self, _depths: [usize; 2]) {}
    /// After products of tiles.
    #[inline(always)]
    fn end_tiles(self) {}
    /// Products of pairs of bf16, summed in f32.
    ///
    /// # Safety
    /// As [`tiles::Pairs`] says; between [`Simd::begin_tiles`] of sixteen words and [`Simd::end_tiles`].
    #[inline(always)]
    unsafe fn multiply_tiles(self, shape: (usize, usize), product: &tiles::Pairs) {
        for time in 0..product.steps * product.ahead.lines {
            product.ahead.after(time).iter().for_each(|line| self.prefetch(line.cast()));
        }
        // SAFETY: promised by the caller.
        unsafe { product.multiply_plainly(shape) }
    }
    /// As [`Simd::multiply_tiles`], of tiles wherever they lie.
    ///
    /// # Safety
    /// As [`tiles::Gathered`] says; between [`Simd::begin_tiles`] of sixteen words and the other depth and [`Simd::end_tiles`].
    #[inline(always)]
    unsafe fn multiply_gathered(self, product: &tiles::Gathered<'_>) {
        for start in product.ahead {
            (0..product.depth).for_each(|line| self.prefetch(start.wrapping_add(line * LANES).cast()));
        }
        // SAFETY: promised by the caller.
        unsafe { product.multiply_plainly() }
    }
    /// Products of bytes.
    ///
    /// # Safety
    /// As [`tiles::Bytes`] says; between [`Simd::begin_tiles`] of its depth and [`Simd::end_tiles`].
    #[inline(always)]
    unsafe fn dot_tiles(self, shape: (usize, usize), product: &tiles::Bytes) {
        // SAFETY: promised by the caller.
        unsafe { product.multiply_plainly(shape) }
    }
    /// The numbers whose bits are the sums of these words.
    #[inline(always)]
    fn add_bits(self, a: Self::W, b: Self::W) -> Self::V {
        let (a, b) = (self.words(a), self.words(b));
        self.load(&std::array::from_fn(|lane| f32::from_bits(a[lane].wrapping_add(b[lane]))))
    }
    /// The words, one by one.
    fn words(self, words: Self::W) -> [u32; LANES];
    /// `words >> shift & mask`.
    fn bits(self, words: Self::W, shift: u32, mask: u32) -> Self::W;
    /// `low | high << 4`.
    fn join(self, low: Self::W, high: Self::W) -> Self::W;
    /// Signed words as f32.
    fn to_f32(self, words: Self::W) -> Self::V;
    /// Integers in −127..=127 as signed bytes.
    fn to_bytes(self, v: Self::V, out: &mut [i8; LANES]);
    /// Rounds to bf16, ties to even.
    fn to_bf16(self, v: Self::V, out: &mut [u16; LANES]);
    /// Asks for the line at `x`, which need not exist.
    fn prefetch(self, x: *const u8);
    /// As [`Simd::prefetch`], no nearer than the second-level cache.
    #[inline(always)]
    fn prefetch_far(self, x: *const u8) {
        self.prefetch(x);
    }
    /// As [`Simd::store`], past the caches if the processor has a way and a line of theirs begins at `out`; not in order with other
    /// stores until [`Simd::end_stores_past`].
    #[inline(always)]
    fn store_past(self, v: Self::V, out: &mut [f32; LANES]) {
        self.store(v, out);
    }
    /// After [`Simd::store_past`], before another thread is told.
    #[inline(always)]
    fn end_stores_past(self) {}
    /// As [`Simd::prefetch`], to be written: other cores give it up now, not at the first store.
    #[inline(always)]
    fn prefetch_to_write(self, x: *const u8) {
        self.prefetch(x);
    }
}

/// A kernel: the same code for every instruction set. `run` must be `#[inline(always)]`.
pub(crate) trait Op {
    /// What it gives.
    type Output;
    /// The kernel.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Runs `op` with the instructions of `isa`, or portably if the machine lacks them.
pub(crate) fn dispatch<O: Op>(isa: Isa, op: O) -> O::Output {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512Fp16 | Isa::Avx512Vnni | Isa::Avx512 | Isa::Avx2 => {
            x86::dispatch(isa, op)
        }
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::dispatch(op),
        _ => op.run(portable::Portable),
    }
}
