//! Weights as integer codes, blocks of which share a scale: where codes and scales lie, and what they stand for. Leaves
//! choosing codes to `quant` and `ggml`, and products to `bytes`.

use std::ops::Range;

use half::f16;

use super::rounding::EXTRA;
use crate::buffer::Buffer;
use crate::ggml::{Block, SUPER};
use crate::simd::{LANES, Simd};
use crate::transpose::transpose;

/// Most inputs of a block.
pub(super) const MAX_BLOCK: usize = 128;
/// The lower four bits of each byte.
pub(super) const NIBBLES: u32 = 0x0f0f_0f0f;
/// The lowest bit of each byte.
const ONES: u32 = 0x0101_0101;

/// Words that four activations of a row take beside codes whose products could be summed in sixteen bits or not: a byte each,
/// or two.
#[inline(always)]
pub(super) fn quad_words<S: Simd>(is_short: bool) -> usize {
    if S::HAS_BYTES || is_short { 1 } else { 2 }
}

/// The lowest bits of each byte, as many as a code has above the lower four.
#[inline(always)]
pub(super) fn upper_bits(count: usize) -> u32 {
    ONES * ((1 << count) - 1)
}

/// What codes stand for: `scale · (code − offset) − minimum`, where scale and minimum belong to blocks of inputs, and are
/// numbers in half precision, or such numbers times small integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// Bits of a code: 4 to 6, or 8.
    pub(crate) bits: usize,
    /// Inputs of a block: 16 (of six bits), 32, 64 or 128.
    pub(crate) block: usize,
    /// The code of zero, where there is no minimum.
    pub(crate) offset: u8,
    /// Blocks that share a factor, a power of two; an integer of each is multiplied by it. Of one, the factor is the scale.
    pub(crate) blocks_per_factor: usize,
    /// Blocks have a minimum.
    pub(crate) has_minimum: bool,
}

impl Form {
    /// Codes of eight bits for so many inputs, made here: see [`super::quant`]. Blocks are of 128, or of 64 where the last would
    /// lack half.
    pub(crate) fn int8(in_features: usize) -> Self {
        let is_even = in_features.div_ceil(MAX_BLOCK / 2).is_multiple_of(2);
        let block = if is_even { MAX_BLOCK } else { MAX_BLOCK / 2 };
        Self { bits: 8, block, offset: 128, blocks_per_factor: 1, has_minimum: false }
    }

    /// Words of the codes of a block of sixteen outputs.
    pub(super) fn words(self) -> usize {
        self.block * self.bits * LANES / 32
    }

    /// Inputs four of which make a word of bytes.
    pub(super) fn quads(self) -> usize {
        self.block / 4
    }

    /// Quads of a block that one tile holds.
    pub(super) fn tile_depth(self) -> usize {
        self.quads().min(LANES)
    }

    /// Quads of these codes whose products with activations in eight bits sixteen bits hold the sum of; of 8 bits none.
    pub(super) fn short_quads(self) -> usize {
        let largest = 2 * 127 * ((1 << self.bits) - 1);
        match i16::MAX as usize / largest {
            0 => 0,
            count => self.quads().min(1 << count.ilog2()),
        }
    }

    /// See [`quad_words`].
    #[inline(always)]
    pub(super) fn quad_words<S: Simd>(self) -> usize {
        quad_words::<S>(self.short_quads() > 0)
    }

    /// Words of a row of activations that a block meets: see [`super::rounding`].
    #[inline(always)]
    pub(super) fn row_words<S: Simd>(self) -> usize {
        self.quads() * self.quad_words::<S>() + EXTRA
    }

    /// Scales and, if there are any, minima.
    pub(super) fn levels(self) -> usize {
        1 + usize::from(self.has_minimum)
    }

    /// Bytes of the factors of sixteen outputs.
    fn factor_bytes(self, blocks: usize) -> usize {
        blocks.div_ceil(self.blocks_per_factor) * self.levels() * LANES * size_of::<u16>()
    }

    /// Bytes of all that makes the scales of sixteen outputs.
    fn scale_bytes(self, blocks: usize) -> usize {
        let parts = if self.blocks_per_factor == 1 { 0 } else { blocks * self.levels() * LANES };
        self.factor_bytes(blocks) + parts
    }

    /// Four codes of an output, inputs `4 quad..` of the block with these words, as bytes.
    #[inline(always)]
    fn quad(self, words: &[u32], quad: usize, lane: usize) -> u32 {
        if self.bits == 8 {
            return words[quad * LANES + lane];
        }
        let low = words[quad / 2 * LANES + lane] >> (4 * (quad % 2)) & NIBBLES;
        match self.bits - 4 {
            0 => low,
            high => {
                let word = words[(self.block / 8 + quad * high / 8) * LANES + lane];
                low | ((word >> (quad * high % 8)) & upper_bits(high)) << 4
            }
        }
    }

