//! Rotary position embedding: Su et al. 2021 (arXiv:2104.09864), with the halves of a head as the pairs. Leaves the
//! choice of frequencies to the model.

use crate::error::ensure;
use crate::{KernelError, Pool, RowsMut};

/// Cosines and sines of every position, `[max_positions, rotary_dim / 2]`.
#[derive(Clone, Debug)]
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl RopeTable {
    /// The table of `inv_freq`, `[rotary_dim / 2]` in radians per position, computed in f64.
    pub fn new(inv_freq: &[f64], max_positions: usize) -> Self {
        Self::scaled(inv_freq, max_positions, 1.0)
    }

    /// As [`RopeTable::new`], with cosines and sines times `factor` (YaRN's attention factor).
    pub fn scaled(inv_freq: &[f64], max_positions: usize, factor: f64) -> Self {
        let angles = || (0..max_positions).flat_map(|p| inv_freq.iter().map(move |f| p as f64 * f));
        Self {
            cos: angles().map(|a| (a.cos() * factor) as f32).collect(),
            sin: angles().map(|a| (a.sin() * factor) as f32).collect(),
            half: inv_freq.len(),
        }
    }

    /// Positions it covers.
    pub fn max_positions(&self) -> usize {
        self.cos.len().checked_div(self.half).unwrap_or(0)
    }
}

/// Rotates the first `num_heads` heads of each row in place by the row's position, `[num_rows]`.
///
/// Dimension `i` is paired with `i + rotary_dim / 2`; dimensions past `rotary_dim` stay.
///
/// # Errors
/// [`KernelError`] if `x` is too short, a position lies outside the table, or a head is narrower than the rotation.
pub fn rope(
    _pool: &Pool,
    x: RowsMut<'_>,
    positions: &[u32],
    num_heads: usize,
    head_dim: usize,
    table: &RopeTable,
) -> Result<(), KernelError> {
    x.check("x", positions.len(), num_heads * head_dim)?;
    let half = table.half;
    ensure(2 * half <= head_dim, || {
        format!("a rotation of {} dimensions does not fit a head of {head_dim}", 2 * half)
    })?;
    if let Some(position) = positions.iter().find(|&&p| p as usize >= table.max_positions()) {
        let max = table.max_positions();
        return Err(KernelError::Invalid(format!(
            "position {position} lies outside a table of {max} positions"
        )));
    }
    for (i, &position) in positions.iter().enumerate() {
        let (cos, sin) = (&table.cos[position as usize * half..], &table.sin[position as usize * half..]);
        for head in 0..num_heads {
            let head = &mut x.data[i * x.stride + x.column + head * head_dim..][..2 * half];
            let (low, high) = head.split_at_mut(half);
            for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
            }
        }
    }
    Ok(())
}
