//! Rotary position embedding on heads of fused rows, and its inverse, which is its gradient (Su et al. 2021,
//! arXiv:2104.09864; halves paired as in Hugging Face's `rotate_half`).

use super::norm::HeadLayout;
use super::simd::{fma, multiversion};
use super::{Shared, for_chunks, rows_per_task};
use crate::Pool;

/// Rotates the heads of `x` in place by the angles of `positions`, one per row; backwards if `inverse`.
///
/// `table` is `(cos, sin)`, each `[max_positions, rotary / 2]`; only the first `rotary` elements of a head turn.
///
/// # Panics
/// If the lengths do not fit or a position is not in the table.
pub fn rope(
    pool: &Pool,
    layout: HeadLayout,
    x: &mut [f32],
    positions: &[u32],
    (cos, sin): (&[f32], &[f32]),
    half: usize,
    inverse: bool,
) {
    layout.check();
    let HeadLayout { stride, column, num_heads, head_dim } = layout;
    assert!(
        x.len() == positions.len() * stride && 2 * half <= head_dim && cos.len() == sin.len(),
        "rope shapes"
    );
    let shared = Shared::new(x);
    for_chunks(pool, positions.len(), rows_per_task(num_heads * head_dim), |first, last| {
        for (row, position) in (first..last).zip(&positions[first..last]) {
            let angle = *position as usize * half;
            let (cos, sin) = (&cos[angle..angle + half], &sin[angle..angle + half]);
            let from = row * stride + column;
            // SAFETY: rows are disjoint.
            let heads = unsafe { shared.part(from, from + num_heads * head_dim) };
            rotate_heads(heads, head_dim, cos, sin, inverse);
        }
    });
}

multiversion! { fn rotate_heads(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], inverse: bool) = rotate_body }

#[inline(always)]
fn rotate_body<const FMA: bool>(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], inverse: bool) {
    let half = cos.len();
    let sign = if inverse { -1.0 } else { 1.0 };
    for head in heads.chunks_exact_mut(head_dim) {
        let (low, high) = head[..2 * half].split_at_mut(half);
        for i in 0..half {
            let (a, b, c, s) = (low[i], high[i], cos[i], sign * sin[i]);
            low[i] = fma::<FMA>(a, c, -b * s);
            high[i] = fma::<FMA>(b, c, a * s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::numbers;
    use super::*;

    #[test]
    fn the_inverse_undoes_and_other_columns_stay() {
        let pool = Pool::new(2).unwrap();
        let layout = HeadLayout { stride: 20, column: 0, num_heads: 2, head_dim: 8 };
        let angles: Vec<f32> = (0..10 * 4).map(|i| (i / 4) as f32 * 0.3 / (1 + i % 4) as f32).collect();
        let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
        let start = numbers(1, 3 * 20);
        let mut x = start.clone();
        rope(&pool, layout, &mut x, &[0, 4, 9], (&cos, &sin), 4, false);
        assert_eq!(x[..16], start[..16], "position 0 does not turn");
        assert_eq!(x[36..40], start[36..40], "values do not turn");
        let (a, b) = (start[20], start[24]);
        assert!((x[20] - (a * cos[16] - b * sin[16])).abs() < 1e-6);
        assert!((x[24] - (b * cos[16] + a * sin[16])).abs() < 1e-6);
        rope(&pool, layout, &mut x, &[0, 4, 9], (&cos, &sin), 4, true);
        for (got, want) in x.iter().zip(&start) {
            assert!((got - want).abs() < 1e-5);
        }
    }
}
