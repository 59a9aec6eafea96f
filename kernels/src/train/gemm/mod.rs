//! Sums of f32 products `C (+)= Σ α A B` for any strides, so that a layer's forward product, both of its gradients, and
//! its adapters are one function. Blocked and packed as in Goto and van de Geijn 2008 ("Anatomy of high-performance
//! matrix multiplication"); frozen weights are read from their packed form. Leaves the layouts to `factor` and `pack`,
//! the innermost loop to `micro`.

use std::cell::RefCell;
use std::ops::Range;

mod factor;
mod micro;
mod pack;
mod serial;

pub use factor::{Factor, PackedFactor, Term, View};
#[cfg(target_arch = "x86_64")]
use micro::x86;
use micro::{Micro, Portable};
use pack::{pack_a, pack_b};
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
/// Tasks from which on rows alone are cut: then A is packed once for all columns.
const MANY_TASKS: usize = 16;

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

/// Some rows of a term's right factor, packed for some panels of the result's columns.
struct Piece<'a> {
    term: &'a Term<'a>,
    rows: Range<usize>,
    panels: Range<usize>,
    /// Where its panels start.
    at: usize,
    /// Writes the result instead of adding to it.
    is_first: bool,
}

impl Piece<'_> {
    fn len<K: Micro>(&self) -> usize {
        self.panels.len() * K::NR * self.rows.len()
    }

    /// Packs a panel.
    fn pack<K: Micro>(&self, panel: usize, out: &mut [f32]) {
        let columns = &self.term.columns;
        let (from, to) = (columns.start.max(panel * K::NR), columns.end.min((panel + 1) * K::NR));
        let columns = (from - columns.start, to - from);
        pack_b::<K>(self.term.b, self.rows.clone(), columns, from - panel * K::NR, out);
    }
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
            for piece in self.pieces::<K>(&columns) {
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
    fn pieces<K: Micro>(&self, columns: &Range<usize>) -> Vec<Piece<'_>> {
        let mut pieces = Vec::new();
        for term in self.terms {
            let (from, to) = (term.columns.start.max(columns.start), term.columns.end.min(columns.end));
            if from >= to {
                continue;
            }
            let panels = from / K::NR..to.div_ceil(K::NR);
            for row in (0..term.k).step_by(PACKED_ROWS) {
                let rows = row..term.k.min(row + PACKED_ROWS);
                let is_first = pieces.is_empty() && !self.accumulate;
                pieces.push(Piece { term, rows, panels: panels.clone(), at: 0, is_first });
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
                let panel_len = K::NR * piece.rows.len();
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
        // Blocks by shape alone, small enough that two threads share even a small result evenly.
        let m = self.shape.0;
        let rows = m.div_ceil(8).next_multiple_of(K::MR).clamp(K::MR, MC / K::MR * K::MR);
        let row_blocks = m.div_ceil(rows);
        let width = if row_blocks >= MANY_TASKS { columns.len() } else { NC / K::NR * K::NR };
        let column_blocks = columns.len().div_ceil(width);
        pool.run(row_blocks * column_blocks, |task| {
            let (row, column) = (task % row_blocks * rows, columns.start + task / row_blocks * width);
            let block = (row..m.min(row + rows), column..columns.end.min(column + width));
            for piece in &pieces {
                self.add_piece::<K>(piece, &packed[piece.at..], block.clone(), c);
            }
        });
        PACKED_B.set(packed);
    }

    /// Adds a piece to a block of the result: rows `block.0`, columns `block.1` (the latter starting on a panel).
    fn add_piece<K: Micro>(
        &self,
        piece: &Piece<'_>,
        packed_b: &[f32],
        (rows, columns): (Range<usize>, Range<usize>),
        c: &Shared<'_, f32>,
    ) {
        let Piece { term, .. } = piece;
        let panels =
            piece.panels.start.max(columns.start / K::NR)..piece.panels.end.min(columns.end.div_ceil(K::NR));
        if panels.is_empty() {
            return;
        }
        let panel_len = K::NR * piece.rows.len();
        let mut packed_a = PACKED_A.take();
        for from in piece.rows.clone().step_by(KC) {
            let depth = KC.min(piece.rows.end - from);
            let accumulate = !piece.is_first || from > 0;
            pack_a::<K>(term.a, (rows.start, rows.end), (from, from + depth), &mut packed_a);
            for panel in panels.clone() {
                let at = (panel - piece.panels.start) * panel_len + (from - piece.rows.start) * K::NR;
                let b = &packed_b[at..at + depth * K::NR];
                let column = panel * K::NR;
                let width = K::NR.min(columns.end - column);
                for (index, a) in packed_a.chunks_exact(K::MR * depth).enumerate() {
                    let row = rows.start + index * K::MR;
                    let height = K::MR.min(rows.end - row);
                    let tile = Tile { depth, a, b, alpha: term.alpha, accumulate };
                    // SAFETY: the block belongs to this task alone, and `gemm_sum` found the result inside the slice.
                    unsafe {
                        tile.run::<K>((height, width), c.start.add(row * self.stride + column), self.stride);
                    }
                }
            }
        }
        PACKED_A.set(packed_a);
    }
}

/// One call of a micro-kernel: packed panels and what is done with their product.
struct Tile<'a> {
    depth: usize,
    a: &'a [f32],
    b: &'a [f32],
    alpha: f32,
    accumulate: bool,
}

