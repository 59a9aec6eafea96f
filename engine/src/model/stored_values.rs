//! From stored bytes to numbers, and numbers to start from. Leaves where they are stored to `checkpoint`.

use std::borrow::Cow;

use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::Dtype;

use super::backend::Values;
use super::gguf::Change;
use super::gguf::blocks::Storage;

/// The transpose of `[_, width]`.
pub(super) fn transposed<T: Copy>(values: &[T], width: usize) -> Vec<T> {
    (0..width).flat_map(|column| values.iter().skip(column).step_by(width).copied()).collect()
}

/// Rows of a matrix or bias of `heads`, whose pairs of dimensions lie side by side, with the halves of a head side by
/// side instead. Of values in blocks the bytes are given: rows are whole blocks.
pub(super) fn halves_of_heads<T: Copy>(values: &[T], heads: usize, shape: &[usize]) -> Vec<T> {
    let rows = shape.first().copied().unwrap_or(1).max(1);
    let (width, head) = (values.len() / rows, (rows / heads.max(1)).max(1));
    let from = |row: usize| {
        let (start, at) = (row / head * head, row % head);
        start + at % (head / 2).max(1) * 2 + at / (head / 2).max(1)
    };
    (0..rows).flat_map(|row| values[from(row) * width..][..width].iter().copied()).collect()
}

/// Values of a GGUF file as a folder has them: blocks of few bits as they are, all others as numbers.
pub(super) fn of_gguf<'a>(storage: Storage, bytes: &'a [u8], change: Change, shape: &[usize]) -> Values<'a> {
    match (storage, change) {
        (Storage::Blocks(kind), Change::None) => Values::Blocks(kind, Cow::Borrowed(bytes)),
        (Storage::Blocks(kind), Change::Interleaved(heads)) => {
            Values::Blocks(kind, Cow::Owned(halves_of_heads(bytes, heads, shape)))
        }
        (storage, change) => Values::F32(Cow::Owned(change.undo(storage.numbers(bytes), shape))),
    }
}

/// Stored bytes as numbers; borrowed where alignment allows. `None` for other dtypes.
pub(super) fn read(bytes: &[u8], dtype: Dtype) -> Option<Values<'_>> {
    match dtype {
        Dtype::F32 => Some(Values::F32(match bytemuck::try_cast_slice(bytes) {
            Ok(values) => Cow::Borrowed(values),
            Err(_) => {
                Cow::Owned(bytes.as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect())
            }
        })),
        Dtype::BF16 => Some(Values::Bf16(match bytemuck::try_cast_slice(bytes) {
            Ok(values) => Cow::Borrowed(values),
            Err(_) => {
                Cow::Owned(bytes.as_chunks().0.iter().map(|&chunk| bf16::from_le_bytes(chunk)).collect())
            }
        })),
        Dtype::F16 => {
            let wide = |&chunk: &[u8; 2]| f16::from_le_bytes(chunk).to_f32();
            Some(Values::F32(Cow::Owned(bytes.as_chunks().0.iter().map(wide).collect())))
        }
        _ => None,
    }
}

/// Standard deviation of a matrix's random start, as in every family we know.
pub(super) const INITIALIZER_RANGE: f32 = 0.02;

/// Normal numbers by the Box–Muller transform, two from two uniform ones.
pub(super) fn normal(seed: u64, stream: u64, count: usize, deviation: f32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
        values.push((radius * cos) as f32 * deviation);
        values.push((radius * sin) as f32 * deviation);
    }
    values.truncate(count);
    values
}
