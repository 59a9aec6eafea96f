//! Parts of a sum of products whose right factor is packed at once, and what they add to a block of the result. Leaves
//! which parts there are to the sum.

use std::cell::RefCell;
use std::ops::Range;

use super::factor::{Factor, PackedFactor, Precision, Term};
use super::half::{self, Half};
use super::micro::{Micro, TileShape};
use super::pack::{pack_a, pack_b};
use super::{KC, PACKED_A};
use crate::Pool;
use crate::train::Shared;

/// Some rows of a term's right factor, packed for some panels of the result's columns.
pub(super) struct Piece<'a> {
    pub(super) term: &'a Term<'a>,
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
    /// Where its panels start, in f32 numbers.
    pub(super) at: usize,
    /// Writes the result instead of adding to it.
    pub(super) is_first: bool,
    /// What the right factor is multiplied by to be fp16; `None` keeps it f32.
    pub(super) half_scale: Option<f32>,
}

/// What the right factor of `term` is multiplied by if its products are to be, and can be, of half precision.
pub(super) fn half_scale(pool: &Pool, term: &Term<'_>) -> Option<f32> {
    match term.b {
        Factor::Packed(PackedFactor { weights, precision: Precision::Half, .. })
            if half::is_supported()
                && term.a.column_stride == 1
                && term.columns.start.is_multiple_of(Half::NR) =>
        {
            Some(half::right_scale(weights.magnitude(pool)))
        }
        _ => None,
    }
}

impl Piece<'_> {
    /// Columns of a panel.
    pub(super) fn panel_width<K: Micro>(half_scale: Option<f32>) -> usize {
        if half_scale.is_some() { Half::NR } else { K::NR }
    }

    /// f32 numbers that a panel takes.
    pub(super) fn panel_len<K: Micro>(&self) -> usize {
        let width = Self::panel_width::<K>(self.half_scale);
        if self.half_scale.is_some() { width / 2 * self.rows.len() } else { width * self.rows.len() }
    }

    pub(super) fn len<K: Micro>(&self) -> usize {
        self.panels.len() * self.panel_len::<K>()
    }

    /// Packs a panel.
    pub(super) fn pack<K: Micro>(&self, panel: usize, out: &mut [f32]) {
        let (columns, width) = (&self.term.columns, Self::panel_width::<K>(self.half_scale));
        let (from, to) = (columns.start.max(panel * width), columns.end.min((panel + 1) * width));
        let (lead, columns) = (from - panel * width, (from - columns.start, to - from));
        match self.half_scale {
            Some(scale) => {
                half::pack_b(self.term.b, scale, self.rows.clone(), columns, half::as_words_mut(out));
            }
            None => pack_b::<K>(self.term.b, self.rows.clone(), columns, lead, out),
        }
    }

    /// Adds it to a block of the result with rows `stride` apart: rows `block.0`, columns `block.1` (the latter starting
    /// on a panel).
    ///
    /// # Safety
    /// The result holds the block, which nobody else uses.
    pub(super) unsafe fn add<K: Micro>(
        &self,
        packed: &[f32],
        block: (Range<usize>, Range<usize>),
        (c, stride): (&Shared<'_, f32>, usize),
    ) {
        let width = Self::panel_width::<K>(self.half_scale);
        let (rows, columns) = &block;
        let panels =
            self.panels.start.max(columns.start / width)..self.panels.end.min(columns.end.div_ceil(width));
        if panels.is_empty() {
            return;
        }
        let panel_len = self.panel_len::<K>();
        let panel_of = |panel: usize| &packed[(panel - self.panels.start) * panel_len..][..panel_len];
        let most = if self.half_scale.is_some() { half::KC } else { KC };
        for from in self.rows.clone().step_by(most) {
            let depth = most.min(self.rows.end - from);
            let accumulate = !self.is_first || from > 0;
            let steps = from - self.rows.start..from - self.rows.start + depth;
            let place = |panel: usize, row: usize, height: usize| Place {
                shape: (height.min(rows.end - row), width.min(columns.end - panel * width)),
                // SAFETY: the block is inside of the result, by the caller's promise.
                start: unsafe { c.start.add(row * stride + panel * width) },
                stride,
                accumulate,
            };
            if let Some(scale) = self.half_scale {
                let factor = self.term.alpha / scale;
                half::with_rows(self.term.a, rows.clone(), from..from + depth, factor, |packed_a| {
                    for panel in panels.clone() {
                        let b = &half::as_words(panel_of(panel))[steps.start * width..steps.end * width];
                        for (index, a) in packed_a.panels().enumerate() {
                            let place = place(panel, rows.start + index * Half::MR, Half::MR);
                            // SAFETY: the caller's promise, and `half_scale` found the instructions.
                            unsafe {
                                place.put::<Half>(|c, stride, add| a.tile(depth, b, c, stride, add));
                            }
                        }
                    }
                });
                continue;
            }
            let mut packed_a = PACKED_A.take();
            pack_a::<K>(self.term.a, (rows.start, rows.end), (from, from + depth), &mut packed_a);
            for panel in panels.clone() {
                let b = &panel_of(panel)[steps.start * width..steps.end * width];
                for (index, a) in packed_a.chunks_exact(K::MR * depth).enumerate() {
                    let place = place(panel, rows.start + index * K::MR, K::MR);
                    let tile = Tile { depth, a, b, alpha: self.term.alpha };
                    // SAFETY: the caller's promise.
                    unsafe { tile.run::<K>(place) };
                }
            }
            PACKED_A.set(packed_a);
        }
    }
}

