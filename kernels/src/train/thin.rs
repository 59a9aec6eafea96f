//! Products with a factor of a few columns, as low-rank adapters are made of: the wide factor is read once, where it
//! lies, and its dropout happens on the way. Leaves wide products to `gemm`.

use std::cell::RefCell;
use std::ops::Range;

use super::elementwise::dropout_row;
use super::{Shared, for_chunks};
use crate::simd::{LANES, Op, Simd, dispatch};
use crate::{Isa, Pool};

/// Rows of a task of [`thin_product`] and [`thin_expand`].
const ROWS: usize = 64;
/// Columns of the wide factor of a task of [`thin_outer`].
const STRIP: usize = 128;
/// Rows of the wide factor that [`thin_outer`] takes at a time.
const DEPTH: usize = 32;
/// Most rows of a tile.
const TILE: usize = 8;

thread_local! {
    /// Dropped rows of the wide factor, or rows to be dropped.
    static ROW_BUFFER: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Which elements of a matrix are dropped: each with probability `p`, by `seed` and its index; others are divided by
/// `1 − p`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Share that is dropped.
    pub p: f32,
    /// Decides which.
    pub seed: u64,
}

/// Rows of a wide matrix: row `i` is `data[i * stride..][..width]`, perhaps with some elements dropped.
#[derive(Clone, Copy, Debug)]
pub struct WideRows<'a> {
    /// The matrix, from its first element on.
    pub data: &'a [f32],
    /// Values from one row to the next.
    pub stride: usize,
    /// Columns.
    pub width: usize,
    /// `None` is all as they are.
    pub dropout: Option<Dropout>,
}

impl<'a> WideRows<'a> {
    fn check(&self, rows: usize) {
        assert!(
            rows == 0
                || self.width <= self.stride && (rows - 1) * self.stride + self.width <= self.data.len(),
            "{rows} rows of {} do not lie in their slice",
            self.width
        );
    }

    /// Columns `columns` of some rows: where they lie, or dropped in `buffer`; and the stride there.
    fn read<'b>(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        buffer: &'b mut Vec<f32>,
    ) -> (&'b [f32], usize)
    where
        'a: 'b,
    {
        let Some(dropout) = self.dropout else {
            return (&self.data[rows.start * self.stride + columns.start..], self.stride);
        };
        let width = columns.len();
        buffer.resize((rows.len() * width).max(buffer.len()), 0.0);
        for (row, out) in rows.zip(buffer.chunks_exact_mut(width.max(1))) {
            let x = &self.data[row * self.stride + columns.start..][..width];
            dropout_row(x, dropout, row * self.width + columns.start, false, out);
        }
        (buffer, width)
    }
}

/// A matrix of few columns as panels of sixteen, `[panel][rows][16]`, zeros after the last.
#[derive(Debug)]
struct Panels {
    data: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl Panels {
    /// Element `(i, j)` is `x[i * strides.0 + j * strides.1]`.
    fn new(x: &[f32], (rows, columns): (usize, usize), strides: (usize, usize)) -> Self {
        assert!(
            rows * columns == 0 || (rows - 1) * strides.0 + (columns - 1) * strides.1 < x.len(),
            "the thin factor is too short"
        );
        let mut data = vec![0.0; columns.div_ceil(LANES) * rows * LANES];
        for (panel, out) in data.chunks_exact_mut((rows * LANES).max(1)).enumerate() {
            let first = panel * LANES;
            for (row, out) in out.chunks_exact_mut(LANES).enumerate() {
                for (column, out) in (first..columns).zip(out) {
                    *out = x[row * strides.0 + column * strides.1];
                }
            }
        }
        Self { data, rows, columns }
    }

    fn panels(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.data.chunks_exact((self.rows * LANES).max(1)).enumerate()
    }
}

/// `c[i] += Σ_k a(i, k) · b[k]` for `N` vectors of sixteen, `a(i, k) = a[i * steps.0 + k * steps.1]`.
///
/// # Safety
/// `a` and `b` hold `depth` steps, `c` holds `N` vectors.
#[inline(always)]
unsafe fn tile<S: Simd, const N: usize>(
    s: S,
    depth: usize,
    (a, steps): (*const f32, (usize, usize)),
    b: *const f32,
    c: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [s.splat(0.0); N];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = s.load_at(c.add(i * LANES));
        }
        let mut rows = [a; N];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = a.add(i * steps.0);
        }
        for k in 0..depth {
            let b = s.load_at(b.add(k * LANES));
            for i in 0..N {
                sums[i] = s.mul_add(s.splat(*rows[i].add(k * steps.1)), b, sums[i]);
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            s.store_at(*sum, c.add(i * LANES));
        }
    }
}

