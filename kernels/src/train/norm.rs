//! RMSNorm with gradient (Zhang and Sennrich 2019, arXiv:1910.07467), over whole rows or over each head of fused rows.

use super::simd::{dot, fma, multiversion};
use super::{Shared, for_chunks, rows_per_task};
use crate::Pool;

/// Vectors of `head_dim` inside rows of `stride`: head `h` of row `r` starts at `r * stride + column + h * head_dim`.
/// A whole row is one head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLayout {
    /// Elements of a row.
    pub stride: usize,
    /// First element of the first head.
    pub column: usize,
    /// Heads of a row.
    pub num_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl HeadLayout {
    /// Whole rows of `width`.
    pub fn rows(width: usize) -> Self {
        Self { stride: width, column: 0, num_heads: 1, head_dim: width }
    }

    pub(super) fn check(&self) {
        assert!(
            self.column + self.num_heads * self.head_dim <= self.stride,
            "heads reach past their row: {self:?}"
        );
    }
}

/// `out = x / rms(x) · weight` for each head; other columns of `out` are left alone. `rstd`, `[rows * num_heads]`,
/// takes `1 / rms`, for the gradient.
///
/// # Panics
/// If the lengths do not fit.
pub fn rms_norm(
    pool: &Pool,
    layout: HeadLayout,
    x: &[f32],
    (weight, eps): (&[f32], f32),
    out: &mut [f32],
    rstd: &mut [f32],
) {
    layout.check();
    let HeadLayout { stride, column, num_heads, head_dim } = layout;
    let rows = x.len() / stride;
    assert!(
        out.len() == x.len() && rstd.len() == rows * num_heads && weight.len() == head_dim,
        "rms_norm shapes"
    );
    let (out, rstd) = (Shared::new(out), Shared::new(rstd));
    for_chunks(pool, rows, rows_per_task(stride), |first, last| {
        for row in first..last {
            for head in 0..num_heads {
                let from = row * stride + column + head * head_dim;
                // SAFETY: heads are disjoint.
                let (out, rstd) = unsafe {
                    (
                        out.part(from, from + head_dim),
                        rstd.part(row * num_heads + head, row * num_heads + head + 1),
                    )
                };
                norm_vector(&x[from..from + head_dim], weight, eps, out, &mut rstd[0]);
            }
        }
    });
}

multiversion! { fn norm_vector(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], rstd: &mut f32) = norm_body }

#[inline(always)]
fn norm_body<const FMA: bool>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], rstd: &mut f32) {
    let scale = (dot::<FMA>(x, x) / x.len() as f32 + eps).sqrt().recip();
    *rstd = scale;
    for ((x, weight), out) in x.iter().zip(weight).zip(out) {
        *out = x * scale * weight;
    }
}

/// What [`rms_norm`] saw and kept.
#[derive(Clone, Copy, Debug)]
pub struct NormSaved<'a> {
    /// Its input.
    pub x: &'a [f32],
    /// Its weight.
    pub weight: &'a [f32],
    /// What it wrote as `rstd`.
    pub rstd: &'a [f32],
}