/// Where a tile of the result goes.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Rows and columns of the tile that exist.
    pub(super) shape: (usize, usize),
    pub(super) start: *mut f32,
    pub(super) stride: usize,
    /// Add instead of writing.
    pub(super) accumulate: bool,
}

thread_local! {
    static EDGE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Place {
    /// Lets `compute(out, stride, accumulate)` write a whole tile, here or, at an edge of the result, aside.
    ///
    /// # Safety
    /// The shape lies at `start`, and nobody else uses it.
    #[inline(always)]
    pub(super) unsafe fn put<K: TileShape>(self, compute: impl FnOnce(*mut f32, usize, bool)) {
        let Self { shape: (height, width), start, stride, accumulate } = self;
        if height == K::MR && width == K::NR {
            compute(start, stride, accumulate);
            return;
        }
        let mut edge = EDGE.take();
        edge.resize(K::MR * K::NR, 0.0);
        compute(edge.as_mut_ptr(), K::NR, false);
        for (i, values) in edge.chunks_exact(K::NR).take(height).enumerate() {
            // SAFETY: the caller's promise.
            let out = unsafe { std::slice::from_raw_parts_mut(start.add(i * stride), width) };
            for (out, value) in out.iter_mut().zip(values) {
                *out = if accumulate { *out + value } else { *value };
            }
        }
        EDGE.set(edge);
    }
}

/// One call of a micro-kernel: packed panels and what is done with their product.
pub(super) struct Tile<'a> {
    pub(super) depth: usize,
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) alpha: f32,
}

impl Tile<'_> {
    /// Computes the tile.
    ///
    /// # Safety
    /// As of [`Place::put`].
    #[inline(always)]
    pub(super) unsafe fn run<K: Micro>(&self, place: Place) {
        let &Self { depth, a, b, alpha } = self;
        assert!(a.len() >= depth * K::MR && b.len() >= depth * K::NR, "panels are too short");
        // SAFETY: panels hold `depth` steps by the assertion, `put` gives room for a tile, and `level` found the
        // instructions.
        unsafe {
            place.put::<K>(|c, stride, accumulate| {
                K::tile(depth, a.as_ptr(), b.as_ptr(), c, stride, alpha, accumulate);
            });
        }
    }
}
