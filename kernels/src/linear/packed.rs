//! Weights in the layout the kernels read. Leaves the product to its siblings.

use std::ops::Range;
use std::sync::OnceLock;

use half::bf16;

use super::quant;
use crate::buffer::Buffer;
use crate::error::{check_len, ensure};
use crate::rows::for_each_chunk;
use crate::simd::LANES;
use crate::{KernelError, Pool};

/// Words of a row that are packed at a time.
const PACK_BLOCK: usize = 64;

/// How weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightDtype {
    /// Single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// Eight bits: blocks of 64 inputs share a scale, by their largest magnitude.
    Int8,
    /// 4-bit NormalFloat: as [`WeightDtype::Int8`], with the sixteen values of QLoRA (Dettmers et al. 2023,
    /// arXiv:2305.14314).
    Nf4,
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

    /// All of them, `out.len()`, in single precision.
    fn read(&self, out: &mut [f32]) {
        match self {
            Self::F32(values) => out.copy_from_slice(values),
            Self::Bf16(values) => out.iter_mut().zip(*values).for_each(|(out, x)| *out = x.to_f32()),
        }
    }
}

/// A matrix `[out_features, in_features]`, packed: tiles of 16 outputs, in each the inputs in order, in each (or, for
/// bf16 and 4 bits, in each pair of inputs) the 16 outputs side by side. Missing outputs and inputs of the last tile
/// are zero.
#[derive(Clone, Debug)]
pub struct PackedLinear {
    out_features: usize,
    in_features: usize,
    storage: Storage,
    /// See [`PackedLinear::magnitude`].
    pub(super) largest: OnceLock<u32>,
}

/// Packed numbers.
#[derive(Clone, Debug)]
pub(crate) enum Storage {
    /// `[out / 16][in][16]`, as bits.
    F32(Buffer<u32>),
    /// `[out / 16][in / 2][16]`, the even input in the low half of each word.
    Bf16(Buffer<u32>),
    /// Codes `[out / 16][in][16]` and scales `[out / 16][in / 64][16]`.
    Int8(Quantised),
    /// Codes `[out / 16][in / 2][16]`, the even input in the low half of each byte, and scales as of eight bits.
    Nf4(Quantised),
}