    /// Puts a block of sixteen outputs in its place: bytes, `[quads][16]` words.
    #[inline(always)]
    fn pack(self, bytes: &[u32], words: &mut [u32]) {
        let (bytes, words) = (bytes.as_chunks::<LANES>().0, words.as_chunks_mut::<LANES>().0);
        if self.bits == 8 {
            words.copy_from_slice(&bytes[..words.len()]);
            return;
        }
        let (low, high) = words.split_at_mut(self.block / 8);
        let bits = self.bits - 4;
        high.fill([0; LANES]);
        for (pair, (words, [even, odd])) in low.iter_mut().zip(bytes.as_chunks::<2>().0).enumerate() {
            *words = std::array::from_fn(|lane| even[lane] & NIBBLES | (odd[lane] & NIBBLES) << 4);
            if bits == 0 {
                continue;
            }
            let mask = upper_bits(bits);
            for (quad, codes) in [even, odd].into_iter().enumerate() {
                let at = (2 * pair + quad) * bits;
                let words = &mut high[at / 8];
                *words = std::array::from_fn(|lane| words[lane] | (codes[lane] >> 4 & mask) << (at % 8));
            }
        }
    }

    /// The codes of a block of sixteen outputs as bytes, `[quads][16]` words.
    #[inline(always)]
    pub(super) fn unpack(self, words: &[u32], out: &mut [u32]) {
        let (words, out) = (words.as_chunks::<LANES>().0, out.as_chunks_mut::<LANES>().0);
        if self.bits == 8 {
            out[..words.len()].copy_from_slice(words);
            return;
        }
        let (low, high) = words.split_at(self.block / 8);
        let (pairs, bits) = (out.as_chunks_mut::<2>().0, self.bits - 4);
        for (pair, (words, [even, odd])) in low.iter().zip(pairs).enumerate() {
            *even = words.map(|word| word & NIBBLES);
            *odd = words.map(|word| word >> 4 & NIBBLES);
            if bits == 0 {
                continue;
            }
            let mask = upper_bits(bits);
            for (quad, out) in [even, odd].into_iter().enumerate() {
                let at = (2 * pair + quad) * bits;
                let high = high[at / 8].map(|word| ((word >> (at % 8)) & mask) << 4);
                *out = std::array::from_fn(|lane| out[lane] | high[lane]);
            }
        }
    }

    /// As [`Form::unpack`], of several blocks.
    #[inline(always)]
    pub(super) fn unpack_blocks(self, words: &[u32], out: &mut [u32]) {
        let blocks = words.chunks_exact(self.words()).zip(out.chunks_exact_mut(self.quads() * LANES));
        for (words, out) in blocks {
            self.unpack(words, out);
        }
    }
}

/// The codes of a matrix, in tiles of sixteen outputs.
#[derive(Clone, Debug)]
pub(crate) struct Coded {
    pub(super) form: Form,
    /// Blocks of an output.
    pub(super) blocks: usize,
    /// `[tile][block]`: words of four inputs each, `[quads][16]`, of 8 bits; of fewer, words that hold the lower four bits
    /// of two such words each, and then the upper bits of all.
    pub(super) codes: Buffer<u32>,
    /// For each tile factors in half precision, `[blocks / blocks_per_factor][levels][16]`, then, if several blocks share
    /// one, a byte for each block, `[block][levels][16]`.
    scales: Buffer<u8>,
}

/// A tile that is being filled.
pub(super) struct TileMut<'a> {
    form: Form,
    blocks: usize,
    codes: &'a mut [u32],
    scales: &'a mut [u8],
}

impl Coded {
    /// All zeros, which stand for nothing yet.
    pub(super) fn zeroed(form: Form, num_tiles: usize, in_features: usize) -> Self {
        let blocks = in_features.div_ceil(form.block);
        let codes = Buffer::streamed(num_tiles * blocks * form.words());
        let scales = Buffer::zeroed(num_tiles * form.scale_bytes(blocks));
        Self { form, blocks, codes, scales }
    }

    /// Memory of codes and scales.
    pub(super) fn num_bytes(&self) -> usize {
        size_of_val(&*self.codes) + size_of_val(&*self.scales)
    }

    /// Codes and scales, to be filled.
    pub(super) fn parts_mut(&mut self) -> (&mut [u32], &mut [u8]) {
        (&mut self.codes, &mut self.scales)
    }

    /// Codes and scales that a tile has.
    pub(super) fn per_tile(&self) -> (usize, usize) {
        (self.blocks * self.form.words(), self.form.scale_bytes(self.blocks))
    }

    /// The words of a block.
    #[inline(always)]
    fn words(&self, tile: usize, block: usize) -> &[u32] {
        let words = self.form.words();
        &self.codes[(tile * self.blocks + block) * words..][..words]
    }

    /// What makes the scales of a tile: factors, and the bytes they are multiplied by.
    #[inline(always)]
    pub(super) fn tile_scales(&self, tile: usize) -> (&[u16], &[i8]) {
        let bytes = self.form.scale_bytes(self.blocks);
        let (factors, parts) =
            self.scales[tile * bytes..][..bytes].split_at(self.form.factor_bytes(self.blocks));
        (bytemuck::cast_slice(factors), bytemuck::cast_slice(parts))
    }

