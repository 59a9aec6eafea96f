//! Weights in the layout the kernels read. Leaves filling it to `pack`, and the product to its siblings.

use std::ops::Range;
use std::sync::OnceLock;

use half::bf16;

use super::pack::Stored;
use super::quant;
use crate::buffer::Buffer;
use crate::error::{check_len, ensure};
use crate::simd::LANES;
use crate::{KernelError, Pool};

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
        Self::pack_and_tell(pool, parts, in_features, dtype, &|_, _| {})
    }

    /// As [`PackedLinear::pack`]. Every few MiB, from whichever thread, `spent` is told the part and those of its values
    /// that nobody will read again: the memory they lie in may go, so that weights are never there twice.
    ///
    /// # Errors
    /// As [`PackedLinear::pack`].
    pub fn pack_and_tell(
        pool: &Pool,
        parts: &[Values<'_>],
        in_features: usize,
        dtype: WeightDtype,
        spent: &(dyn Fn(usize, Range<usize>) + Sync),
    ) -> Result<Self, KernelError> {
        let stored = Stored::new(parts, in_features, spent)?;
        let out_features = stored.num_rows();
        let storage = match dtype {
            WeightDtype::F32 => Storage::F32(stored.words(pool, dtype)),
            WeightDtype::Bf16 => Storage::Bf16(stored.words(pool, dtype)),
            WeightDtype::Int8 => Storage::Int8(stored.quantised(pool, 1)),
            WeightDtype::Nf4 => Storage::Nf4(stored.quantised(pool, 2)),
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
