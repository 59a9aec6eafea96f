//! Root-mean-square norms: Zhang and Sennrich 2019 (arXiv:1910.07467), Eq. 4. Leaves linear layers to `linear`.

use crate::error::{check_len, ensure};
use crate::{KernelError, Pool, RowsMut};

/// `out = x / √(mean(x²) + eps) · weight` for each row: `x` and `out` are `[rows, width]`, `weight` `[width]`.
///
/// # Errors
/// [`KernelError`] if lengths disagree.
pub fn rms_norm(
    _pool: &Pool,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    check_shape(x.len(), weight.len())?;
    check_len("out", out.len(), x.len())?;
    for (x, out) in x.chunks(weight.len()).zip(out.chunks_mut(weight.len())) {
        let scale = inverse_rms(x, eps);
        out.iter_mut().zip(x).zip(weight).for_each(|((out, x), w)| *out = x * scale * w);
    }
    Ok(())
}

/// `residual += x`, then `out = norm(residual)`: all are `[rows, width]`.
///
/// # Errors
/// [`KernelError`] if lengths disagree.
pub fn add_rms_norm(
    pool: &Pool,
    residual: &mut [f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    check_len("residual", residual.len(), x.len())?;
    residual.iter_mut().zip(x).for_each(|(residual, x)| *residual += x);
    rms_norm(pool, residual, weight, eps, out)
}

/// Norms each of the first `num_heads` heads of each row in place; a head is `weight.len()` wide.
///
/// # Errors
/// [`KernelError`] if `x` is too short.
pub fn head_rms_norm(
    _pool: &Pool,
    x: RowsMut<'_>,
    num_rows: usize,
    num_heads: usize,
    weight: &[f32],
    eps: f32,
) -> Result<(), KernelError> {
    let width = num_heads * weight.len();
    x.check("x", num_rows, width)?;
    for i in 0..num_rows {
        for head in x.data[i * x.stride + x.column..][..width].chunks_mut(weight.len()) {
            let scale = inverse_rms(head, eps);
            head.iter_mut().zip(weight).for_each(|(x, w)| *x = *x * scale * w);
        }
    }
    Ok(())
}

fn check_shape(len: usize, width: usize) -> Result<(), KernelError> {
    ensure(width > 0 && len.is_multiple_of(width), || {
        format!("x holds {len} values, which are not whole rows of {width}")
    })
}

fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let mean = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
    1.0 / (mean + eps).sqrt()
}