/// A tile of any height, as many rows at a time as the registers hold.
struct Tiles<'a> {
    height: usize,
    depth: usize,
    a: &'a [f32],
    /// From one row of the result, and from one step of the sum, to the next.
    steps: (usize, usize),
    b: &'a [f32],
    /// `[height][16]`.
    c: &'a mut [f32],
}

impl Op for Tiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { height, depth, a, steps, b, c } = self;
        if height == 0 || depth == 0 {
            return;
        }
        assert!((height - 1) * steps.0 + (depth - 1) * steps.1 < a.len(), "the wide factor is too short");
        assert!(
            depth * LANES <= b.len() && height * LANES <= c.len(),
            "the thin factor or result is too short"
        );
        let mut row = 0;
        while row < height {
            // SAFETY: all rows and steps lie in their slices by the assertions.
            unsafe {
                let (a, c) = ((a.as_ptr().add(row * steps.0), steps), c.as_mut_ptr().add(row * LANES));
                if S::MAX_ROWS >= TILE && row + TILE <= height {
                    tile::<S, TILE>(s, depth, a, b.as_ptr(), c);
                    row += TILE;
                } else if S::MAX_ROWS >= 4 && row + 4 <= height {
                    tile::<S, 4>(s, depth, a, b.as_ptr(), c);
                    row += 4;
                } else {
                    tile::<S, 1>(s, depth, a, b.as_ptr(), c);
                    row += 1;
                }
            }
        }
    }
}

/// A thin factor inside a slice: element `(i, j)` is `data[i * strides.0 + j * strides.1]`, `columns` of them.
#[derive(Clone, Copy, Debug)]
pub struct Thin<'a> {
    /// The slice.
    pub data: &'a [f32],
    /// Columns: few.
    pub columns: usize,
    /// From one row, and from one column, to the next.
    pub strides: (usize, usize),
}

impl<'a> Thin<'a> {
    /// Row-major, `[_, columns]`.
    pub fn rows(data: &'a [f32], columns: usize) -> Self {
        Self { data, columns, strides: (columns, 1) }
    }

    /// The transpose of `[columns, rows]` row-major.
    pub fn transposed(data: &'a [f32], columns: usize, rows: usize) -> Self {
        Self { data, columns, strides: (1, rows) }
    }

    fn panels(&self, rows: usize) -> Panels {
        Panels::new(self.data, (rows, self.columns), self.strides)
    }
}

/// `out = alpha · x b`: `x` is `[rows, x.width]`, `b` `[x.width, n]`, `out` `[rows, n]`.
///
/// # Panics
/// If the lengths do not fit.
pub fn thin_product(pool: &Pool, x: WideRows<'_>, b: Thin<'_>, alpha: f32, out: &mut [f32]) {
    let columns = b.columns;
    let rows = out.len() / columns.max(1);
    x.check(rows);
    let b = b.panels(x.width);
    let isa = Isa::detect();
    let shared = Shared::new(out);
    for_chunks(pool, rows, ROWS, |first, last| {
        let mut buffer = ROW_BUFFER.take();
        for from in (first..last).step_by(TILE) {
            let height = TILE.min(last - from);
            let (a, stride) = x.read(from..from + height, 0..x.width, &mut buffer);
            for (panel, b) in b.panels() {
                let mut sums = [0.0; TILE * LANES];
                let tiles = Tiles { height, depth: x.width, a, steps: (stride, 1), b, c: &mut sums };
                dispatch(isa, tiles);
                let first = panel * LANES;
                let width = LANES.min(columns - first);
                for (row, sums) in sums.chunks_exact(LANES).enumerate().take(height) {
                    let at = (from + row) * columns + first;
                    // SAFETY: rows are disjoint.
                    let out = unsafe { shared.part(at, at + width) };
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = alpha * sum);
                }
            }
        }
        ROW_BUFFER.set(buffer);
    });
}

