//! The embedding: rows of packed weights by their number. Leaves where a row lies to `linear`.

use crate::error::check_len;
use crate::rows::for_each_chunk;
use crate::{KernelError, PackedLinear, Pool};

/// Rows of a task.
const ROWS: usize = 32;

/// `out[i] = table[ids[i]]` as f32: `table` is `[vocab_size, width]`, `out` `[ids.len(), width]`.
///
/// # Errors
/// [`KernelError`] if an id is not in the table or `out` has another length.
pub fn embed(pool: &Pool, table: &PackedLinear, ids: &[u32], out: &mut [f32]) -> Result<(), KernelError> {
    let (vocab_size, width) = (table.out_features(), table.in_features());
    check_len("out", out.len(), ids.len() * width)?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
        return Err(KernelError::Invalid(format!("token {id} lies outside a vocabulary of {vocab_size}")));
    }
    for_each_chunk(pool, true, out, ROWS * width, |task, rows| {
        for (&id, row) in ids[task * ROWS..].iter().zip(rows.chunks_exact_mut(width)) {
            table.write_row(id as usize, row);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Values, WeightDtype};

    #[test]
    fn rows_are_those_of_the_table() {
        let (pool, width) = (Pool::new(2).unwrap(), 5);
        let table: Vec<f32> = (0..40 * width).map(|i| i as f32).collect();
        let packed = PackedLinear::pack(&pool, &[Values::F32(&table)], width, WeightDtype::F32).unwrap();
        let ids: Vec<u32> = (0..100).map(|i| i * 7 % 40).collect();
        let mut out = vec![f32::NAN; ids.len() * width];
        embed(&pool, &packed, &ids, &mut out).unwrap();
        for (id, row) in ids.iter().zip(out.chunks(width)) {
            assert_eq!(row, &table[*id as usize * width..][..width]);
        }
        let error = embed(&pool, &packed, &[3, 40], &mut out[..2 * width]).unwrap_err();
        assert_eq!(error.to_string(), "token 40 lies outside a vocabulary of 40");
        let error = embed(&pool, &packed, &[3], &mut out).unwrap_err();
        assert_eq!(error.to_string(), "out holds 500 values but 5 are needed");
    }
}
