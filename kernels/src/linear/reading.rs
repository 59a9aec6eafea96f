//! How a stripe of packed weights is read: where it lies, how much at a time, and whether by way of f32. Leaves the
//! products to `linear`.

use super::packed::{PackedLinear, Storage};
use super::quant;
use crate::simd::LANES;
use crate::simd::tile::{MAX_COLUMNS, Operand};

/// Bytes of a stripe's weights that stay in the second-level cache while all panels meet them.
const STRIPE_BYTES: usize = 192 << 10;
/// Inputs whose weights of few bits are turned into f32 at once, in the first-level cache; those of eight bits share a scale.
pub(super) const CHUNK: usize = quant::BLOCK;
/// Words at which blocks of a scale start in a tile of eight bits; as many as are multiplied at once.
pub(super) const BLOCKS: [usize; 16] = {
    let mut starts = [0; 16];
    let mut block = 0;
    while block < starts.len() {
        starts[block] = block * CHUNK * LANES / 4;
        block += 1;
    }
    starts
};
/// Panels from which on weights of eight bits are turned into f32 once for all of them.
const WIDEN_PANELS: usize = 4;

/// The way through a stripe.
pub(super) struct Reading {
    /// The first tile's.
    pub(super) weights: *const u32,
    /// Words of an input of a tile, or of a pair of inputs, if they are bf16.
    pub(super) step: usize,
    /// Inputs (pairs of them) that all panels meet before any of the next.
    pub(super) chunk: usize,
    /// Inputs of a block of the right operand: those that share a scale, or all of a chunk.
    pub(super) block: usize,
    /// Turned into f32 first, a chunk at a time.
    pub(super) widen: bool,
}

impl Reading {
    /// The way through `columns` tiles of `depth` inputs (pairs) for `num_panels` panels of rows.
    #[inline(always)]
    pub(super) fn new(w: &PackedLinear, depth: usize, columns: usize, num_panels: usize) -> Self {
        match w.storage() {
            Storage::F32(data) | Storage::Bf16(data) => {
                let chunks = (4 * columns * depth * LANES).div_ceil(STRIPE_BYTES);
                let chunk = depth.div_ceil(chunks);
                Self { weights: data.as_ptr(), step: LANES, chunk, block: chunk, widen: false }
            }
            Storage::Int8(data) => {
                let widen = num_panels >= WIDEN_PANELS;
                let chunk = if widen { CHUNK } else { BLOCKS.len() * CHUNK };
                Self { weights: data.codes.as_ptr().cast(), step: LANES / 4, chunk, block: CHUNK, widen }
            }
            Storage::Nf4(data) => {
                let weights = data.codes.as_ptr().cast();
                Self { weights, step: LANES / 8, chunk: CHUNK, block: CHUNK, widen: true }
            }
        }
    }
}

/// What the tiles from `first` on are to the product from input (pair) `k` on, if they are not widened.
#[inline(always)]
pub(super) fn operand(w: &PackedLinear, first: usize, columns: usize, k: usize) -> Operand {
    match w.storage() {
        Storage::F32(_) | Storage::Nf4(_) => Operand::Single,
        Storage::Bf16(_) => Operand::Pairs,
        Storage::Int8(data) => {
            let blocks = w.in_features().div_ceil(quant::BLOCK);
            let mut scales = [data.scales.as_ptr(); MAX_COLUMNS];
            for (j, scales) in scales.iter_mut().enumerate().take(columns) {
                *scales = scales.wrapping_add(((first + j) * blocks + k / quant::BLOCK) * LANES);
            }
            Operand::Codes { scales }
        }
    }
}
