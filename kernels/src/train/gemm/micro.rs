//! The innermost block of a product, in registers: one per instruction set. Leaves blocking and packing to the others.

/// What a micro-kernel computes at a time.
pub(super) trait TileShape {
    /// Rows of a tile.
    const MR: usize;
    /// Columns of a tile.
    const NR: usize;
}

/// A micro-kernel: `MR × NR` of the result in registers.
pub(super) trait Micro: TileShape {
    /// `c (+)= alpha Σ_k a[k][..MR] b[k][..NR]`, `c` with rows `stride` apart.
    ///
    /// # Safety
    /// `a` holds `k * MR`, `b` holds `k * NR` values, `c` holds `MR` rows of `NR`; the instructions exist.
    unsafe fn tile(
        k: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        stride: usize,
        alpha: f32,
        accumulate: bool,
    );
}

pub(super) struct Portable;

impl TileShape for Portable {
    const MR: usize = 4;
    const NR: usize = 8;
}

impl Micro for Portable {
    unsafe fn tile(
        k: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
        stride: usize,
        alpha: f32,
        accumulate: bool,
    ) {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe {
            (std::slice::from_raw_parts(a, k * Self::MR), std::slice::from_raw_parts(b, k * Self::NR))
        };
        let mut sums = [[0.0f32; Self::NR]; Self::MR];
        for (a, b) in a.chunks_exact(Self::MR).zip(b.chunks_exact(Self::NR)) {
            for row in 0..Self::MR {
                for column in 0..Self::NR {
                    sums[row][column] += a[row] * b[column];
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            // SAFETY: the caller's promise.
            let out = unsafe { std::slice::from_raw_parts_mut(c.add(row * stride), Self::NR) };
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if accumulate { *out + alpha * sum } else { alpha * sum };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::{Micro, TileShape};
    use std::arch::x86_64::*;

    pub(in super::super) struct Avx512;

    impl TileShape for Avx512 {
        const MR: usize = 12;
        const NR: usize = 32;
    }

    impl Micro for Avx512 {
        #[target_feature(enable = "avx512f")]
        unsafe fn tile(
            k: usize,
            mut a: *const f32,
            mut b: *const f32,
            c: *mut f32,
            stride: usize,
            alpha: f32,
            accumulate: bool,
        ) {
            let mut sums = [[_mm512_setzero_ps(); 2]; Self::MR];
            // SAFETY: the caller's promise.
            unsafe {
                for _ in 0..k {
                    let (low, high) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let value = _mm512_set1_ps(*a.add(row));
                        sums[0] = _mm512_fmadd_ps(value, low, sums[0]);
                        sums[1] = _mm512_fmadd_ps(value, high, sums[1]);
                    }
                    a = a.add(Self::MR);
                    b = b.add(Self::NR);
                }
                let alpha = _mm512_set1_ps(alpha);
                for (row, sums) in sums.iter().enumerate() {
                    for (half, sum) in sums.iter().enumerate() {
                        let out = c.add(row * stride + half * 16);
                        let value = if accumulate {
                            _mm512_fmadd_ps(alpha, *sum, _mm512_loadu_ps(out))
                        } else {
                            _mm512_mul_ps(alpha, *sum)
                        };
                        _mm512_storeu_ps(out, value);
                    }
                }
            }
        }
    }

    pub(in super::super) struct Avx2;

    impl TileShape for Avx2 {
        const MR: usize = 6;
        const NR: usize = 16;
    }

    impl Micro for Avx2 {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn tile(
            k: usize,
            mut a: *const f32,
            mut b: *const f32,
            c: *mut f32,
            stride: usize,
            alpha: f32,
            accumulate: bool,
        ) {
            let mut sums = [[_mm256_setzero_ps(); 2]; Self::MR];
            // SAFETY: the caller's promise.
            unsafe {
                for _ in 0..k {
                    let (low, high) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let value = _mm256_set1_ps(*a.add(row));
                        sums[0] = _mm256_fmadd_ps(value, low, sums[0]);
                        sums[1] = _mm256_fmadd_ps(value, high, sums[1]);
                    }
                    a = a.add(Self::MR);
                    b = b.add(Self::NR);
                }
                let alpha = _mm256_set1_ps(alpha);
                for (row, sums) in sums.iter().enumerate() {
                    for (half, sum) in sums.iter().enumerate() {
                        let out = c.add(row * stride + half * 8);
                        let value = if accumulate {
                            _mm256_fmadd_ps(alpha, *sum, _mm256_loadu_ps(out))
                        } else {
                            _mm256_mul_ps(alpha, *sum)
                        };
                        _mm256_storeu_ps(out, value);
                    }
                }
            }
        }
    }
}
