//! Sums of f32 products `C (+)= Σ α A B` for any strides, so that a layer's forward product, both of its gradients, and
//! its adapters are one function. Blocked and packed as in Goto and van de Geijn 2008 ("Anatomy of high-performance
//! matrix multiplication"); frozen weights are read from their packed form. Leaves the layouts to `factor` and `pack`,
//! the innermost loop to `micro`.

use std::cell::RefCell;
use std::ops::Range;

mod factor;
mod half;
mod micro;
mod pack;
mod piece;
mod serial;

pub use factor::{Factor, PackedFactor, Precision, Term, View};
#[cfg(target_arch = "x86_64")]
use micro::x86;
use micro::{Micro, Portable};
use piece::{Piece, half_scale};
pub(super) use serial::{PackedRight, SerialProduct, gemm_serial};

use super::{Shared, for_chunks};
use crate::Pool;

/// Columns of A and rows of B taken together: one packed B panel stays in the first-level cache.
const KC: usize = 256;
/// Rows of one task.
const MC: usize = 96;
/// Columns of one task, if there are few rows.
const NC: usize = 512;
/// Rows of B packed at once; a multiple of [`KC`].
const PACKED_ROWS: usize = 2048;
/// Numbers of B packed at once, about: 8 MiB, in the last cache of any machine.
const PACKED: usize = 2 << 20;
/// Blocks of rows come in multiples of this, if there are enough rows.
const ROW_BLOCKS: usize = 4;
/// Tasks for each thread from which on rows alone are cut: then A is packed once for all columns.
const TASKS_PER_THREAD: usize = 4;

/// `alpha · a · b` with `a: [m, k]` and `b: [k, n]`.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Length of each sum.
    pub k: usize,
    /// Left factor.
    pub a: View<'a>,
    /// Right factor.
    pub b: Factor<'a>,
    /// Scale.
    pub alpha: f32,
    /// Add to the result instead of writing it.
    pub accumulate: bool,
}

thread_local! {
    static PACKED_A: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static PACKED_B: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Computes `product` into `c`, row-major with rows `stride` apart.
///
/// # Panics
/// If a matrix does not lie inside its slice.
pub fn gemm(pool: &Pool, product: &Product<'_>, c: &mut [f32], stride: usize) {
    let &Product { m, n, k, a, b, alpha, accumulate } = product;
    gemm_sum(pool, (m, n), &[Term { columns: 0..n, k, a, b, alpha }], accumulate, (c, stride));
}

/// Computes the sum of `terms` into `c`, `m × n`, row-major with rows `stride` apart, or with `accumulate` adds it. Each
/// block of the result meets all terms while it is in cache.
///
/// # Panics
/// If a matrix does not lie inside its slice, or the first term does not have all columns.
pub fn gemm_sum(
    pool: &Pool,
    (m, n): (usize, usize),
    terms: &[Term<'_>],
    accumulate: bool,
    (c, stride): (&mut [f32], usize),
) {
    for Term { columns, k, a, b, .. } in terms {
        assert!(
            columns.end <= n && a.holds(m, *k) && b.holds(*k, columns.len()),
            "a factor of the {m}×{k}×{} product is too short",
            columns.len()
        );
    }
    assert!(terms.first().is_some_and(|term| term.columns == (0..n)), "the first term has all columns");
    assert!(
        m == 0 || n == 0 || (n <= stride && (m - 1) * stride + n <= c.len()),
        "the {m}×{n} result is too short"
    );
    if m == 0 || n == 0 {
        return;
    }
    if terms[0].k == 0 && !accumulate {
        c.chunks_mut(stride).take(m).for_each(|row| row[..n].fill(0.0));
    }
    let sum = Sum { shape: (m, n), terms, accumulate: accumulate || terms[0].k == 0, stride };
    match super::simd::level() {
        #[cfg(target_arch = "x86_64")]
        super::simd::Level::Avx512 => sum.run::<x86::Avx512>(pool, c),
        #[cfg(target_arch = "x86_64")]
        super::simd::Level::Avx2 => sum.run::<x86::Avx2>(pool, c),
        super::simd::Level::Baseline => sum.run::<Portable>(pool, c),
    }
}

/// A call's operands.
struct Sum<'a> {
    shape: (usize, usize),
    terms: &'a [Term<'a>],
    accumulate: bool,
    stride: usize,
}