/// Where [`thin_outer`] adds to: `[x.width, n]` row-major, or its transpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orientation {
    /// A row for each column of the wide factor.
    Tall,
    /// A column for each.
    Wide,
}

/// `out += alpha · xᵀ b`: `x` is `[rows, x.width]`, `b` `[rows, n]`; `out` is `x.width × n`, or its transpose.
///
/// # Panics
/// If the lengths do not fit.
pub fn thin_outer(
    pool: &Pool,
    (x, rows): (WideRows<'_>, usize),
    b: Thin<'_>,
    alpha: f32,
    (out, orientation): (&mut [f32], Orientation),
) {
    let (columns, width) = (b.columns, x.width);
    x.check(rows);
    assert_eq!(out.len(), columns * width, "the result of a thin outer product");
    let b = b.panels(rows);
    let isa = Isa::detect();
    let shared = Shared::new(out);
    for_chunks(pool, width, STRIP, |first, last| {
        let height = last - first;
        let mut buffer = ROW_BUFFER.take();
        let mut sums = vec![0.0; b.columns.div_ceil(LANES) * height * LANES];
        for from in (0..rows).step_by(DEPTH) {
            let depth = DEPTH.min(rows - from);
            let (a, stride) = x.read(from..from + depth, first..last, &mut buffer);
            for ((_, b), c) in b.panels().zip(sums.chunks_exact_mut(height * LANES)) {
                let b = &b[from * LANES..];
                dispatch(isa, Tiles { height, depth, a, steps: (1, stride), b, c });
            }
        }
        for (panel, sums) in sums.chunks_exact(height * LANES).enumerate() {
            for column in panel * LANES..columns.min((panel + 1) * LANES) {
                let of_column = sums.iter().skip(column % LANES).step_by(LANES);
                match orientation {
                    Orientation::Wide => {
                        // SAFETY: strips are disjoint.
                        let out = unsafe { shared.part(column * width + first, column * width + last) };
                        out.iter_mut().zip(of_column).for_each(|(out, sum)| *out += alpha * sum);
                    }
                    Orientation::Tall => {
                        // SAFETY: strips are disjoint.
                        let out = unsafe { shared.part(first * columns, last * columns) };
                        let out = out.iter_mut().skip(column).step_by(columns);
                        out.zip(of_column).for_each(|(out, sum)| *out += alpha * sum);
                    }
                }
            }
        }
        ROW_BUFFER.set(buffer);
    });
}

/// `products += a b` for some rows of `a`, `[panel][row][16]`.
struct Expand<'a> {
    height: usize,
    a: &'a [f32],
    b: &'a Panels,
    products: &'a mut [f32],
}

impl Op for Expand<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (height, a, k) = (self.height, self.a, self.b.rows);
        for ((_, b), c) in self.b.panels().zip(self.products.chunks_exact_mut(height * LANES)) {
            Tiles { height, depth: k, a, steps: (k, 1), b, c }.run(s);
        }
    }
}

