//! What happens to the sums of a product before they become outputs. Leaves summing to `linear`.
#![expect(unsafe_code, reason = "tasks write different columns of the same rows")]

use std::marker::PhantomData;
use std::ops::Range;

use super::panels::Panels;
use super::{Part, Product};
use crate::RowsMut;
use crate::activation::{Curve, with_curve};
use crate::rows::Shared;
use crate::simd::{LANES, Simd, padded, paired};

/// Rows of the output that are asked for in advance when sums are written.
const ROWS_AHEAD: usize = 16;

/// Outputs of a call from which on they are written past the caches, which would not hold them until they are read, and would read
/// their lines first: logits.
pub(super) const PAST: usize = 1 << 20;

/// Where outputs go, which tasks write in parts.
#[derive(Clone, Copy)]
pub(super) enum Outputs<'a> {
    /// Rows.
    Rows { data: Shared<'a, f32>, stride: usize, column: usize },
    /// Panels of tiles of pairs, for another product.
    Panels { panels: &'a Panels, words: Shared<'a, u32> },
}

impl<'a> Outputs<'a> {
    pub(super) fn rows(out: RowsMut<'a>) -> Self {
        Self::Rows { data: Shared::new(out.data), stride: out.stride, column: out.column }
    }
}

impl Product<'_> {
    /// Whether outputs are written past the caches.
    fn goes_past(&self) -> bool {
        matches!(&self.out, Outputs::Rows { data, .. } if data.len() > PAST) && !self.epilogue.accumulate
    }

    /// After the last outputs of a part.
    #[inline(always)]
    pub(super) fn end<S: Simd>(&self, s: S) {
        if self.goes_past() {
            s.end_stores_past();
        }
    }
}

impl Part<'_> {
    /// Writes the sums of column tiles of a panel, rows of which begin `run` apart, to the output; `half` after those of gates are
    /// those of what they gate.
    #[inline(always)]
    pub(super) fn finish<S: Simd>(
        &self,
        s: S,
        tiles: Range<usize>,
        panel: usize,
        sums: (&[f32], usize, usize),
    ) {
        match self.product.gate {
            None => self.finish_as::<S, Plain>(s, tiles, panel, sums),
            Some(activation) => {
                with_curve!(activation, C => self.finish_as::<S, Gated<C>>(s, tiles, panel, sums))
            }
        }
    }

    #[inline(always)]
    fn finish_as<S: Simd, F: Finish>(
        &self,
        s: S,
        tiles: Range<usize>,
        panel: usize,
        (sums, half, run): (&[f32], usize, usize),
    ) {
        let Product { panels, words, w, epilogue, gate, out, .. } = self.product;
        let width = if gate.is_some() { w.out_features() / 2 } else { w.out_features() };
        let outputs = tiles.start * LANES..width.min(tiles.end * LANES);
        let bias = |part: usize| {
            epilogue.bias.map(|bias| bias[part * width + outputs.start..][..outputs.len()].as_chunks())
        };
        let bias = [bias(0), if gate.is_some() { bias(1) } else { None }];
        let scale = |i| epilogue.scale * panels.factor(words, panel, i);
        let (first, rows) = (panels.first_row(panel), panels.num_rows(panel));
        let sums = sums.chunks_exact(run).take(rows).enumerate();
        match *out {
            Outputs::Rows { data, stride, column } => {
                let past = self.product.goes_past();
                let first_row = panels.first_row(self.panels.start);
                let num_rows = panels.first_row(self.panels.end) - first_row;
                for (i, sums) in sums {
                    // Rows lie far from each other, and no machine foresees such steps. After the last row the outputs that the
                    // task writes next are asked for.
                    let next = first + i - first_row + num_rows.min(ROWS_AHEAD);
                    let ahead = if next < num_rows {
                        next * stride
                    } else {
                        (next - num_rows) * stride + outputs.len()
                    };
                    let ahead = first_row * stride + ahead + column + outputs.start;
                    for line in (0..if past { 0 } else { outputs.len() }).step_by(LANES) {
                        s.prefetch_to_write(data.address(ahead + line).cast());
                    }
                    let at = (first + i) * stride + column + outputs.start;
                    // SAFETY: tasks own different columns or rows.
                    let out = unsafe { data.part(at..at + outputs.len()) };
                    let sums = Sums { all: sums, half, bias, scale: scale(i) };
                    let (whole, rest) = out.as_chunks_mut::<LANES>();
                    for (j, out) in whole.iter_mut().enumerate() {
                        let mut result = F::of(s, &sums, j);
                        if epilogue.accumulate {
                            result = s.add(s.load(out), result);
                        }
                        if past {
                            s.store_past(result, out);
                        } else {
                            s.store(result, out);
                        }
                    }
                    if !rest.is_empty() {
                        let mut result = F::of(s, &sums, whole.len());
                        if epilogue.accumulate {
                            result = s.add(s.load(&padded(rest, 0.0)), result);
                        }
                        let mut last = [0.0; LANES];
                        s.store(result, &mut last);
                        rest.copy_from_slice(&last[..rest.len()]);
                    }
                }
            }
            Outputs::Panels { panels, words } => {
                let (start, step) = panels.lines(first);
                for (i, sums) in sums {
                    let sums = Sums { all: sums, half, bias, scale: scale(i) };
                    for (j, tile) in tiles.clone().enumerate() {
                        let at = start + i * LANES + tile / 2 * step + tile % 2 * (LANES / 2);
                        let mut narrow = [0; LANES];
                        s.to_bf16(F::of(s, &sums, j), &mut narrow);
                        // SAFETY: as above.
                        unsafe { words.part(at..at + LANES / 2) }.copy_from_slice(&paired(&narrow));
                    }
                }
            }
        }
    }
}

/// Values sixteen by sixteen, and those that are left.
type Lines<'a> = (&'a [[f32; LANES]], &'a [f32]);

/// Sums of a row.
struct Sums<'a> {
    all: &'a [f32],
    /// Where those begin that are gated.
    half: usize,
    /// Of these outputs, and of those that are gated.
    bias: [Option<Lines<'a>>; 2],
    scale: f32,
}

impl Sums<'_> {
    /// `scale · sums + bias` of the sixteen outputs `tile` of a part.
    #[inline(always)]
    fn outputs<S: Simd>(&self, s: S, part: usize, tile: usize) -> S::V {
        let bias = match self.bias[part] {
            Some((whole, rest)) => match whole.get(tile) {
                Some(bias) => s.load(bias),
                None => s.load(&padded(rest, 0.0)),
            },
            None => s.splat(0.0),
        };
        s.mul_add(s.load(&self.all[part * self.half..].as_chunks().0[tile]), s.splat(self.scale), bias)
    }
}

/// What sums become.
trait Finish {
    fn of<S: Simd>(s: S, sums: &Sums<'_>, tile: usize) -> S::V;
}

struct Plain;

impl Finish for Plain {
    #[inline(always)]
    fn of<S: Simd>(s: S, sums: &Sums<'_>, tile: usize) -> S::V {
        sums.outputs(s, 0, tile)
    }
}

/// `f(gates) · gated`.
struct Gated<C>(PhantomData<C>);

impl<C: Curve> Finish for Gated<C> {
    #[inline(always)]
    fn of<S: Simd>(s: S, sums: &Sums<'_>, tile: usize) -> S::V {
        s.mul(C::of(s, sums.outputs(s, 0, tile)), sums.outputs(s, 1, tile))
    }
}
