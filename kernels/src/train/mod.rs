//! Kernels of training: forward operations that keep what their gradients need, the gradients, and the optimiser's
//! step. All f32, over plain slices, parallel over a [`Pool`](crate::Pool). Leaves the tape to the trainer.
//!
//! Work is cut into tasks by shape alone, never by the number of threads, and every sum has one order: a run gives the
//! same bits on any number of cores.

#![expect(
    unsafe_code,
    reason = "tasks of a pool write disjoint parts of one slice, and SIMD needs target features"
)]

mod attention;
mod cross_entropy;
mod elementwise;
mod embedding;
mod gemm;
mod norm;
mod optimizer;
mod rope;
mod simd;
mod thin;

pub use attention::{Attention, AttentionSaved, attention, attention_backward};
pub use cross_entropy::{LogitColumns, LogprobGrads, RowSums, TokenStats, logprobs, logprobs_backward};
pub use elementwise::{add_assign, dropout, swiglu, swiglu_backward};
pub use embedding::{gather_packed, gather_rows, scatter_add_rows};
pub use gemm::{Factor, PackedFactor, Precision, Product, Term, View, gemm, gemm_sum};
pub use norm::{HeadLayout, NormSaved, rms_norm, rms_norm_backward};
pub use optimizer::{AdamW, adamw, sum_squares};
pub use rope::rope;
pub use thin::{Dropout, Orientation, Thin, WideRows, thin_expand, thin_outer, thin_product};

use crate::Pool;
use std::marker::PhantomData;

/// A mutable slice that tasks of one [`Pool::run`] share, each taking parts no other takes.
struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: the only way in is `part`, whose callers promise disjoint parts.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Elements `from..to`.
    ///
    /// # Safety
    /// No two live parts may overlap.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    unsafe fn part(&self, from: usize, to: usize) -> &mut [T] {
        assert!(from <= to && to <= self.len, "part {from}..{to} of {}", self.len);
        // SAFETY: in bounds by the assertion, and unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), to - from) }
    }
}

/// Runs `task(first, last)` over `0..count` in chunks of `chunk`.
fn for_chunks(pool: &Pool, count: usize, chunk: usize, task: impl Fn(usize, usize) + Sync) {
    let chunk = chunk.max(1);
    pool.run(count.div_ceil(chunk), |index| {
        let first = index * chunk;
        task(first, (first + chunk).min(count));
    });
}

/// Rows of `width` per task: about 16 Ki elements.
fn rows_per_task(width: usize) -> usize {
    (16384 / width.max(1)).clamp(1, 256)
}

#[cfg(test)]
pub(crate) mod tests_support {
    /// Deterministic numbers of about unit variance.
    pub(crate) fn numbers(seed: u64, count: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..count).map(|_| (uniform() + uniform() + uniform() - 1.5) * 2.0).collect()
    }

    /// Largest difference of the gradient `analytic` from central differences of `loss`, relative to the larger of 1
    /// and the gradient.
    pub(crate) fn gradient_error(x: &[f32], analytic: &[f32], mut loss: impl FnMut(&[f32]) -> f64) -> f64 {
        let mut moved = x.to_vec();
        let mut worst = 0.0f64;
        for index in 0..x.len() {
            let step = 1e-2f32;
            moved[index] = x[index] + step;
            let up = loss(&moved);
            moved[index] = x[index] - step;
            let down = loss(&moved);
            moved[index] = x[index];
            let numeric = (up - down) / (2.0 * f64::from(step));
            let analytic = f64::from(analytic[index]);
            worst = worst.max((numeric - analytic).abs() / analytic.abs().max(1.0));
        }
        worst
    }
}