impl Sum<'_> {
    fn run<K: Micro>(&self, pool: &Pool, c: &mut [f32]) {
        let n = self.shape.1;
        let deepest = self.terms.iter().map(|term| term.k).max().unwrap_or(0).clamp(1, PACKED_ROWS);
        let columns_step = NC / K::NR * K::NR;
        let columns = (PACKED / deepest / columns_step).max(1) * columns_step;
        let shared = Shared::new(c);
        for first in (0..n).step_by(columns) {
            let columns = first..n.min(first + columns);
            let mut group = Vec::new();
            for piece in self.pieces::<K>(pool, &columns) {
                let len = group.iter().map(Piece::len::<K>).sum::<usize>();
                if !group.is_empty() && len + piece.len::<K>() > PACKED {
                    self.run_pieces::<K>(pool, std::mem::take(&mut group), &columns, &shared);
                }
                group.push(piece);
            }
            self.run_pieces::<K>(pool, group, &columns, &shared);
        }
    }

    /// All there is to add to `columns`, in the order of the sums.
    fn pieces<K: Micro>(&self, pool: &Pool, columns: &Range<usize>) -> Vec<Piece<'_>> {
        let mut pieces = Vec::new();
        for term in self.terms {
            let (from, to) = (term.columns.start.max(columns.start), term.columns.end.min(columns.end));
            if from >= to {
                continue;
            }
            let half_scale = half_scale(pool, term);
            let width = Piece::panel_width::<K>(half_scale);
            let panels = from / width..to.div_ceil(width);
            for row in (0..term.k).step_by(PACKED_ROWS) {
                let rows = row..term.k.min(row + PACKED_ROWS);
                let is_first = pieces.is_empty() && !self.accumulate;
                pieces.push(Piece { term, rows, panels: panels.clone(), at: 0, is_first, half_scale });
            }
        }
        pieces
    }

    /// Packs the pieces and adds them to `columns` of the result.
    fn run_pieces<K: Micro>(
        &self,
        pool: &Pool,
        mut pieces: Vec<Piece<'_>>,
        columns: &Range<usize>,
        c: &Shared<'_, f32>,
    ) {
        let mut len = 0;
        for piece in &mut pieces {
            piece.at = len;
            len += piece.len::<K>();
        }
        let mut packed = PACKED_B.take();
        packed.resize(len.max(packed.len()), 0.0);
        {
            let shared = Shared::new(&mut packed);
            for piece in &pieces {
                let panel_len = piece.panel_len::<K>();
                for_chunks(pool, piece.panels.len(), (16384 / panel_len).max(1), |first, last| {
                    for index in first..last {
                        let at = piece.at + index * panel_len;
                        // SAFETY: panels are disjoint.
                        let out = unsafe { shared.part(at, at + panel_len) };
                        piece.pack::<K>(piece.panels.start + index, out);
                    }
                });
            }
        }
        // Rows by shape alone, for an edge rounds differently; their number such that few threads share them evenly.
        let m = self.shape.0;
        let rows = m.div_ceil(m.div_ceil(MC).next_multiple_of(ROW_BLOCKS));
        let rows = rows.next_multiple_of(K::MR).min(MC / K::MR * K::MR);
        let row_blocks = m.div_ceil(rows);
        let has_many = row_blocks >= TASKS_PER_THREAD * pool.num_threads();
        let width = if has_many { columns.len() } else { NC / K::NR * K::NR };
        let column_blocks = columns.len().div_ceil(width);
        pool.run(row_blocks * column_blocks, |task| {
            let (row, column) = (task % row_blocks * rows, columns.start + task / row_blocks * width);
            let block = (row..m.min(row + rows), column..columns.end.min(column + width));
            for piece in &pieces {
                // SAFETY: blocks are disjoint, and `gemm_sum` found the result inside the slice.
                unsafe { piece.add::<K>(&packed[piece.at..], block.clone(), (c, self.stride)) };
            }
        });
        PACKED_B.set(packed);
    }
}

#[cfg(test)]
mod tests;