/// Codes of values and what they are multiples of.
#[derive(Clone, Debug)]
pub(crate) struct Quantised {
    pub(crate) codes: Buffer<u8>,
    pub(crate) scales: Buffer<f32>,
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
        let storage = match dtype {
            WeightDtype::F32 => Storage::F32(pack_words(pool, &rows, dtype, in_features)),
            WeightDtype::Bf16 => Storage::Bf16(pack_words(pool, &rows, dtype, in_features.div_ceil(2))),
            WeightDtype::Int8 => Storage::Int8(quantise(pool, &rows, in_features, 1)),
            WeightDtype::Nf4 => Storage::Nf4(quantise(pool, &rows, in_features, 2)),
        };
        Ok(Self { out_features, in_features, storage, largest: OnceLock::new() })
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
            Storage::Int8(_) => WeightDtype::Int8,
            Storage::Nf4(_) => WeightDtype::Nf4,
        }
    }

    /// Memory of the weights.
    pub fn num_bytes(&self) -> usize {
        match &self.storage {
            Storage::F32(data) | Storage::Bf16(data) => size_of_val(&**data),
            Storage::Int8(data) | Storage::Nf4(data) => {
                size_of_val(&*data.codes) + size_of_val(&*data.scales)
            }
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
            Storage::Int8(_) | Storage::Nf4(_) => {
                let mut step = [0.0; LANES];
                for (k, out) in out.iter_mut().enumerate() {
                    self.storage.dequantise(self.in_features, tile, k, &mut step);
                    *out = step[lane];
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

impl Storage {
    /// Input `k` of the outputs of tile `tile`, of quantised weights; others are words, and read as such.
    #[inline(always)]
    pub(crate) fn dequantise(&self, in_features: usize, tile: usize, k: usize, out: &mut [f32; LANES]) {
        let (data, per_byte) = match self {
            Self::Int8(data) => (data, 1),
            Self::Nf4(data) => (data, 2),
            Self::F32(_) | Self::Bf16(_) => return,
        };
        let at = (tile * in_features.div_ceil(per_byte) + k / per_byte) * LANES;
        let scales_at = (tile * in_features.div_ceil(quant::BLOCK) + k / quant::BLOCK) * LANES;
        let (codes, scales) = (&data.codes[at..at + LANES], &data.scales[scales_at..scales_at + LANES]);
        for lane in 0..LANES {
            let value = match per_byte {
                1 => f32::from(codes[lane].cast_signed()),
                _ => quant::NF4[usize::from(codes[lane] >> (4 * (k % 2)) & 15)],
            };
            out[lane] = value * scales[lane];
        }
    }
}

/// Packs rows as words, `depth` of them each.
fn pack_words(pool: &Pool, rows: &[Values<'_>], dtype: WeightDtype, depth: usize) -> Buffer<u32> {
    let mut words = Buffer::streamed(rows.len().div_ceil(LANES) * depth * LANES);
    for_each_chunk(pool, true, &mut words, depth * LANES, |tile, words| {
        let rows = &rows[tile * LANES..rows.len().min((tile + 1) * LANES)];
        // In blocks that stay in the first-level cache while all rows are put side by side.
        for (block, words) in words.chunks_mut(PACK_BLOCK * LANES).enumerate() {
            for (lane, row) in rows.iter().enumerate() {
                put(row, dtype, block * PACK_BLOCK, &mut words[lane..]);
            }
        }
    });
    words
}

/// Packs rows as codes of 8 or, two to a byte, of 4 bits.
fn quantise(pool: &Pool, rows: &[Values<'_>], in_features: usize, per_byte: usize) -> Quantised {
    let (tiles, blocks) = (rows.len().div_ceil(LANES), in_features.div_ceil(quant::BLOCK));
    let tile_rows = |tile: usize| &rows[tile * LANES..rows.len().min((tile + 1) * LANES)];
    let block_of = |block: usize| block * quant::BLOCK..in_features.min((block + 1) * quant::BLOCK);
    let mut scales = Buffer::zeroed(tiles * blocks * LANES);
    for_each_chunk(pool, true, &mut scales, blocks * LANES, |tile, scales| {
        let mut values = [0.0; quant::BLOCK];
        for (lane, row) in tile_rows(tile).iter().enumerate() {
            for block in 0..blocks {
                let values = &mut values[..block_of(block).len()];
                row.slice(block_of(block)).read(values);
                scales[block * LANES + lane] = match per_byte {
                    1 => quant::int8_scale(values),
                    _ => quant::nf4_scale(values),
                };
            }
        }
    });
    let depth = in_features.div_ceil(per_byte);
    let mut codes = Buffer::streamed(tiles * depth * LANES);
    for_each_chunk(pool, true, &mut codes, depth * LANES, |tile, codes| {
        let scales = &scales[tile * blocks * LANES..];
        let mut values = vec![0.0; in_features];
        for (lane, row) in tile_rows(tile).iter().enumerate() {
            row.read(&mut values);
            for (k, value) in values.iter().enumerate() {
                let scale = scales[k / quant::BLOCK * LANES + lane];
                codes[k / per_byte * LANES + lane] |= match per_byte {
                    1 => quant::int8_code(*value, scale),
                    _ => quant::nf4_code(*value, scale) << (4 * (k % 2)),
                };
            }
        }
    });
    Quantised { codes, scales }
}

/// Writes the words of a row (f32, or else pairs of bf16) from word `first` on, one in every sixteen of `out`.
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
        (Values::F32(row), _) => {
            out.zip(row[2 * first..].chunks(2)).for_each(|(out, x)| {
                *out = pair(bf16::from_f32(x[0]), bf16::from_f32(x.get(1).copied().unwrap_or(0.0)));
            });
        }
        (Values::Bf16(row), _) => {
            out.zip(row[2 * first..].chunks(2)).for_each(|(out, x)| {
                *out = pair(x[0], x.get(1).copied().unwrap_or(bf16::ZERO));
            });
        }
    }
}