impl Tile<'_> {
    /// Computes `height × width` of the tile into `c`, rows `stride` apart.
    ///
    /// # Safety
    /// `c` holds `height` rows of `width` values nobody else uses.
    unsafe fn run<K: Micro>(&self, (height, width): (usize, usize), c: *mut f32, stride: usize) {
        let &Self { depth, a, b, alpha, accumulate } = self;
        assert!(a.len() >= depth * K::MR && b.len() >= depth * K::NR, "panels are too short");
        let (a, b) = (a.as_ptr(), b.as_ptr());
        if height == K::MR && width == K::NR {
            // SAFETY: panels hold `depth` steps by the assertion, `c` the tile by the caller's promise, and `level` found
            // the instructions.
            unsafe { K::tile(depth, a, b, c, stride, alpha, accumulate) };
            return;
        }
        let mut edge = [0.0f32; MAX_TILE];
        // SAFETY: as above; no tile is larger than `edge`.
        unsafe { K::tile(depth, a, b, edge.as_mut_ptr(), K::NR, alpha, false) };
        for (i, values) in edge.chunks_exact(K::NR).take(height).enumerate() {
            // SAFETY: the caller's promise.
            let out = unsafe { std::slice::from_raw_parts_mut(c.add(i * stride), width) };
            for (out, value) in out.iter_mut().zip(values) {
                *out = if accumulate { *out + value } else { *value };
            }
        }
    }
}

/// Numbers of the largest micro-kernel's tile.
const MAX_TILE: usize = 12 * 32;

#[cfg(test)]
mod tests {
    use super::super::tests_support::numbers;
    use super::*;
    use crate::{PackedLinear, Values, WeightDtype};

    fn oracle(p: &Product<'_>, c: &mut [f32], stride: usize) {
        for i in 0..p.m {
            for j in 0..p.n {
                let term = |k: usize| {
                    let Factor::Dense(b) = p.b else { return 0.0 };
                    f64::from(p.a.data[i * p.a.row_stride + k * p.a.column_stride])
                        * f64::from(b.data[k * b.row_stride + j * b.column_stride])
                };
                let sum = f64::from(p.alpha) * (0..p.k).map(term).sum::<f64>();
                let old = if p.accumulate { f64::from(c[i * stride + j]) } else { 0.0 };
                c[i * stride + j] = (old + sum) as f32;
            }
        }
    }