/// `out += dropout(a b)`: `a` is `[rows, k]`, thin, `b` `[k, width]`, `out` `[rows, width]`.
///
/// # Panics
/// If the lengths do not fit.
pub fn thin_expand(pool: &Pool, a: &[f32], b: &[f32], dropout: Dropout, out: &mut [f32], width: usize) {
    let rows = out.len() / width.max(1);
    let k = b.len() / width.max(1);
    assert!(out.len() == rows * width && b.len() == k * width && a.len() == rows * k, "thin_expand shapes");
    // The wide factor's columns are the rows of the tiles' result, so that the thin one is broadcast.
    let b = Panels::new(b, (k, width), (width, 1));
    let isa = Isa::detect();
    let shared = Shared::new(out);
    for_chunks(pool, rows, ROWS, |first, last| {
        let mut buffer = ROW_BUFFER.take();
        let padded = width.next_multiple_of(LANES);
        buffer.resize(((TILE + 1) * padded).max(buffer.len()), 0.0);
        for from in (first..last).step_by(TILE) {
            let height = TILE.min(last - from);
            // `[panel][row][16]`, and a row of them side by side.
            let (products, side) = buffer.split_at_mut(TILE * padded);
            let products = &mut products[..height * padded];
            products.fill(0.0);
            let a = &a[from * k..(from + height) * k];
            dispatch(isa, Expand { height, a, b: &b, products });
            for row in from..from + height {
                let of_row = products[(row - from) * LANES..].chunks(LANES).step_by(height);
                for (product, side) in of_row.zip(side.chunks_exact_mut(LANES)) {
                    side.copy_from_slice(product);
                }
                // SAFETY: rows are disjoint.
                let out = unsafe { shared.part(row * width, (row + 1) * width) };
                dropout_row(&side[..width], dropout, row * width, true, out);
            }
        }
        ROW_BUFFER.set(buffer);
    });
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::numbers;
    use super::super::{Product, View, dropout, gemm};
    use super::*;

    fn close(got: &[f32], want: &[f32]) {
        for (index, (got, want)) in got.iter().zip(want).enumerate() {
            assert!((got - want).abs() < 2e-4 * want.abs().max(1.0), "{index}: {got} {want}");
        }
    }

    #[test]
    fn agrees_with_the_general_product_after_dropout() {
        let pool = Pool::new(2).unwrap();
        for (rows, width, n) in [(1, 1, 1), (7, 20, 3), (70, 300, 16), (133, 130, 20), (9, 40, 35)] {
            for p in [None, Some(Dropout { p: 0.3, seed: 9 << 33 | 5 })] {
                let x = numbers(1, rows * width);
                let mut dropped = x.clone();
                if let Some(Dropout { p, seed }) = p {
                    dropout(&pool, &x, p, seed, false, &mut dropped);
                }
                let wide = WideRows { data: &x, stride: width, width, dropout: p };
                let product = |shape: (usize, usize, usize), a: View<'_>, b: View<'_>, c: &[f32]| {
                    let (m, n, k) = shape;
                    let mut c = c.to_vec();
                    let b = b.into();
                    gemm(&pool, &Product { m, n, k, a, b, alpha: 0.5, accumulate: true }, &mut c, n);
                    c
                };

                let b = numbers(2, n * width);
                let mut got = vec![f32::NAN; rows * n];
                thin_product(&pool, wide, Thin::transposed(&b, n, width), 0.5, &mut got);
                let (left, right) = (View::rows(&dropped, width), View::rows(&b, width).t());
                close(&got, &product((rows, n, width), left, right, &vec![0.0; rows * n]));

                let g = numbers(3, rows * n);
                let start = numbers(4, width * n);
                let mut got = start.clone();
                thin_outer(&pool, (wide, rows), Thin::rows(&g, n), 0.5, (&mut got, Orientation::Tall));
                let right = View::rows(&g, n);
                close(&got, &product((width, n, rows), left.t(), right, &start));
                let mut got = start.clone();
                thin_outer(&pool, (wide, rows), Thin::rows(&g, n), 0.5, (&mut got, Orientation::Wide));
                close(&got, &product((n, width, rows), right.t(), left, &start));

                let Some(p) = p else { continue };
                let mut got = x.clone();
                thin_expand(&pool, &g, &b, p, &mut got, width);
                let whole = product((rows, width, n), right, View::rows(&b, width), &vec![0.0; rows * width]);
                let whole: Vec<f32> = whole.iter().map(|value| 2.0 * value).collect();
                let mut want = x.clone();
                dropout(&pool, &whole, p.p, p.seed, true, &mut want);
                close(&got, &want);
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (x, b) = (numbers(1, 200 * 150), numbers(2, 150 * 16));
        let run = |threads: usize| {
            let pool = Pool::new(threads).unwrap();
            let wide = WideRows { data: &x, stride: 150, width: 150, dropout: None };
            let (mut mid, mut out) = (vec![0.0; 200 * 16], vec![0.0; 150 * 16]);
            thin_product(&pool, wide, Thin::rows(&b, 16), 1.0, &mut mid);
            thin_outer(&pool, (wide, 200), Thin::rows(&mid, 16), 1.0, (&mut out, Orientation::Wide));
            out
        };
        assert_eq!(run(1), run(3));
    }
}
