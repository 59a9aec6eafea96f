//! Dense f32 product `C (+)= α A B` for any strides, so that a layer's forward product and both of its gradients are
//! one function. Blocked and packed as in Goto and van de Geijn 2008 ("Anatomy of high-performance matrix
//! multiplication"). Leaves frozen, packed weights to `linear`.

use std::cell::RefCell;

mod micro;
mod pack;
mod serial;

#[cfg(target_arch = "x86_64")]
use micro::x86;
use micro::{Micro, Portable};
use pack::{pack_a, pack_b, packed_len};
pub(super) use serial::{PackedRight, SerialProduct, gemm_serial};

use super::{Shared, for_chunks};
use crate::Pool;

/// Columns of A and rows of B taken together: one packed B panel stays in the first-level cache.
const KC: usize = 256;
/// Rows of one task.
const MC: usize = 96;
/// Columns of one task.
const NC: usize = 512;

/// A matrix inside a slice, by rows or by columns: element `(i, j)` is `data[i * row_stride + j * column_stride]`, and one
/// of the strides is 1.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    data: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix whose rows are `stride` apart.
    pub fn rows(data: &'a [f32], stride: usize) -> Self {
        Self { data, row_stride: stride, column_stride: 1 }
    }

    /// The transpose.
    #[must_use]
    pub fn t(self) -> Self {
        Self { data: self.data, row_stride: self.column_stride, column_stride: self.row_stride }
    }

    /// Whether an `m × n` matrix lies inside the data.
    fn holds(&self, m: usize, n: usize) -> bool {
        m == 0 || n == 0 || (m - 1) * self.row_stride + (n - 1) * self.column_stride < self.data.len()
    }
}

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
    pub b: View<'a>,
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
    check(product, c, stride);
    match super::simd::level() {
        #[cfg(target_arch = "x86_64")]
        super::simd::Level::Avx512 => parallel::<x86::Avx512>(pool, product, c, stride),
        #[cfg(target_arch = "x86_64")]
        super::simd::Level::Avx2 => parallel::<x86::Avx2>(pool, product, c, stride),
        super::simd::Level::Baseline => parallel::<Portable>(pool, product, c, stride),
    }
}

fn check(product: &Product<'_>, c: &[f32], stride: usize) {
    let &Product { m, n, k, a, b, .. } = product;
    assert!(a.holds(m, k) && b.holds(k, n), "a factor of the {m}×{k}×{n} product is too short");
    assert!(
        m == 0 || n == 0 || (n <= stride && (m - 1) * stride + n <= c.len()),
        "the {m}×{n} result is too short"
    );
}

fn parallel<K: Micro>(pool: &Pool, product: &Product<'_>, c: &mut [f32], stride: usize) {
    let &Product { m, n, k, b, .. } = product;
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !product.accumulate {
            c.chunks_mut(stride).take(m).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    let mut packed = PACKED_B.take();
    packed.resize(packed_len::<K>(n, k).max(packed.len()), 0.0);
    {
        let shared = Shared::new(&mut packed);
        let panels_per_task = (16384 / (K::NR * k)).max(1);
        for_chunks(pool, n.div_ceil(K::NR), panels_per_task, |first, last| {
            for panel in first..last {
                // SAFETY: panels are disjoint.
                let out = unsafe { shared.part(panel * K::NR * k, (panel + 1) * K::NR * k) };
                pack_b::<K>(b, n, k, panel, out);
            }
        });
    }
    // Blocks by shape alone, small enough that two threads share even a small result evenly.
    let rows = m.div_ceil(8).next_multiple_of(K::MR).clamp(K::MR, MC / K::MR * K::MR);
    let columns = NC / K::NR * K::NR;
    let (row_blocks, column_blocks) = (m.div_ceil(rows), n.div_ceil(columns));
    let shared = Shared::new(c);
    pool.run(row_blocks * column_blocks, |task| {
        let (row, column) = (task % row_blocks * rows, task / row_blocks * columns);
        let block = ((row, (row + rows).min(m)), (column, (column + columns).min(n)));
        block_product::<K>(product, &packed, block, &shared, stride);
    });
    PACKED_B.set(packed);
}

/// One task: rows `block.0`, columns `block.1` of the result (the latter starting on a panel).
fn block_product<K: Micro>(
    product: &Product<'_>,
    packed_b: &[f32],
    block: ((usize, usize), (usize, usize)),
    c: &Shared<'_, f32>,
    stride: usize,
) {
    let &Product { k, a, alpha, accumulate, .. } = product;
    let (rows, columns) = block;
    let mut packed_a = PACKED_A.take();
    let mut edge = vec![0.0f32; K::MR * K::NR];
    let mut depth_from = 0;
    while depth_from < k {
        let depth = KC.min(k - depth_from);
        let accumulate = accumulate || depth_from > 0;
        pack_a::<K>(a, rows, (depth_from, depth_from + depth), &mut packed_a);
        let mut column = columns.0;
        while column < columns.1 {
            let width = K::NR.min(columns.1 - column);
            let panel = &packed_b[column / K::NR * K::NR * k + depth_from * K::NR..][..depth * K::NR];
            let mut row = rows.0;
            for panel_a in packed_a.chunks_exact(K::MR * depth) {
                let height = K::MR.min(rows.1 - row);
                // SAFETY: the block belongs to this task alone, and `check` found the result inside the slice; panels
                // hold `depth` steps; `level` found the instructions.
                unsafe {
                    if height == K::MR && width == K::NR {
                        let tile = c.start.add(row * stride + column);
                        K::tile(depth, panel_a.as_ptr(), panel.as_ptr(), tile, stride, alpha, accumulate);
                    } else {
                        K::tile(
                            depth,
                            panel_a.as_ptr(),
                            panel.as_ptr(),
                            edge.as_mut_ptr(),
                            K::NR,
                            alpha,
                            false,
                        );
                        for (i, values) in edge.chunks_exact(K::NR).take(height).enumerate() {
                            let from = (row + i) * stride + column;
                            let out = c.part(from, from + width);
                            for (out, value) in out.iter_mut().zip(values) {
                                *out = if accumulate { *out + value } else { *value };
                            }
                        }
                    }
                }
                row += height;
            }
            column += width;
        }
        depth_from += depth;
    }
    PACKED_A.set(packed_a);
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::numbers;
    use super::*;

    fn oracle(p: &Product<'_>, c: &mut [f32], stride: usize) {
        for i in 0..p.m {
            for j in 0..p.n {
                let term = |k: usize| {
                    f64::from(p.a.data[i * p.a.row_stride + k * p.a.column_stride])
                        * f64::from(p.b.data[k * p.b.row_stride + j * p.b.column_stride])
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
                let product = Product { m, n, k, a, b, alpha: 0.5, accumulate };
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
                let mut c = start.clone();
                parallel::<Portable>(&pool, &product, &mut c, stride);
                check("portable", &c);
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    let mut c = start.clone();
                    parallel::<x86::Avx2>(&pool, &product, &mut c, stride);
                    check("avx2", &c);
                }
                if k > 0 {
                    let mut packed = PackedRight::default();
                    packed.pack(product.b, k, n);
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
        let product = Product { m: 300, n: 100, k: 500, a, b, alpha: 1.0, accumulate: false };
        let run = |threads: usize| {
            let mut c = vec![0.0; 300 * 100];
            gemm(&Pool::new(threads).unwrap(), &product, &mut c, 100);
            c
        };
        assert_eq!(run(1), run(3));
    }
}