/// Gradient of [`rms_norm`]: adds to `grad_x` (or writes, unless `accumulate`), and adds to `grad_weight`.
///
/// With `x̂ = x · rstd`: `dx = rstd (dy·w − x̂ · mean(dy·w·x̂))`, `dw = Σ dy·x̂`.
///
/// # Panics
/// If the lengths do not fit.
pub fn rms_norm_backward(
    pool: &Pool,
    layout: HeadLayout,
    saved: &NormSaved<'_>,
    grad_out: &[f32],
    (grad_x, accumulate): (&mut [f32], bool),
    grad_weight: Option<&mut [f32]>,
) {
    layout.check();
    let HeadLayout { stride, column, num_heads, head_dim } = layout;
    let &NormSaved { x, weight, rstd } = saved;
    let rows = x.len() / stride;
    assert!(
        grad_out.len() == x.len() && grad_x.len() == x.len() && rstd.len() == rows * num_heads,
        "rms_norm shapes"
    );
    let chunk = rows_per_task(stride);
    let num_tasks = rows.div_ceil(chunk);
    let mut partial = vec![0.0f32; num_tasks * head_dim];
    {
        let (grad_x, partial) = (Shared::new(grad_x), Shared::new(&mut partial));
        for_chunks(pool, rows, chunk, |first, last| {
            let task = first / chunk;
            // SAFETY: each task has its own partial sums.
            let grad_weight = unsafe { partial.part(task * head_dim, (task + 1) * head_dim) };
            for row in first..last {
                for head in 0..num_heads {
                    let from = row * stride + column + head * head_dim;
                    let span = from..from + head_dim;
                    // SAFETY: heads are disjoint.
                    let grad_x = unsafe { grad_x.part(span.start, span.end) };
                    let rstd = rstd[row * num_heads + head];
                    backward_vector(
                        &x[span.clone()],
                        weight,
                        rstd,
                        &grad_out[span],
                        accumulate,
                        grad_x,
                        grad_weight,
                    );
                }
            }
        });
    }
    if let Some(grad_weight) = grad_weight {
        for partial in partial.chunks_exact(head_dim) {
            for (into, value) in grad_weight.iter_mut().zip(partial) {
                *into += value;
            }
        }
    }
}

multiversion! {
    fn backward_vector(
        x: &[f32],
        weight: &[f32],
        rstd: f32,
        grad_out: &[f32],
        accumulate: bool,
        grad_x: &mut [f32],
        grad_weight: &mut [f32],
    ) = backward_body
}

#[inline(always)]
fn backward_body<const FMA: bool>(
    x: &[f32],
    weight: &[f32],
    rstd: f32,
    grad_out: &[f32],
    accumulate: bool,
    grad_x: &mut [f32],
    grad_weight: &mut [f32],
) {
    let len = x.len();
    let (weight, grad_out, grad_x, grad_weight) =
        (&weight[..len], &grad_out[..len], &mut grad_x[..len], &mut grad_weight[..len]);
    let projection = super::simd::sum_of([grad_out, weight, x], |[grad, weight, x]| grad * weight * x);
    let mean = projection * rstd * rstd / len as f32;
    for i in 0..len {
        grad_weight[i] = fma::<FMA>(grad_out[i], x[i] * rstd, grad_weight[i]);
        let grad = rstd * fma::<FMA>(-mean, x[i], grad_out[i] * weight[i]);
        grad_x[i] = if accumulate { grad_x[i] + grad } else { grad };
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{gradient_error, numbers};
    use super::*;

    #[test]
    fn gradients_are_the_slope_for_rows_and_for_heads() {
        let pool = Pool::new(2).unwrap();
        let heads = HeadLayout { stride: 17, column: 3, num_heads: 2, head_dim: 5 };
        for (layout, rows) in [(HeadLayout::rows(7), 3), (heads, 4)] {
            let x = numbers(1, rows * layout.stride);
            let weight = numbers(2, layout.head_dim);
            let upstream = numbers(3, x.len());
            let loss = |x: &[f32], weight: &[f32]| -> f64 {
                let mut out = vec![0.0; x.len()];
                let mut rstd = vec![0.0; rows * layout.num_heads];
                rms_norm(&pool, layout, x, (weight, 1e-5), &mut out, &mut rstd);
                out.iter().zip(&upstream).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let (mut out, mut rstd) = (vec![0.0; x.len()], vec![0.0; rows * layout.num_heads]);
            rms_norm(&pool, layout, &x, (&weight, 1e-5), &mut out, &mut rstd);
            let (mut grad_x, mut grad_weight) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
            let saved = NormSaved { x: &x, weight: &weight, rstd: &rstd };
            rms_norm_backward(&pool, layout, &saved, &upstream, (&mut grad_x, false), Some(&mut grad_weight));
            assert!(gradient_error(&x, &grad_x, |x| loss(x, &weight)) < 5e-3);
            assert!(gradient_error(&weight, &grad_weight, |weight| loss(&x, weight)) < 5e-3);
        }
    }
}
