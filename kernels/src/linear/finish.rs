//! What happens to the sums of a product before they become outputs. Leaves summing to `linear`.
#![expect(unsafe_code, reason = "tasks write different columns of the same rows")]

use std::ops::Range;

use super::panels::Panels;
use super::{Epilogue, Part, Product};
use crate::RowsMut;
use crate::activation::{Curve, with_curve};
use crate::rows::Shared;
use crate::simd::{LANES, Simd, padded, paired};

/// Rows of the output that are asked for in advance when sums are written.
const ROWS_AHEAD: usize = 16;

/// Where outputs go, which tasks write in parts.
#[derive(Clone, Copy)]
pub(super) enum Outputs<'a> {
    /// Rows.
    Rows { data: Shared<'a, f32>, stride: usize, column: usize },
    /// Panels of tiles of pairs, for another product; of gated outputs alone.
    Panels { panels: &'a Panels, words: Shared<'a, u32> },
}

impl<'a> Outputs<'a> {
    pub(super) fn rows(out: RowsMut<'a>) -> Self {
        Self::Rows { data: Shared::new(out.data), stride: out.stride, column: out.column }
    }
}

impl Part<'_> {
    /// Writes the sums of column tiles, rows of which begin `run` apart, to the output; `half` after those of gates are those of
    /// what they gate.
    #[inline(always)]
    pub(super) fn finish<S: Simd>(
        &self,
        s: S,
        tiles: Range<usize>,
        (sums, half, run): (&[f32], usize, usize),
    ) {
        let Product { panels, words, w, epilogue, gate, out, .. } = self.product;
        let width = if gate.is_some() { w.out_features() / 2 } else { w.out_features() };
        let outputs = tiles.start * LANES..width.min(tiles.end * LANES);
        let bias = |part: usize| {
            epilogue.bias.map(|bias| bias[part * width + outputs.start..][..outputs.len()].as_chunks())
        };
        let first_row = panels.first_row(self.panels.start);
        let num_rows = panels.first_row(self.panels.end) - first_row;
        let of_panel = |panel| (0..panels.num_rows(panel)).map(move |i| (panel, i));
        for ((panel, i), sums) in self.panels.clone().flat_map(of_panel).zip(sums.chunks_exact(run)) {
            let row = panels.first_row(panel) + i;
            let epilogue = Epilogue { scale: epilogue.scale * panels.factor(words, panel, i), ..**epilogue };
            let (gates, gated) = ((sums, bias(0)), || (&sums[half..], bias(1)));
            match (*out, *gate) {
                (Outputs::Rows { data, stride, column }, gate) => {
                    let at = row * stride + column + outputs.start;
                    // Rows lie far from each other, and no machine foresees such steps. After the last row the outputs that the
                    // task writes next are asked for.
                    let next = row - first_row + num_rows.min(ROWS_AHEAD);
                    let ahead = (first_row + next % num_rows) * stride + next / num_rows * half;
                    for line in (0..outputs.len()).step_by(LANES) {
                        s.prefetch_to_write(data.address(ahead + column + outputs.start + line).cast());
                    }
                    // SAFETY: tasks own different columns or rows.
                    let out = unsafe { data.part(at..at + outputs.len()) };
                    match gate {
                        Some(activation) => {
                            with_curve!(activation, C => finish_gated::<S, C>(s, &epilogue, gates, gated(), tiles.len(), out));
                        }
                        None => finish_row(s, &epilogue, gates, out),
                    }
                }
                (Outputs::Panels { panels, words }, Some(activation)) => {
                    let (start, step) = panels.lines(row);
                    let out = PanelRow { words, start, step, first: tiles.start };
                    with_curve!(activation, C => finish_gated::<S, C>(s, &epilogue, gates, gated(), tiles.len(), out));
                }
                // Not made, see there.
                (Outputs::Panels { .. }, None) => {}
            }
        }
    }
}

/// Sums of outputs, and their bias if they have one.
type Sums<'a> = (&'a [f32], Option<(&'a [[f32; LANES]], &'a [f32])>);

/// Takes outputs sixteen at a time.
trait Line {
    fn put<S: Simd>(&mut self, s: S, tile: usize, values: S::V);
}

impl Line for &mut [f32] {
    #[inline(always)]
    fn put<S: Simd>(&mut self, s: S, tile: usize, values: S::V) {
        s.store(values, &mut self.as_chunks_mut().0[tile]);
    }
}

/// A row of panels, see [`Panels::lines`].
struct PanelRow<'a> {
    words: Shared<'a, u32>,
    start: usize,
    step: usize,
    /// The first sixteen of the outputs that are put.
    first: usize,
}

impl Line for PanelRow<'_> {
    #[inline(always)]
    fn put<S: Simd>(&mut self, s: S, tile: usize, values: S::V) {
        let tile = self.first + tile;
        let at = self.start + tile / 2 * self.step + tile % 2 * (LANES / 2);
        let mut narrow = [0; LANES];
        s.to_bf16(values, &mut narrow);
        // SAFETY: tasks own different columns or rows.
        unsafe { self.words.part(at..at + LANES / 2) }.copy_from_slice(&paired(&narrow));
    }
}

/// `out = (accumulate ? out : 0) + scale · sums + bias`.
#[inline(always)]
fn finish_row<S: Simd>(s: S, epilogue: &Epilogue<'_>, sums: Sums<'_>, out: &mut [f32]) {
    let (whole, rest) = out.as_chunks_mut::<LANES>();
    for (j, out) in whole.iter_mut().enumerate() {
        let mut result = value(s, epilogue.scale, sums, j);
        if epilogue.accumulate {
            result = s.add(s.load(out), result);
        }
        s.store(result, out);
    }
    if !rest.is_empty() {
        let mut result = value(s, epilogue.scale, sums, whole.len());
        if epilogue.accumulate {
            result = s.add(s.load(&padded(rest, 0.0)), result);
        }
        let mut last = [0.0; LANES];
        s.store(result, &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// `out = f(scale · sums of gates + bias) · (scale · sums + bias)`, of whole tiles.
#[inline(always)]
fn finish_gated<S: Simd, C: Curve>(
    s: S,
    epilogue: &Epilogue<'_>,
    gates: Sums<'_>,
    gated: Sums<'_>,
    num_tiles: usize,
    mut out: impl Line,
) {
    for j in 0..num_tiles {
        let gate = C::of(s, value(s, epilogue.scale, gates, j));
        out.put(s, j, s.mul(gate, value(s, epilogue.scale, gated, j)));
    }
}

/// Outputs of tile `j` of a row.
#[inline(always)]
fn value<S: Simd>(s: S, scale: f32, (sums, bias): Sums<'_>, j: usize) -> S::V {
    let bias = match bias {
        Some((whole, rest)) => match whole.get(j) {
            Some(bias) => s.load(bias),
            None => s.load(&padded(rest, 0.0)),
        },
        None => s.splat(0.0),
    };
    s.mul_add(s.load(&sums.as_chunks().0[j]), s.splat(scale), bias)
}
