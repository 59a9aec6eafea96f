//! Weights in the layout the kernels read. Leaves filling it to `pack`, and the product to its siblings.

use std::sync::OnceLock;

use half::{bf16, f16};

use super::coded::{Coded, Form};
use super::pack::Stored;
use super::quant;
use super::source::{Source, Values};
use crate::buffer::Buffer;
use crate::error::ensure;
use crate::simd::LANES;
use crate::{KernelError, Pool};

/// How weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightDtype {
    /// Single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// Half precision. Where the machine multiplies it twice as fast as f32, activations are rounded to it too, and 64
    /// products of every other input are summed in it, these sums in f32: see [`super::linear`].
    F16,
    /// Eight bits: blocks of 128 inputs share a scale, by their largest magnitude (of 64, where the last of 128 would lack half).
    /// Products round activations to eight bits too.
    Int8,
    /// 4-bit NormalFloat: blocks of 64, with the sixteen values of QLoRA (Dettmers et al. 2023,
    /// arXiv:2305.14314). Products do not round activations.
    Nf4,
    /// The blocks of a GGUF file as they are, each part in its own kind; products as with [`WeightDtype::Int8`]. Parts
    /// that are not in blocks are kept in their own precision.
    Blocks,
}

/// A matrix `[out_features, in_features]`, packed: tiles of 16 outputs, in each the inputs in order, in each (or, for
/// two bytes and NF4, in each pair of inputs, and of codes, in each four) the 16 outputs side by side. Missing outputs and
/// inputs of the last tile are zero.
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
    /// `[out / 16][in / 2][16]`, the even input in the low half of each word.
    F16(Buffer<u32>),
    /// Codes of integers, by which activations are multiplied as bytes, and what the matrix was made as.
    Coded(Coded, WeightDtype),
    /// Codes `[out / 16][in / 2][16]`, the even input in the low half of each byte, and scales `[out / 16][in / 64][16]`.
    Nf4(Quantised),
    /// Matrices one below the other, of several kinds; all but the last have whole tiles.
    Stacked(Vec<PackedLinear>),
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
    /// [`KernelError::Invalid`] if `in_features` is zero or a part is not whole rows, [`KernelError::Read`] if one cannot be
    /// read.
    pub fn pack<S: Source>(
        pool: &Pool,
        parts: &[S],
        in_features: usize,
        dtype: WeightDtype,
    ) -> Result<Self, KernelError> {
        let parts: Vec<&dyn Source> = parts.iter().map(|part| part as &dyn Source).collect();
        if dtype == WeightDtype::Blocks {
            Self::stack(pool, &parts, in_features)
        } else {
            Self::pack_as(pool, &parts, in_features, dtype)
        }
    }

    /// All parts as numbers of one kind.
    fn pack_as(
        pool: &Pool,
        parts: &[&dyn Source],
        in_features: usize,
        dtype: WeightDtype,
    ) -> Result<Self, KernelError> {
        let stored = Stored::new(parts, in_features)?;
        ensure(!parts.iter().any(|part| matches!(part.values(), Values::Blocks(..))), || {
            "weights in blocks are packed as they are, or read as numbers first".to_owned()
        })?;
        let storage = match dtype {
            WeightDtype::F32 => Storage::F32(stored.words(pool, dtype)?),
            WeightDtype::Bf16 => Storage::Bf16(stored.words(pool, dtype)?),
            WeightDtype::F16 => Storage::F16(stored.words(pool, dtype)?),
            WeightDtype::Nf4 => Storage::Nf4(stored.quantised(pool)?),
            WeightDtype::Int8 | WeightDtype::Blocks => {
                Storage::Coded(stored.coded(pool, Form::int8(in_features))?, dtype)
            }
        };
        Ok(Self::new(stored.num_rows(), in_features, storage))
    }

    /// Every part as it is; neighbours of the same kind together.
    fn stack(pool: &Pool, parts: &[&dyn Source], in_features: usize) -> Result<Self, KernelError> {
        let mut stack = Vec::new();
        for alike in parts.chunk_by(|one, another| one.values().is_alike(&another.values())) {
            stack.push(match alike[0].values() {
                Values::F32(_) => Self::pack_as(pool, alike, in_features, WeightDtype::F32)?,
                Values::Bf16(_) => Self::pack_as(pool, alike, in_features, WeightDtype::Bf16)?,
                Values::Blocks(kind, _) => {
                    ensure(in_features.is_multiple_of(kind.num_values()), || {
                        format!("rows of {in_features} are not whole blocks of {}", kind.num_values())
                    })?;
                    let stored = Stored::new(alike, in_features)?;
                    let coded = stored.coded(pool, kind.form())?;
                    Self::new(stored.num_rows(), in_features, Storage::Coded(coded, WeightDtype::Blocks))
                }
            });
        }
        if stack.len() == 1 {
            return Ok(stack.swap_remove(0));
        }
        let ragged = stack.iter().rev().skip(1).find(|part| !part.out_features.is_multiple_of(LANES));
        if let Some(part) = ragged {
            let message =
                format!("{} rows in blocks of their own kind are no multiple of {LANES}", part.out_features);
            return Err(KernelError::Invalid(message));
        }
        let out_features = stack.iter().map(|part| part.out_features).sum();
        Ok(Self::new(out_features, in_features, Storage::Stacked(stack)))
    }

    fn new(out_features: usize, in_features: usize, storage: Storage) -> Self {
        Self { out_features, in_features, storage, largest: OnceLock::new() }
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
            Storage::F16(_) => WeightDtype::F16,
            Storage::Coded(_, dtype) => dtype,
            Storage::Nf4(_) => WeightDtype::Nf4,
            Storage::Stacked(_) => WeightDtype::Blocks,
        }
    }

    /// Memory of the weights.
    pub fn num_bytes(&self) -> usize {
        match &self.storage {
            Storage::F32(data) | Storage::Bf16(data) | Storage::F16(data) => size_of_val(&**data),
            Storage::Coded(data, _) => data.num_bytes(),
            Storage::Nf4(data) => size_of_val(&*data.codes) + size_of_val(&*data.scales),
            Storage::Stacked(parts) => parts.iter().map(Self::num_bytes).sum(),
        }
    }

    /// Writes the weights of output `index`, of which there are more, as f32: `[in_features]`.
    pub(crate) fn write_row(&self, index: usize, out: &mut [f32]) {
        let (tile, lane) = (index / LANES, index % LANES);
        match &self.storage {
            Storage::F32(data) => {
                let tile = &data[tile * self.in_features * LANES..];
                out.iter_mut()
                    .zip(tile.chunks_exact(LANES))
                    .for_each(|(out, lanes)| *out = f32::from_bits(lanes[lane]));
            }
            Storage::Bf16(data) | Storage::F16(data) => {
                let is_half = matches!(self.storage, Storage::F16(_));
                let number = |bits| {
                    if is_half { f16::from_bits(bits).to_f32() } else { bf16::from_bits(bits).to_f32() }
                };
                let tile = &data[tile * self.in_features.div_ceil(2) * LANES..];
                for (out, lanes) in out.chunks_mut(2).zip(tile.chunks_exact(LANES)) {
                    out[0] = number(lanes[lane] as u16);
                    if let Some(odd) = out.get_mut(1) {
                        *odd = number((lanes[lane] >> 16) as u16);
                    }
                }
            }
            Storage::Coded(data, _) => data.row(index, out),
            Storage::Nf4(data) => {
                let mut step = [0.0; LANES];
                for (k, out) in out.iter_mut().enumerate() {
                    data.dequantise(self.in_features, tile, k, &mut step);
                    *out = step[lane];
                }
            }
            Storage::Stacked(parts) => {
                let (first, part) = part_of(parts, index);
                part.write_row(index - first, out);
            }
        }
    }

    /// The matrix, `[out_features, in_features]` row-major.
    pub fn unpack(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.out_features * self.in_features];
        for (index, row) in out.chunks_mut(self.in_features).enumerate() {
            self.write_row(index, row);
        }
        out
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }
}

/// The part of a stack that holds row `index`, and the first row of it.
pub(super) fn part_of(parts: &[PackedLinear], index: usize) -> (usize, &PackedLinear) {
    let mut first = 0;
    for part in &parts[..parts.len() - 1] {
        if index < first + part.out_features {
            return (first, part);
        }
        first += part.out_features;
    }
    (first, &parts[parts.len() - 1])
}

impl Quantised {
    /// Input `k` of the outputs of tile `tile`, of NF4.
    #[inline(always)]
    pub(super) fn dequantise(&self, in_features: usize, tile: usize, k: usize, out: &mut [f32; LANES]) {
        let at = (tile * in_features.div_ceil(2) + k / 2) * LANES;
        let scales_at = (tile * in_features.div_ceil(quant::BLOCK) + k / quant::BLOCK) * LANES;
        let (codes, scales) = (&self.codes[at..at + LANES], &self.scales[scales_at..scales_at + LANES]);
        for lane in 0..LANES {
            out[lane] = quant::NF4[usize::from(codes[lane] >> (4 * (k % 2)) & 15)] * scales[lane];
        }
    }
}
