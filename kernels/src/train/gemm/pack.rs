//! Factors rewritten in the order a micro-kernel reads them. Leaves arithmetic to `micro`.

use std::ops::Range;

use super::factor::{Factor, PackedFactor, View};
use super::micro::TileShape;
use crate::Isa;
use crate::linear::Widen;
use crate::simd::{LANES, dispatch};
use crate::transpose::transpose;

/// Length of `b` packed.
pub(super) fn packed_len<K: TileShape>(n: usize, k: usize) -> usize {
    n.div_ceil(K::NR) * K::NR * k
}

/// Writes rows `rows` of the columns `first..first + width` of `b`, from column `lead` of a panel on: `[rows][NR]`, other
/// columns zero.
pub(super) fn pack_b<K: TileShape>(
    b: Factor<'_>,
    rows: Range<usize>,
    (first, width): (usize, usize),
    lead: usize,
    out: &mut [f32],
) {
    if lead > 0 || width < K::NR {
        out.fill(0.0);
    }
    match b {
        Factor::Dense(b) if b.column_stride == 1 => {
            for (row, out) in rows.zip(out.chunks_exact_mut(K::NR)) {
                let from = &b.data[row * b.row_stride + first..];
                if width == K::NR {
                    // A length the compiler knows.
                    out[..K::NR].copy_from_slice(&from[..K::NR]);
                } else {
                    out[lead..lead + width].copy_from_slice(&from[..width]);
                }
            }
        }
        Factor::Dense(b) => {
            let from = &b.data[first * b.column_stride + rows.start..];
            transpose(from, b.column_stride, (width, rows.len()), &mut out[lead..], K::NR);
        }
        Factor::Packed(b) if b.is_transposed => {
            pack_outputs(b, rows, (first, width), (&mut out[lead..], K::NR))
        }
        Factor::Packed(b) => pack_inputs(b, rows, (first, width), (&mut out[lead..], K::NR)),
    }
}

/// Inputs widened at a time: what they take stays in the first-level cache.
const WIDENED: usize = 64;

/// Inputs `inputs` of the outputs `first..first + width`, `[inputs][stride]`: a part of `Wᵀ`.
fn pack_outputs(
    b: PackedFactor<'_>,
    inputs: Range<usize>,
    (first, width): (usize, usize),
    (out, stride): (&mut [f32], usize),
) {
    let mut wide = [0.0f32; WIDENED * LANES];
    let mut column = 0;
    while column < width {
        let output = b.first + first + column;
        let (tile, lane) = (output / LANES, output % LANES);
        let lanes = (LANES - lane).min(width - column);
        for from in inputs.clone().step_by(WIDENED) {
            let to = inputs.end.min(from + WIDENED);
            // Pairs of bf16 start at an even input.
            let skip = from % 2;
            widen(b, tile, from - skip..to, &mut wide);
            let steps = wide.chunks_exact(LANES).skip(skip).take(to - from);
            for (k, wide) in steps.enumerate() {
                let at = (from - inputs.start + k) * stride + column;
                copy_padded(&wide[lane..lane + lanes], &mut out[at..at + lanes], LANES);
            }
        }
        column += lanes;
    }
}

/// Inputs `first..first + width` of the outputs `outputs`, `[outputs][stride]`: a part of `W`.
fn pack_inputs(
    b: PackedFactor<'_>,
    outputs: Range<usize>,
    (first, width): (usize, usize),
    (out, stride): (&mut [f32], usize),
) {
    let mut wide = [0.0f32; WIDENED * LANES];
    let mut row = outputs.start;
    while row < outputs.end {
        let (tile, lane) = ((b.first + row) / LANES, (b.first + row) % LANES);
        let lanes = (LANES - lane).min(outputs.end - row);
        for from in (0..width).step_by(WIDENED / 2) {
            let to = width.min(from + WIDENED / 2);
            let skip = (first + from) % 2;
            widen(b, tile, first + from - skip..first + to, &mut wide);
            let wide = &wide[skip * LANES + lane..];
            transpose(
                wide,
                LANES,
                (to - from, lanes),
                &mut out[(row - outputs.start) * stride + from..],
                stride,
            );
        }
        row += lanes;
    }
}

fn widen(b: PackedFactor<'_>, tile: usize, inputs: Range<usize>, wide: &mut [f32]) {
    let out = &mut wide[..inputs.len().next_multiple_of(2) * LANES];
    dispatch(Isa::detect(), Widen { w: b.weights, tile, inputs, out });
}

/// Copies a row of a panel of `width`, zeros after it. Whole rows, nearly all, have a length the compiler knows.
#[inline(always)]
fn copy_padded(from: &[f32], out: &mut [f32], width: usize) {
    if from.len() == width {
        out[..width].copy_from_slice(&from[..width]);
    } else {
        out[..from.len()].copy_from_slice(from);
        out[from.len()..].fill(0.0);
    }
}

/// Writes rows `rows` and columns `columns` of `a` as panels `[k][MR]`, rows past the end zero.
pub(super) fn pack_a<K: TileShape>(
    a: View<'_>,
    rows: (usize, usize),
    columns: (usize, usize),
    out: &mut Vec<f32>,
) {
    let depth = columns.1 - columns.0;
    let panels = (rows.1 - rows.0).div_ceil(K::MR);
    out.resize(panels * K::MR * depth, 0.0);
    for (panel, out) in out.chunks_exact_mut(K::MR * depth).enumerate() {
        let first = rows.0 + panel * K::MR;
        let height = K::MR.min(rows.1 - first);
        if height < K::MR {
            out.fill(0.0);
        }
        if a.row_stride == 1 {
            for (k, out) in out.chunks_exact_mut(K::MR).enumerate() {
                let from = (columns.0 + k) * a.column_stride + first;
                copy_padded(&a.data[from..from + height], out, K::MR);
            }
        } else {
            let from = &a.data[first * a.row_stride + columns.0..];
            transpose(from, a.row_stride, (height, depth), out, K::MR);
        }
    }
}
