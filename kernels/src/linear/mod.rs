//! `x Wᵀ` over packed weights. Leaves the layout of the weights to `packed`.
#![expect(unsafe_code, reason = "tasks write different columns of the same rows")]

mod packed;

pub use packed::{PackedLinear, Values, WeightDtype};

use crate::error::check_len;
use crate::rows::Shared;
use crate::{KernelError, Pool, Rows, RowsMut};
use packed::{LANES, Storage};

/// What happens to a product: `out = (accumulate ? out : 0) + scale · (x Wᵀ) + bias`.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// `[out_features]`.
    pub bias: Option<&'a [f32]>,
    /// Factor of the product.
    pub scale: f32,
    /// Add to what `out` holds.
    pub accumulate: bool,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { bias: None, scale: 1.0, accumulate: false }
    }
}

/// `out = (accumulate ? out : 0) + scale · (x Wᵀ) + bias`: `x` is `[num_rows, in_features]`, `out` `[num_rows,
/// out_features]`.
///
/// Sums are kept in f32 and taken in the order of the inputs for every number of rows. With bf16 weights `x` is first
/// rounded to bf16.
///
/// # Errors
/// [`KernelError`] if a slice is too short for its shape.
pub fn linear(
    pool: &Pool,
    x: Rows<'_>,
    num_rows: usize,
    w: &PackedLinear,
    epilogue: &Epilogue<'_>,
    out: RowsMut<'_>,
) -> Result<(), KernelError> {
    x.check("x", num_rows, w.in_features())?;
    out.check("out", num_rows, w.out_features())?;
    if let Some(bias) = epilogue.bias {
        check_len("bias", bias.len(), w.out_features())?;
    }
    let (stride, column) = (out.stride, out.column);
    let out = Shared::new(out.data);
    let rows: Vec<f32> =
        (0..num_rows).flat_map(|i| x.row(i, w.in_features())).copied().map(|v| w.round(v)).collect();
    pool.run(w.out_features().div_ceil(LANES), |tile| {
        for i in 0..num_rows {
            let row = &rows[i * w.in_features()..][..w.in_features()];
            let mut acc = [0f32; LANES];
            match w.storage() {
                Storage::F32(data) => {
                    let weights = &data[tile * w.in_features() * LANES..];
                    for (x, weights) in row.iter().zip(weights.chunks_exact(LANES)) {
                        acc.iter_mut().zip(weights).for_each(|(acc, w)| *acc += x * w);
                    }
                }
                Storage::Bf16(data) => {
                    let weights = &data[tile * w.in_features().div_ceil(2) * LANES..];
                    for (x, weights) in row.chunks(2).zip(weights.chunks_exact(LANES)) {
                        let odd = x.get(1).copied().unwrap_or(0.0);
                        acc.iter_mut().zip(weights).for_each(|(acc, w)| {
                            *acc += x[0] * f32::from_bits(w << 16) + odd * f32::from_bits(w & 0xffff_0000);
                        });
                    }
                }
            }
            let first = tile * LANES;
            let width = LANES.min(w.out_features() - first);
            let start = i * stride + column + first;
            // SAFETY: tasks own different columns.
            let out = unsafe { out.part(start..start + width) };
            for (j, out) in out.iter_mut().enumerate() {
                let bias = epilogue.bias.map_or(0.0, |bias| bias[first + j]);
                let old = if epilogue.accumulate { *out } else { 0.0 };
                *out = old + epilogue.scale * acc[j] + bias;
            }
        }
    });
    Ok(())
}
