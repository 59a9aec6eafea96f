//! Small products on one thread, with a right factor packed once for several: what attention is made of.

#[cfg(target_arch = "x86_64")]
use super::micro::x86;
use super::micro::{Micro, Portable};
use super::pack::{pack_a, pack_b, packed_len};
use super::piece::{Place, Tile};
use super::{PACKED_A, View};
use crate::train::simd;

/// The right factor of several small products, packed once.
#[derive(Debug, Default)]
pub(in crate::train) struct PackedRight {
    data: Vec<f32>,
    n: usize,
    k: usize,
}

impl PackedRight {
    /// Packs `b: [k, n]`, reusing the memory.
    pub(in crate::train) fn pack(&mut self, b: View<'_>, k: usize, n: usize) {
        fn run<K: Micro>(this: &mut PackedRight, b: View<'_>, k: usize, n: usize) {
            this.data.resize(packed_len::<K>(n, k), 0.0);
            for (panel, out) in this.data.chunks_exact_mut((K::NR * k).max(1)).enumerate() {
                let first = panel * K::NR;
                pack_b::<K>(b.into(), 0..k, (first, K::NR.min(n - first)), 0, out);
            }
        }
        assert!(b.holds(k, n), "the {k}×{n} factor is too short");
        (self.n, self.k) = (n, k);
        match simd::level() {
            #[cfg(target_arch = "x86_64")]
            simd::Level::Avx512 => run::<x86::Avx512>(self, b, k, n),
            #[cfg(target_arch = "x86_64")]
            simd::Level::Avx2 => run::<x86::Avx2>(self, b, k, n),
            simd::Level::Baseline => run::<Portable>(self, b, k, n),
        }
    }
}

/// `c (+)= alpha · a · b` on the calling thread, with the first `k` rows and `n` columns of a packed `b`.
pub(in crate::train) fn gemm_serial(product: &SerialProduct<'_>, c: &mut [f32], stride: usize) {
    fn run<K: Micro>(p: &SerialProduct<'_>, c: &mut [f32], stride: usize) {
        // The packed factor may be deeper than this product: panels are `b.k` steps apart.
        let mut packed_a = PACKED_A.take();
        pack_a::<K>(p.a, (0, p.m), (0, p.k), &mut packed_a);
        for column in (0..p.n).step_by(K::NR) {
            let width = K::NR.min(p.n - column);
            let panel = &p.b.data[column * p.b.k..][..p.k * K::NR];
            for (index, panel_a) in packed_a.chunks_exact((K::MR * p.k).max(1)).enumerate() {
                let row = index * K::MR;
                let height = K::MR.min(p.m - row);
                let tile = Tile { depth: p.k, a: panel_a, b: panel, alpha: p.alpha };
                // SAFETY: `gemm_serial` found the result inside the slice.
                unsafe {
                    let start = c.as_mut_ptr().add(row * stride + column);
                    tile.run::<K>(Place { shape: (height, width), start, stride, accumulate: p.accumulate });
                }
            }
        }
        PACKED_A.set(packed_a);
    }
    let SerialProduct { m, n, k, a, b, .. } = *product;
    assert!(a.holds(m, k) && k <= b.k && n <= b.n, "a factor of the {m}×{k}×{n} product is too short");
    assert!(
        m == 0 || n == 0 || (n <= stride && (m - 1) * stride + n <= c.len()),
        "the {m}×{n} result is too short"
    );
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    match simd::level() {
        #[cfg(target_arch = "x86_64")]
        simd::Level::Avx512 => run::<x86::Avx512>(product, c, stride),
        #[cfg(target_arch = "x86_64")]
        simd::Level::Avx2 => run::<x86::Avx2>(product, c, stride),
        simd::Level::Baseline => run::<Portable>(product, c, stride),
    }
}

/// As [`Product`], with the right factor packed.
#[derive(Clone, Copy, Debug)]
pub(in crate::train) struct SerialProduct<'a> {
    pub(in crate::train) m: usize,
    pub(in crate::train) n: usize,
    pub(in crate::train) k: usize,
    pub(in crate::train) a: View<'a>,
    pub(in crate::train) b: &'a PackedRight,
    pub(in crate::train) alpha: f32,
    pub(in crate::train) accumulate: bool,
}

impl<'a> SerialProduct<'a> {
    pub(in crate::train) fn new(
        (m, n, k): (usize, usize, usize),
        a: View<'a>,
        b: &'a PackedRight,
        alpha: f32,
    ) -> Self {
        Self { m, n, k, a, b, alpha, accumulate: false }
    }

    pub(in crate::train) fn accumulate(self) -> Self {
        Self { accumulate: true, ..self }
    }
}