    /// The scale and the minimum of an output of a block.
    #[inline(always)]
    fn scale(&self, (factors, parts): (&[u16], &[i8]), block: usize, lane: usize) -> (f32, f32) {
        let levels = self.form.levels();
        let level = |level| {
            let at = (block / self.form.blocks_per_factor * levels + level) * LANES + lane;
            let factor = f16::from_bits(factors[at]).to_f32();
            match parts.get((block * levels + level) * LANES + lane) {
                Some(part) => factor * f32::from(*part),
                None => factor,
            }
        };
        (level(0), if levels > 1 { level(1) } else { 0.0 })
    }

    /// Inputs `inputs` of the sixteen outputs of a tile, `[inputs][16]`.
    #[inline(always)]
    pub(super) fn widen(&self, tile: usize, inputs: Range<usize>, out: &mut [f32]) {
        let (scales, offset) = (self.tile_scales(tile), i32::from(self.form.offset));
        let mut out = out.as_chunks_mut::<LANES>().0.iter_mut();
        let mut k = inputs.start;
        while k < inputs.end {
            let block = k / self.form.block;
            let mut bytes = [0; MAX_BLOCK / 4 * LANES];
            self.form.unpack(self.words(tile, block), &mut bytes);
            let of: [_; LANES] = std::array::from_fn(|lane| self.scale(scales, block, lane));
            let (scale, minimum) = (of.map(|(scale, _)| scale), of.map(|(_, minimum)| minimum));
            let end = inputs.end.min((block + 1) * self.form.block);
            for (k, out) in (k..end).zip(&mut out) {
                let words = &bytes[k % self.form.block / 4 * LANES..][..LANES];
                for lane in 0..LANES {
                    let code = (words[lane] >> (8 * (k % 4)) & 255).cast_signed();
                    out[lane] = scale[lane] * (code - offset) as f32 - minimum[lane];
                }
            }
            k = end;
        }
    }

    /// The values of an output.
    pub(super) fn row(&self, index: usize, out: &mut [f32]) {
        let (tile, lane) = (index / LANES, index % LANES);
        let scales = self.tile_scales(tile);
        for (block, out) in out.chunks_mut(self.form.block).enumerate() {
            let (words, (scale, minimum)) = (self.words(tile, block), self.scale(scales, block, lane));
            for (quad, out) in out.chunks_mut(4).enumerate() {
                let codes = self.form.quad(words, quad, lane).to_le_bytes();
                for (out, code) in out.iter_mut().zip(codes) {
                    *out = scale * (i32::from(code) - i32::from(self.form.offset)) as f32 - minimum;
                }
            }
        }
    }
}

impl<'a> TileMut<'a> {
    /// The tile with these codes and scales.
    pub(super) fn new(form: Form, in_features: usize, codes: &'a mut [u32], scales: &'a mut [u8]) -> Self {
        Self { form, blocks: in_features.div_ceil(form.block), codes, scales }
    }

    /// What the codes stand for.
    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// Sets the codes of a block of `count` outputs: of the bytes of each those from `first` on.
    #[inline(always)]
    pub(super) fn set_codes(
        &mut self,
        block: usize,
        count: usize,
        codes: &[[u32; SUPER / 4]; LANES],
        first: usize,
    ) {
        let words = &mut self.codes[block * self.form.words()..][..self.form.words()];
        let mut bytes = [0; MAX_BLOCK / 4 * LANES];
        let rows: &[f32] = bytemuck::cast_slice(codes);
        let bytes_of = bytemuck::cast_slice_mut(&mut bytes);
        transpose(&rows[first / 4..], SUPER / 4, (count, self.form.quads()), bytes_of, LANES);
        self.form.pack(&bytes, words);
    }

    /// Sets the scales that a block of a file has for an output, from block `first` on.
    #[inline(always)]
    pub(super) fn set_scales(&mut self, first: usize, lane: usize, block: &Block) {
        for level in 0..self.form.levels() {
            self.set_factor(level, first, lane, block.factors[level]);
            if self.form.blocks_per_factor > 1 {
                for (group, &part) in block.parts[level][..self.form.blocks_per_factor].iter().enumerate() {
                    self.set_part(level, first + group, lane, part);
                }
            }
        }
    }

    /// Sets the factor of an output's block and of those it shares it with; level 0 is that of scales, 1 of minima.
    #[inline(always)]
    pub(super) fn set_factor(&mut self, level: usize, block: usize, lane: usize, factor: u16) {
        let at = (block / self.form.blocks_per_factor * self.form.levels() + level) * LANES + lane;
        self.scales[2 * at..2 * at + 2].copy_from_slice(&factor.to_ne_bytes());
    }

    /// Sets what the factor is multiplied by for an output's block.
    #[inline(always)]
    fn set_part(&mut self, level: usize, block: usize, lane: usize, part: i8) {
        let at = (block * self.form.levels() + level) * LANES + lane;
        self.scales[self.form.factor_bytes(self.blocks) + at] = part.cast_unsigned();
    }
}
