//! Disentangled attention (He et al. 2020, arXiv:2006.03654, Eq. 4): beside what they hold, tokens meet each other by how
//! far apart they are, through keys and queries of distances. Leaves projections to `forward`.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rectify_kernels::{self as kernels, Epilogue, PackedLinear, Pool, Rows, RowsMut, Values, WeightDtype};

use crate::model::backend::Result;
use crate::model::cpu::refused;
use crate::model::cpu_tensor::CpuTensor;

/// Rows of scores of a task.
const ROWS: usize = 16;

/// How distances are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Distances {
    /// Buckets on each side; distances up to half of them have their own, larger ones share by their logarithm. `None` is
    /// one for each distance.
    pub(super) buckets: Option<usize>,
    /// Largest distance that is told from larger ones.
    pub(super) max: usize,
}

impl Distances {
    /// Rows of the embedding on each side of distance zero.
    pub(super) fn span(&self) -> usize {
        self.buckets.unwrap_or(self.max)
    }

    /// Row of the embedding, `[2 · span]`, for a key `distance` tokens before its query.
    pub(super) fn row(&self, distance: i32) -> usize {
        let bucket = self.buckets.map_or(distance, |buckets| self.bucket(distance, buckets as i32));
        let span = self.span() as i32;
        (bucket + span).clamp(0, 2 * span - 1) as usize
    }

    /// In single precision, as PyTorch rounds it.
    fn bucket(&self, distance: i32, buckets: i32) -> i32 {
        let middle = buckets / 2;
        let far = distance.abs();
        if far <= middle {
            return distance;
        }
        let half = middle as f32;
        let share = (far as f32 / half).ln() / ((self.max as f32 - 1.0) / half).ln();
        let bucket = (share * (half - 1.0)).ceil() as i32 + middle;
        bucket * distance.signum()
    }
}

/// Keys and queries of distances of one layer, by head `[2 · span, head_dim]`.
#[derive(Debug)]
pub(super) struct Relative {
    pub(super) distances: Distances,
    /// What queries meet; `None` if they do not.
    pub(super) keys: Option<Vec<PackedLinear>>,
    /// What keys meet; `None` if they do not.
    pub(super) queries: Option<Vec<PackedLinear>>,
}

impl Relative {
    /// Attention of one text, of the rows `text` of `qkv` `[_, 3 · num_heads · head_dim]`; the same rows of `out` get it.
    pub(super) fn attend(
        &self,
        pool: &Pool,
        qkv: &CpuTensor,
        text: Range<usize>,
        head_dim: usize,
        out: &mut CpuTensor,
    ) -> Result<()> {
        let (len, width) = (text.len(), out.width);
        let rows = &qkv.as_slice()[text.start * qkv.width..text.end * qkv.width];
        let span = 2 * self.distances.span();
        // By distance from `1 − len` to `len − 1`.
        let places: Vec<usize> =
            (1 - len as i32..len as i32).map(|distance| self.distances.row(distance)).collect();
        let terms = 1 + usize::from(self.keys.is_some()) + usize::from(self.queries.is_some());
        let scale = ((head_dim * terms) as f32).sqrt().recip();
        let mut scores = vec![0.0; len * len];
        let [mut of_queries, mut of_keys] =
            [&self.keys, &self.queries].map(|side| vec![0.0; if side.is_some() { len * span } else { 0 }]);
        for head in 0..width / head_dim {
            let part = |which: usize| Rows {
                data: rows,
                stride: qkv.width,
                column: which * width + head * head_dim,
            };
            let [q, k, v] = [0, 1, 2].map(part);
            let keys = pack(pool, k, len, head_dim, false)?;
            multiply(pool, q, len, &keys, RowsMut::new(&mut scores, len))?;
            if let Some(keys) = self.keys.as_ref().and_then(|keys| keys.get(head)) {
                multiply(pool, q, len, keys, RowsMut::new(&mut of_queries, span))?;
            }
            if let Some(queries) = self.queries.as_ref().and_then(|queries| queries.get(head)) {
                multiply(pool, k, len, queries, RowsMut::new(&mut of_keys, span))?;
            }
            let chunks: Vec<_> = scores.chunks_mut(ROWS * len).map(Mutex::new).collect();
            pool.run(chunks.len(), |task| {
                let mut chunk = chunks[task].lock().unwrap_or_else(PoisonError::into_inner);
                for (i, row) in (task * ROWS..).zip(chunk.chunks_mut(len)) {
                    // The distance to key `j` is `i − j`.
                    let places = places[i..i + len].iter().rev();
                    for (j, (score, &place)) in row.iter_mut().zip(places).enumerate() {
                        let by_query = of_queries.get(i * span + place).copied().unwrap_or(0.0);
                        let by_key = of_keys.get(j * span + place).copied().unwrap_or(0.0);
                        *score += by_query + by_key;
                    }
                    softmax(row, scale);
                }
            });
            drop(chunks);
            let values = pack(pool, v, len, head_dim, true)?;
            let into = &mut out.as_mut_slice()[text.start * width..text.end * width];
            let into = RowsMut { data: into, stride: width, column: head * head_dim };
            multiply(pool, Rows::new(&scores, len), len, &values, into)?;
        }
        Ok(())
    }
}

/// `exp(scale · row)`, made to sum to one.
fn softmax(row: &mut [f32], scale: f32) {
    let max = kernels::max(row) * scale;
    row.iter_mut().for_each(|x| *x = (*x * scale - max).exp());
    let inverse = kernels::sum(row).recip();
    row.iter_mut().for_each(|x| *x *= inverse);
}

fn multiply(pool: &Pool, x: Rows<'_>, len: usize, weight: &PackedLinear, out: RowsMut<'_>) -> Result<()> {
    kernels::linear(pool, x, len, weight, &Epilogue::default(), out).map_err(refused)
}

/// Rows of one head as the matrix of a product: `[len, head_dim]`, or the other way round.
fn pack(pool: &Pool, rows: Rows<'_>, len: usize, head_dim: usize, transposed: bool) -> Result<PackedLinear> {
    let row = |i: usize| &rows.data[i * rows.stride + rows.column..][..head_dim];
    let values: Vec<f32> = match transposed {
        false => (0..len).flat_map(row).copied().collect(),
        true => (0..head_dim).flat_map(|d| (0..len).map(move |i| (i, d))).map(|(i, d)| row(i)[d]).collect(),
    };
    let in_features = if transposed { len } else { head_dim };
    PackedLinear::pack(pool, &[Values::F32(&values)], in_features, WeightDtype::F32).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_distances_have_their_own_row_and_far_ones_share() {
        let distances = Distances { buckets: Some(8), max: 32 };
        let rows = [-40, -31, -5, -4, -1, 0, 1, 4, 5, 6, 9, 10, 31, 40].map(|d| distances.row(d));
        // `make_log_bucket_position(d, 8, 32) + 8` of transformers, cut to 0..=15.
        assert_eq!(rows, [0, 1, 3, 4, 7, 8, 9, 12, 13, 13, 14, 14, 15, 15]);
        let plain = Distances { buckets: None, max: 4 };
        assert_eq!([-9, -4, 0, 3, 9].map(|d| plain.row(d)), [0, 0, 4, 7, 7]);
    }
}
