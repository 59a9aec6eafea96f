//! Gated activations: Shazeer 2020 (arXiv:2002.05202). Leaves the projections to `linear`.

use crate::error::{check_len, ensure};
use crate::{KernelError, Pool};

/// `silu(gate) · up`: `gate_up` is `[num_rows, 2 · width]`, rows `[gate | up]`; `out` is `[num_rows, width]`.
///
/// # Errors
/// [`KernelError`] if lengths disagree.
pub fn swiglu(_pool: &Pool, gate_up: &[f32], num_rows: usize, out: &mut [f32]) -> Result<(), KernelError> {
    check_len("gate_up", gate_up.len(), 2 * out.len())?;
    if num_rows == 0 {
        return check_len("out", out.len(), 0);
    }
    ensure(out.len().is_multiple_of(num_rows), || {
        format!("out holds {} values, which are not {num_rows} rows", out.len())
    })?;
    let width = out.len() / num_rows;
    if width == 0 {
        return Ok(());
    }
    for (row, out) in gate_up.chunks(2 * width).zip(out.chunks_mut(width)) {
        let (gate, up) = row.split_at(width);
        out.iter_mut().zip(gate).zip(up).for_each(|((out, g), up)| *out = g / (1.0 + (-g).exp()) * up);
    }
    Ok(())
}
