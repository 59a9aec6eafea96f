//! Rows out of a table, and their gradients back into it.

use super::{Shared, for_chunks, rows_per_task};
use crate::{PackedLinear, Pool, embed};

/// `out[i] = table[ids[i]]`, rows of `width`.
///
/// # Panics
/// If an id is not in the table or the lengths do not fit.
pub fn gather_rows(pool: &Pool, table: &[f32], width: usize, ids: &[u32], out: &mut [f32]) {
    assert_eq!(out.len(), ids.len() * width, "one row per id");
    let shared = Shared::new(out);
    for_chunks(pool, ids.len(), rows_per_task(width), |first, last| {
        // SAFETY: chunks are disjoint.
        let out = unsafe { shared.part(first * width, last * width) };
        for (out, id) in out.chunks_exact_mut(width).zip(&ids[first..last]) {
            out.copy_from_slice(&table[*id as usize * width..][..width]);
        }
    });
}

/// `out[i]` = output `ids[i]` of packed weights, widened.
///
/// # Panics
/// If an id is not in the table or the lengths do not fit.
pub fn gather_packed(pool: &Pool, table: &PackedLinear, ids: &[u32], out: &mut [f32]) {
    let gathered = embed(pool, table, ids, out);
    assert!(gathered.is_ok(), "{gathered:?}");
}

/// `table[ids[i]] += rows[i]`; an id may repeat. Tasks share columns, not rows, so that sums keep the order of `ids`.
///
/// # Panics
/// If an id is not in the table or the lengths do not fit.
pub fn scatter_add_rows(pool: &Pool, rows: &[f32], width: usize, ids: &[u32], table: &mut [f32]) {
    assert_eq!(rows.len(), ids.len() * width, "one row per id");
    let shared = Shared::new(table);
    for_chunks(pool, width, 64, |first, last| {
        for (row, id) in rows.chunks_exact(width).zip(ids) {
            let from = *id as usize * width;
            // SAFETY: column ranges are disjoint, and within a task parts do not outlive the loop's body.
            let into = unsafe { shared.part(from + first, from + last) };
            for (into, value) in into.iter_mut().zip(&row[first..last]) {
                *into += value;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::numbers;
    use super::*;

    #[test]
    fn scatter_is_the_transpose_of_gather() {
        let pool = Pool::new(2).unwrap();
        let (width, ids) = (70, [3u32, 1, 3, 0]);
        let table = numbers(1, 5 * width);
        let mut out = vec![0.0; ids.len() * width];
        gather_rows(&pool, &table, width, &ids, &mut out);
        assert_eq!(out[2 * width..3 * width], table[3 * width..4 * width]);
        let mut grad = vec![0.0; table.len()];
        scatter_add_rows(&pool, &out, width, &ids, &mut grad);
        for column in 0..width {
            assert_eq!(grad[3 * width + column], 2.0 * table[3 * width + column]);
            assert_eq!(grad[2 * width + column], 0.0);
        }
    }
}
