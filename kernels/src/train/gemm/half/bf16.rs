//! Panels of packed bf16 weights as fp16, straight from their pairs of inputs: batches that run in parts read every weight
//! many times a step. Leaves other weights, and what is not a whole panel, to the way through f32.

use std::ops::Range;

use super::super::factor::PackedFactor;
use super::super::micro::TileShape;
use super::{Half, kernel};
use crate::linear::Storage;
use crate::simd::LANES;

/// Inputs of sixteen words, each a pair: what is turned at once.
pub(super) const TURNED: usize = 2 * LANES;

/// Writes `scale` times rows `rows` of a whole panel of `b`, from column `first` on, `[rows][NR]`. False, and nothing
/// written, if the weights are not bf16 or the panel does not start on their tiles.
pub(super) fn pack(
    b: PackedFactor<'_>,
    scale: f32,
    rows: &Range<usize>,
    first: usize,
    out: &mut [u16],
) -> bool {
    let Storage::Bf16(words) = b.weights.storage() else { return false };
    let pairs = b.weights.in_features().div_ceil(2);
    let tiles = words.as_chunks::<LANES>().0;
    // The pairs `from..to` of the sixteen outputs of a tile.
    let of = |output: usize, from: usize, to: usize| &tiles[output / LANES * pairs..][from..to];
    if b.is_transposed {
        let first = b.first + first;
        if !first.is_multiple_of(LANES) || !rows.start.is_multiple_of(2) {
            return false;
        }
        for column in (0..Half::NR).step_by(LANES) {
            let words = of(first + column, rows.start / 2, rows.end.div_ceil(2));
            // SAFETY: half precision is asked for only where `is_supported`.
            unsafe { kernel::narrow_pairs(words, scale, rows.len(), &mut out[column..]) };
        }
    } else {
        let outputs = b.first + rows.start..b.first + rows.end;
        if !outputs.start.is_multiple_of(LANES) || !first.is_multiple_of(2) {
            return false;
        }
        for (output, out) in outputs.clone().step_by(LANES).zip(out.chunks_mut(LANES * Half::NR)) {
            let height = LANES.min(outputs.end - output);
            for input in (0..Half::NR).step_by(TURNED) {
                let pair = (first + input) / 2;
                let words = of(output, pair, pair + LANES);
                // SAFETY: half precision is asked for only where `is_supported`.
                unsafe { kernel::turn_pairs(words, scale, height, &mut out[input..]) };
            }
        }
    }
    true
}
