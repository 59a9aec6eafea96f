//! Weights in the layout the kernels read. Leaves the product to its siblings.

use std::ops::Range;

use half::bf16;

use crate::buffer::Buffer;
use crate::error::{check_len, ensure};
use crate::rows::for_each_chunk;
use crate::simd::LANES;
use crate::{KernelError, Pool};

/// Words of a row that are packed at a time.
const PACK_BLOCK: usize = 64;

/// How weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightDtype {
    /// Single precision.
    F32,
    /// bfloat16.
    Bf16,
}

/// Numbers as a checkpoint stores them.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
}

impl Values<'_> {
    /// How many.
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Values `range`.
    fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::F32(values) => Self::F32(&values[range]),
            Self::Bf16(values) => Self::Bf16(&values[range]),
        }
    }
}

/// A matrix `[out_features, in_features]`, packed: tiles of 16 outputs, in each the inputs in order, in each (or, for
/// bf16, in each pair of inputs) the 16 outputs side by side. Missing outputs and inputs of the last tile are zero.
#[derive(Clone, Debug)]
pub struct PackedLinear {
    out_features: usize,
    in_features: usize,
    storage: Storage,
}

/// Packed numbers.
#[derive(Clone, Debug)]
pub(crate) enum Storage {
    /// `[out / 16][in][16]`, as bits.
    F32(Buffer<u32>),
    /// `[out / 16][in / 2][16]`, the even input in the low half of each word.
    Bf16(Buffer<u32>),
}

impl PackedLinear {
    /// Packs `parts`, each `[_, in_features]` row-major, stacked along the output.
    ///
    /// # Errors
    /// [`KernelError::Invalid`] if `in_features` is zero or a part is not whole rows.
    pub fn pack(
        pool: &Pool,
        parts: &[Values<'_>],
        in_features: usize,
        dtype: WeightDtype,
    ) -> Result<Self, KernelError> {
        ensure(in_features > 0, || "a matrix needs at least one input".to_owned())?;
        let mut rows = Vec::new();
        for (p, part) in parts.iter().enumerate() {
            ensure(part.len().is_multiple_of(in_features), || {
                format!("part {p} holds {} values, which are not whole rows of {in_features}", part.len())
            })?;
            rows.extend(
                (0..part.len() / in_features).map(|i| part.slice(i * in_features..(i + 1) * in_features)),
            );
        }
        let out_features = rows.len();
        let depth = match dtype {
            WeightDtype::F32 => in_features,
            WeightDtype::Bf16 => in_features.div_ceil(2),
        };
        let mut words = Buffer::streamed(out_features.div_ceil(LANES) * depth * LANES);
        for_each_chunk(pool, true, &mut words, depth * LANES, |tile, words| {
            let rows = &rows[tile * LANES..out_features.min((tile + 1) * LANES)];
            // In blocks that stay in the first-level cache while all rows are put side by side.
            for (block, words) in words.chunks_mut(PACK_BLOCK * LANES).enumerate() {
                for (lane, row) in rows.iter().enumerate() {
                    put(row, dtype, block * PACK_BLOCK, &mut words[lane..]);
                }
            }
        });
        let storage = match dtype {
            WeightDtype::F32 => Storage::F32(words),
            WeightDtype::Bf16 => Storage::Bf16(words),
        };
        Ok(Self { out_features, in_features, storage })
    }

    /// Outputs.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Inputs.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// How the weights are kept.
    pub fn dtype(&self) -> WeightDtype {
        match self.storage {
            Storage::F32(_) => WeightDtype::F32,
            Storage::Bf16(_) => WeightDtype::Bf16,
        }
    }

    /// Memory of the weights.
    pub fn num_bytes(&self) -> usize {
        match &self.storage {
            Storage::F32(data) => size_of_val(&**data),
            Storage::Bf16(data) => size_of_val(&**data),
        }
    }

    /// Writes the weights of output `index`, `[in_features]`: the row of an embedding.
    ///
    /// # Errors
    /// [`KernelError`] if there is no such output or `out` has another length.
    pub fn row(&self, index: usize, out: &mut [f32]) -> Result<(), KernelError> {
        check_len("row", out.len(), self.in_features)?;
        ensure(index < self.out_features, || {
            format!("row {index} of a matrix of {} rows was asked for", self.out_features)
        })?;
        let (tile, lane) = (index / LANES, index % LANES);
        match &self.storage {
            Storage::F32(data) => {
                let tile = &data[tile * self.in_features * LANES..];
                out.iter_mut()
                    .zip(tile.chunks_exact(LANES))
                    .for_each(|(out, lanes)| *out = f32::from_bits(lanes[lane]));
            }
            Storage::Bf16(data) => {
                let tile = &data[tile * self.in_features.div_ceil(2) * LANES..];
                for (out, lanes) in out.chunks_mut(2).zip(tile.chunks_exact(LANES)) {
                    out[0] = f32::from_bits(lanes[lane] << 16);
                    if let Some(odd) = out.get_mut(1) {
                        *odd = f32::from_bits(lanes[lane] & 0xffff_0000);
                    }
                }
            }
        }
        Ok(())
    }

    /// The matrix, `[out_features, in_features]` row-major.
    pub fn unpack(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.out_features * self.in_features];
        for (index, row) in out.chunks_mut(self.in_features).enumerate() {
            // Both the index and the length are right by construction.
            let _ = self.row(index, row);
        }
        out
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }
}

/// Writes the words of a row from word `first` on, one in every sixteen of `out`.
fn put(row: &Values<'_>, dtype: WeightDtype, first: usize, out: &mut [u32]) {
    let out = out.iter_mut().step_by(LANES);
    let pair = |low: bf16, high: bf16| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
    match (row, dtype) {
        (Values::F32(row), WeightDtype::F32) => {
            out.zip(&row[first..]).for_each(|(out, x)| *out = x.to_bits());
        }
        (Values::Bf16(row), WeightDtype::F32) => {
            out.zip(&row[first..]).for_each(|(out, x)| *out = x.to_f32().to_bits());
        }
        (Values::F32(row), WeightDtype::Bf16) => {
            out.zip(row[2 * first..].chunks(2)).for_each(|(out, x)| {
                *out = pair(bf16::from_f32(x[0]), bf16::from_f32(x.get(1).copied().unwrap_or(0.0)));
            });
        }
        (Values::Bf16(row), WeightDtype::Bf16) => {
            out.zip(row[2 * first..].chunks(2)).for_each(|(out, x)| {
                *out = pair(x[0], x.get(1).copied().unwrap_or(bf16::ZERO));
            });
        }
    }
}
