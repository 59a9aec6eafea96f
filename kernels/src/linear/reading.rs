//! How a stripe of packed weights is read: where it lies, how much at a time, and whether by way of f32. Leaves the
//! products to `linear`.

use super::packed::{PackedLinear, Storage};
use super::quant;
use crate::simd::LANES;
use crate::simd::tile::{MAX_COLUMNS, Words};

/// Bytes of a stripe's weights that stay in the second-level cache while all panels meet them.
pub(super) const STRIPE_BYTES: usize = 192 << 10;
/// Weights that are turned into f32 at once, in the first-level cache.
pub(super) const WIDE: usize = MAX_COLUMNS * quant::BLOCK * LANES;
/// Pairs of inputs whose products are summed in half precision: what [`super::panels`] leaves room for.
pub(super) const HALVES: usize = 64;

/// The way through a stripe.
pub(super) struct Reading {
    /// The first tile's.
    pub(super) weights: *const u32,
    /// Words of an input of a tile, or of a pair of inputs, if they take two bytes.
    pub(super) step: usize,
    /// Inputs (pairs of them) that all panels meet before any of the next.
    pub(super) chunk: usize,
    pub(super) words: Words,
    /// Turned into f32 first, a chunk at a time.
    pub(super) widen: bool,
}

/// Inputs of `columns` tiles that are turned into f32 at once.
pub(super) fn wide_inputs(columns: usize) -> usize {
    WIDE / LANES / columns
}

impl Reading {
    /// The way through `columns` tiles of `depth` inputs (pairs), which `num_panels` panels of activations meet, in half
    /// precision if `are_halves`; codes have another, see `bytes`, and stacks are taken apart before.
    #[inline(always)]
    pub(super) fn new(
        w: &PackedLinear,
        depth: usize,
        columns: usize,
        num_panels: usize,
        are_halves: bool,
    ) -> Option<Self> {
        let whole = |data: &[u32], words| {
            let chunks = (4 * columns * depth * LANES).div_ceil(STRIPE_BYTES);
            Self { weights: data.as_ptr(), step: LANES, chunk: depth.div_ceil(chunks), words, widen: false }
        };
        Some(match w.storage() {
            Storage::F32(data) => whole(data, Words::Single),
            Storage::Bf16(data) => whole(data, Words::Pairs),
            Storage::F16(data) if are_halves => Self { chunk: HALVES, ..whole(data, Words::Halves) },
            // Turned into f32 in registers for a panel that reads them once, in a cache for several.
            Storage::F16(data) if num_panels == 1 => whole(data, Words::WideHalves),
            Storage::F16(data) => {
                Self { chunk: wide_inputs(columns) / 2, widen: true, ..whole(data, Words::Single) }
            }
            Storage::Nf4(data) => {
                let weights = data.codes.as_ptr().cast();
                let (chunk, words) = (wide_inputs(columns), Words::Single);
                Self { weights, step: LANES / 8, chunk, words, widen: true }
            }
            Storage::Coded(..) | Storage::Stacked(_) => return None,
        })
    }
}