    #[test]
    fn every_micro_kernel_agrees_with_the_sum_for_any_strides() {
        let pool = Pool::new(2).unwrap();
        for (m, n, k) in
            [(1, 1, 1), (5, 7, 3), (12, 32, 16), (13, 33, 300), (40, 70, 257), (200, 530, 31), (3, 4, 0)]
        {
            for (transpose_a, transpose_b, accumulate) in
                [(false, false, false), (true, false, true), (false, true, false), (true, true, true)]
            {
                let (a, b) = (numbers(1, m * k), numbers(2, k * n));
                let a = if transpose_a { View::rows(&a, m).t() } else { View::rows(&a, k) };
                let b = if transpose_b { View::rows(&b, k).t() } else { View::rows(&b, n) };
                let product = Product { m, n, k, a, b: b.into(), alpha: 0.5, accumulate };
                let stride = n + 3;
                let start = numbers(3, m * stride);
                let mut want = start.clone();
                oracle(&product, &mut want, stride);
                let check = |name: &str, got: &[f32]| {
                    for (got, want) in got.iter().zip(&want) {
                        assert!(
                            (got - want).abs() < 1e-4 * want.abs().max(1.0),
                            "{name} {m}×{n}×{k}: {got} {want}"
                        );
                    }
                };
                let mut c = start.clone();
                gemm(&pool, &product, &mut c, stride);
                check("best", &c);
                let terms = [Term { columns: 0..n, k, a, b: b.into(), alpha: 0.5 }];
                let sum = Sum { shape: (m, n), terms: &terms, accumulate, stride };
                let mut c = start.clone();
                sum.run::<Portable>(&pool, &mut c);
                if k > 0 {
                    check("portable", &c);
                }
                #[cfg(target_arch = "x86_64")]
                if k > 0 && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    let mut c = start.clone();
                    sum.run::<x86::Avx2>(&pool, &mut c);
                    check("avx2", &c);
                }
                if k > 0 {
                    let mut packed = PackedRight::default();
                    packed.pack(b, k, n);
                    let mut c = start.clone();
                    let serial = SerialProduct { m, n, k, a, b: &packed, alpha: 0.5, accumulate };
                    gemm_serial(&serial, &mut c, stride);
                    check("serial", &c);
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (a, b) = (numbers(1, 300 * 500), numbers(2, 500 * 100));
        let (a, b) = (View::rows(&a, 500), View::rows(&b, 100));
        let product = Product { m: 300, n: 100, k: 500, a, b: b.into(), alpha: 1.0, accumulate: false };
        let run = |threads: usize| {
            let mut c = vec![0.0; 300 * 100];
            gemm(&Pool::new(threads).unwrap(), &product, &mut c, 100);
            c
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn packed_weights_are_the_matrix_they_stand_for() {
        let pool = Pool::new(2).unwrap();
        let dtypes = [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::Int8, WeightDtype::Nf4];
        for (outputs, inputs, first) in [(40, 70, 0), (70, 33, 16), (2100, 40, 48), (48, 2100, 0)] {
            let values = numbers(4, outputs * inputs);
            for dtype in dtypes {
                let weights = PackedLinear::pack(&pool, &[Values::F32(&values)], inputs, dtype).unwrap();
                let dense = weights.unpack();
                let (outputs, m) = (outputs - first, 29);
                for transposed in [false, true] {
                    let (n, k) = if transposed { (outputs, inputs) } else { (inputs, outputs) };
                    let packed = Factor::packed(&weights, first);
                    let same = Factor::from(View::rows(&dense[first * inputs..], inputs));
                    let (packed, same) = if transposed { (packed.t(), same.t()) } else { (packed, same) };
                    let a = numbers(5, m * k);
                    let run = |b: Factor<'_>| {
                        let a = View::rows(&a, k);
                        let mut c = vec![f32::NAN; m * n];
                        gemm(&pool, &Product { m, n, k, a, b, alpha: 1.5, accumulate: false }, &mut c, n);
                        c
                    };
                    assert_eq!(run(packed), run(same), "{dtype:?}, transposed: {transposed}");
                }
            }
        }
    }

    #[test]
    fn terms_add_to_their_columns_alone() {
        let pool = Pool::new(2).unwrap();
        let (m, n, k, rank) = (50, 90, 300, 5);
        let (a, b) = (numbers(1, m * k), numbers(2, k * n));
        let (low, high) = (numbers(3, m * rank), numbers(4, rank * n));
        let base = Term { columns: 0..n, k, a: View::rows(&a, k), b: View::rows(&b, n).into(), alpha: 1.0 };
        let part = |columns: Range<usize>| Term {
            b: View::rows(&high[columns.start..], n).into(),
            columns,
            k: rank,
            a: View::rows(&low, rank),
            alpha: 2.0,
        };
        let mut c = vec![f32::NAN; m * n];
        gemm_sum(&pool, (m, n), &[base.clone(), part(0..33), part(40..90)], false, (&mut c, n));
        let (mut want, mut added) = (vec![0.0; m * n], vec![0.0; m * n]);
        gemm_sum(&pool, (m, n), &[base], false, (&mut want, n));
        gemm_sum(&pool, (m, n), &[part(0..n)], false, (&mut added, n));
        for (index, (got, want)) in c.iter().zip(&want).enumerate() {
            let adapted = !(33..40).contains(&(index % n));
            let want = want + if adapted { added[index] } else { 0.0 };
            assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "{index}: {got} {want}");
        }
    }
}
