//! Rotary position embedding: Su et al. 2021 (arXiv:2104.09864), with the halves of a head as the pairs. Leaves the
//! choice of frequencies to the model.

use crate::error::ensure;
use crate::rows::for_each_strided_row;
use crate::simd::{Op, Simd, dispatch};
use crate::{KernelError, Pool, RowsMut};

/// Values below which a second thread costs more than it brings.
const PARALLEL_VALUES: usize = 1 << 16;

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
    pool: &Pool,
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
    let width = num_heads * head_dim;
    let parallel = positions.len() * width > PARALLEL_VALUES;
    for_each_strided_row(pool, parallel, x, (positions.len(), width), |i, row| {
        let start = positions[i] as usize * half;
        let (cos, sin) = (&table.cos[start..][..half], &table.sin[start..][..half]);
        dispatch(pool.isa(), Rotate { row, head_dim, cos, sin });
    });
    Ok(())
}

/// Rotates the heads of one row.
struct Rotate<'a> {
    row: &'a mut [f32],
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Op for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let half = self.cos.len();
        for head in self.row.chunks_exact_mut(self.head_dim) {
            let (low, high) = head[..2 * half].split_at_mut(half);
            for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(self.cos).zip(self.sin) {
                (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn pairs_of_half_a_head_turn_by_position_times_frequency() {
        // Three heads of 40, of which 36 dimensions turn and the third head does not; rows have other columns too.
        let (head_dim, half, stride) = (40, 18, 125);
        let inv_freq: Vec<f64> = (0..half).map(|i| 0.9f64.powi(i as i32)).collect();
        let table = RopeTable::scaled(&inv_freq, 5000, 1.25);
        let positions = [0, 7, 4999];
        let before: Vec<f32> = (0..3 * stride).map(|i| (i as f32 * 0.37).sin()).collect();
        for isa in Isa::supported() {
            let pool = Pool::with_isa(2, isa).unwrap();
            let mut x = before.clone();
            rope(&pool, RowsMut { data: &mut x, stride, column: 3 }, &positions, 2, head_dim, &table)
                .unwrap();
            for (i, (&x, &old)) in x.iter().zip(&before).enumerate() {
                let (row, column) = (i / stride, (i % stride) as i64 - 3);
                let (head, d) =
                    (column.div_euclid(head_dim as i64), column.rem_euclid(head_dim as i64) as usize);
                let expected = if !(0..2).contains(&head) || d >= 2 * half {
                    f64::from(old)
                } else {
                    let angle = f64::from(positions[row]) * inv_freq[d % half];
                    let (partner, sign) = if d < half { (i + half, -1.0) } else { (i - half, 1.0) };
                    1.25 * (f64::from(old) * angle.cos() + sign * f64::from(before[partner]) * angle.sin())
                };
                assert!((f64::from(x) - expected).abs() < 1e-6, "{isa:?} row {row} column {column}");
            }
        }
    }

    #[test]
    fn positions_outside_the_table_are_refused() {
        let (pool, table) = (Pool::new(1).unwrap(), RopeTable::new(&[1.0, 0.5], 10));
        let error = rope(&pool, RowsMut::new(&mut [0.0; 4], 4), &[10], 1, 4, &table).unwrap_err();
        assert_eq!(error.to_string(), "position 10 lies outside a table of 10 positions");
        let error = rope(&pool, RowsMut::new(&mut [0.0; 2], 2), &[1], 1, 2, &table).unwrap_err();
        assert_eq!(error.to_string(), "a rotation of 4 dimensions does not fit a head of 2");
    }
}
