//! Packed weights as the f32 they stand for, a tile at a time: for products that read them many times. Leaves the
//! products to `linear` and `train::gemm`.

use std::ops::Range;

use half::f16;

use super::packed::{PackedLinear, Storage, part_of};
use crate::Pool;
use crate::rows::for_each_chunk;
use crate::simd::{LANES, Op, Simd, dispatch, halves};

/// Inputs that are looked through at a time; even, for pairs of bf16.
const MAGNITUDE_STEP: usize = 64;

/// Writes inputs `inputs` of the sixteen outputs of tile `tile` to `out`, `[inputs][16]`. Inputs of two bytes start at a pair
/// and take whole pairs of `out`, the padding of the last one included.
pub(crate) struct Widen<'a> {
    pub(crate) w: &'a PackedLinear,
    pub(crate) tile: usize,
    pub(crate) inputs: Range<usize>,
    pub(crate) out: &'a mut [f32],
}

impl Op for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { w, tile, inputs, out } = self;
        let in_features = w.in_features();
        match w.storage() {
            Storage::F32(data) => {
                let start = (tile * in_features + inputs.start) * LANES;
                let words = &data[start..start + inputs.len() * LANES];
                out.iter_mut().zip(words).for_each(|(out, bits)| *out = f32::from_bits(*bits));
            }
            Storage::Bf16(data) | Storage::F16(data) => {
                debug_assert!(inputs.start.is_multiple_of(2), "weights of two bytes are pairs of inputs");
                let is_half = matches!(w.storage(), Storage::F16(_));
                let start = (tile * in_features.div_ceil(2) + inputs.start / 2) * LANES;
                let words = &data[start..start + inputs.len().div_ceil(2) * LANES];
                // Lengths that the compiler knows.
                let pairs = out.as_chunks_mut::<LANES>().0.as_chunks_mut::<2>().0;
                for (words, [even, odd]) in words.as_chunks::<LANES>().0.iter().zip(pairs) {
                    if is_half {
                        let [wide_even, wide_odd] = s.widen_halves(s.load_words(words));
                        s.store(wide_even, even);
                        s.store(wide_odd, odd);
                        continue;
                    }
                    *even = words.map(|word| f32::from_bits(word << 16));
                    *odd = words.map(|word| f32::from_bits(word & 0xffff_0000));
                }
            }
            Storage::Coded(data, _) => data.widen(tile, inputs, out),
            Storage::Nf4(data) => {
                for (k, out) in inputs.zip(out.as_chunks_mut::<LANES>().0) {
                    data.dequantise(in_features, tile, k, out);
                }
            }
            Storage::Stacked(parts) => {
                let (first, w) = part_of(parts, tile * LANES);
                // Not by calling itself: everything is inlined.
                dispatch(S::ISA, Widen { w, tile: tile - first / LANES, inputs, out });
            }
        }
    }
}

/// Bits of the largest magnitude among pairs in half precision, as f32: it grows with its bits.
struct LargestHalf<'a>(&'a [u32]);

impl Op for LargestHalf<'_> {
    type Output = u32;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> u32 {
        let larger = |largest: u32, pair: &u32| largest.max(pair & 0x7fff).max(pair >> 16 & 0x7fff);
        f16::from_bits(self.0.iter().fold(0, larger) as u16).to_f32().to_bits()
    }
}

impl PackedLinear {
    /// Bits of the largest magnitude: not a number is above all. Found when it is first asked for.
    pub(crate) fn magnitude(&self, pool: &Pool) -> u32 {
        *self.largest.get_or_init(|| {
            let mut largest = vec![0; self.out_features().div_ceil(LANES)];
            for_each_chunk(pool, true, &mut largest, 1, |tile, largest| {
                if let Storage::F16(data) = self.storage() {
                    let words = data.len() / self.out_features().div_ceil(LANES);
                    largest[0] = dispatch(pool.isa(), LargestHalf(&data[tile * words..][..words]));
                    return;
                }
                let mut wide = [0.0; MAGNITUDE_STEP * LANES];
                for from in (0..self.in_features()).step_by(MAGNITUDE_STEP) {
                    let inputs = from..self.in_features().min(from + MAGNITUDE_STEP);
                    let out = &mut wide[..inputs.len().next_multiple_of(2) * LANES];
                    dispatch(pool.isa(), Widen { w: self, tile, inputs: inputs.clone(), out });
                    largest[0] = largest[0].max(halves::magnitude(&wide[..inputs.len() * LANES]));
                }
            });
            largest.into_iter().max().unwrap_or(0)
        })
    }
}
