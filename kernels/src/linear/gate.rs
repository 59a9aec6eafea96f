//! Gated products, and the whole MLP of which they are half. Leaves the products to their parent and gating to `finish`.

use std::cell::RefCell;

use super::finish::Outputs;
use super::packed::{PackedLinear, Storage};
use super::panels::Panels;
use super::{Epilogue, Product, check_operands, linear, multiply, multiply_panels};
use crate::buffer::Buffer;
use crate::error::{check_len, ensure};
use crate::rows::Shared;
use crate::simd::LANES;
use crate::{Activation, KernelError, Pool, Rows, RowsMut};

thread_local! {
    /// Gates and what they gate, where they are not gated as they are written; kept for the next call.
    static UNGATED: RefCell<Buffer<f32>> = RefCell::default();
    /// What an MLP has between its products, as rows; kept for the next call.
    static ACTIVATED: RefCell<Buffer<f32>> = RefCell::default();
    /// The same in panels.
    static PACKED: RefCell<Buffer<u32>> = RefCell::default();
}

/// `out = f(x Gᵀ + bias) · (x Uᵀ + bias)` of weights `[G | U]` one below the other, as [`linear`] and then
/// [`crate::gated`] would give it, bit for bit: `out` is `[num_rows, out_features / 2]`.
///
/// # Errors
/// [`KernelError`] if a slice is too short for its shape, or there is an odd number of outputs.
pub fn gated_linear(
    pool: &Pool,
    x: Rows<'_>,
    num_rows: usize,
    w: &PackedLinear,
    bias: Option<&[f32]>,
    activation: Activation,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let width = halves(w)?;
    check_len("out", out.len(), num_rows * width)?;
    let epilogue = Epilogue { bias, ..Epilogue::default() };
    if is_gated_as_written(w) {
        check_operands(x, num_rows, w, bias)?;
        let out = Outputs::rows(RowsMut::new(out, width));
        multiply(pool, x, num_rows, w, &epilogue, Some(activation), out);
        return Ok(());
    }
    let mut gate_up = UNGATED.take();
    gate_up.resize(num_rows * 2 * width);
    linear(pool, x, num_rows, w, &epilogue, RowsMut::new(&mut gate_up, 2 * width))?;
    let result = crate::gated(pool, activation, &gate_up, num_rows, out);
    UNGATED.set(gate_up);
    result
}

/// The weights of an MLP with a gate, and their bias if they have one.
#[derive(Clone, Copy, Debug)]
pub struct GatedMlp<'a> {
    /// `[G | U]` one below the other, each `[width, in_features]`.
    pub gate_up: (&'a PackedLinear, Option<&'a [f32]>),
    /// What is done to the outputs of `G`.
    pub activation: Activation,
    /// `[out_features, width]`.
    pub down: (&'a PackedLinear, Option<&'a [f32]>),
}

/// [`linear`] by `down` of [`gated_linear`] by `gate_up`, bit for bit: `out` is `[num_rows, out_features]`. What is between the two
/// is neither written nor read as numbers where whole tiles are multiplied.
///
/// # Errors
/// [`KernelError`] if a slice is too short for its shape, or the shapes do not fit each other.
pub fn gated_mlp(
    pool: &Pool,
    x: Rows<'_>,
    num_rows: usize,
    mlp: &GatedMlp<'_>,
    out: RowsMut<'_>,
) -> Result<(), KernelError> {
    let GatedMlp { gate_up: (gate_up, gate_up_bias), activation, down: (down, bias) } = *mlp;
    let width = halves(gate_up)?;
    ensure(width == down.in_features(), || {
        format!("{width} gated outputs are not the {} inputs of what follows", down.in_features())
    })?;
    // Weights of another kind would have rows cut elsewhere.
    let are_alike = matches!(gate_up.storage(), Storage::Bf16(_)) && is_gated_as_written(gate_up);
    let panels = (are_alike && num_rows > 0).then(|| Panels::new(pool, num_rows, down));
    let Some(panels) = panels.filter(Panels::are_tiles_of_pairs) else {
        let mut activated = ACTIVATED.take();
        activated.resize(num_rows * width);
        gated_linear(pool, x, num_rows, gate_up, gate_up_bias, activation, &mut activated)?;
        let epilogue = Epilogue { bias, ..Epilogue::default() };
        let result = linear(pool, Rows::new(&activated, width), num_rows, down, &epilogue, out);
        ACTIVATED.set(activated);
        return result;
    };
    out.check("out", num_rows, down.out_features())?;
    check_operands(x, num_rows, gate_up, gate_up_bias)?;
    if let Some(bias) = bias {
        check_len("bias", bias.len(), down.out_features())?;
    }
    let mut words = PACKED.take();
    words.resize(panels.len());
    if !width.is_multiple_of(2 * LANES) {
        // Beyond the last inputs there are zeros.
        words.fill(0);
    }
    let epilogue = Epilogue { bias: gate_up_bias, ..Epilogue::default() };
    let activated = Outputs::Panels { panels: &panels, words: Shared::new(&mut words) };
    multiply(pool, x, num_rows, gate_up, &epilogue, Some(activation), activated);
    let epilogue = Epilogue { bias, ..Epilogue::default() };
    let (w, out) = (down, Outputs::rows(out));
    multiply_panels(
        pool,
        &Product { panels: &panels, words: &words, w, epilogue: &epilogue, gate: None, out },
    );
    PACKED.set(words);
    Ok(())
}

/// Outputs of each half.
fn halves(w: &PackedLinear) -> Result<usize, KernelError> {
    ensure(w.out_features().is_multiple_of(2), || {
        format!("{} outputs are not as many gates as gated", w.out_features())
    })?;
    Ok(w.out_features() / 2)
}

/// Whether gates and what they gate are met in tiles side by side.
fn is_gated_as_written(w: &PackedLinear) -> bool {
    (w.out_features() / 2).is_multiple_of(LANES) && !matches!(w.storage(), Storage::Stacked(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, Values, WeightDtype, gated};

    #[test]
    fn outputs_gated_as_they_are_written_are_those_gated_after() {
        let dtypes =
            [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::F16, WeightDtype::Int8, WeightDtype::Nf4];
        for isa in Isa::supported() {
            let pool = Pool::with_isa(2, isa).unwrap();
            for (dtype, width) in
                dtypes.into_iter().flat_map(|dtype| [16, 40, 464].map(|width| (dtype, width)))
            {
                let depth = 192;
                let noise = |i: usize| (i as f32 * 0.713).sin() * (i as f32 * 0.031).cos();
                let weights: Vec<f32> = (0..2 * width * depth).map(noise).collect();
                let w = PackedLinear::pack(&pool, &[Values::F32(&weights)], depth, dtype).unwrap();
                let back: Vec<f32> = (0..48 * width).map(|i| noise(i + 9)).collect();
                let down = |dtype| PackedLinear::pack(&pool, &[Values::F32(&back)], width, dtype).unwrap();
                let downs = [down(dtype), down(WeightDtype::Bf16)];
                let bias: Vec<f32> = (0..2 * width).map(|i| noise(i + 5)).collect();
                for num_rows in [0, 1, 5, 17, 33, 70] {
                    let x: Vec<f32> = (0..num_rows * depth).map(|i| noise(i + 3)).collect();
                    let x = Rows::new(&x, depth);
                    for (bias, activation) in [(None, Activation::Silu), (Some(&*bias), Activation::Gelu)] {
                        let mut gate_up = vec![f32::NAN; num_rows * 2 * width];
                        let epilogue = Epilogue { bias, ..Epilogue::default() };
                        let out = RowsMut::new(&mut gate_up, 2 * width);
                        linear(&pool, x, num_rows, &w, &epilogue, out).unwrap();
                        let mut after = vec![f32::NAN; num_rows * width];
                        gated(&pool, activation, &gate_up, num_rows, &mut after).unwrap();
                        let mut fused = vec![f32::NAN; num_rows * width];
                        gated_linear(&pool, x, num_rows, &w, bias, activation, &mut fused).unwrap();
                        assert_eq!(fused, after, "{isa:?} {dtype:?} {num_rows}×{width} {activation:?}");

                        for down in &downs {
                            let mut one_by_one = vec![f32::NAN; num_rows * 48];
                            let after_down = bias.map(|bias| &bias[..width.min(48)]).filter(|_| width >= 48);
                            let epilogue = Epilogue { bias: after_down, ..Epilogue::default() };
                            let out = RowsMut::new(&mut one_by_one, 48);
                            linear(&pool, Rows::new(&after, width), num_rows, down, &epilogue, out).unwrap();
                            let mut whole = vec![f32::NAN; num_rows * 48];
                            let mlp = GatedMlp { gate_up: (&w, bias), activation, down: (down, after_down) };
                            gated_mlp(&pool, x, num_rows, &mlp, RowsMut::new(&mut whole, 48)).unwrap();
                            assert_eq!(
                                whole, one_by_one,
                                "{isa:?} {dtype:?} {num_rows}×{width} {activation:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn gates_without_what_they_gate_are_refused() {
        let pool = Pool::new(1).unwrap();
        let w = PackedLinear::pack(&pool, &[Values::F32(&[0.5; 3])], 1, WeightDtype::F32).unwrap();
        let x = Rows::new(&[1.0], 1);
        let error = gated_linear(&pool, x, 1, &w, None, Activation::Silu, &mut [0.0]).unwrap_err();
        assert_eq!(error.to_string(), "3 outputs are not as many gates as gated");
        let two = PackedLinear::pack(&pool, &[Values::F32(&[0.5; 2])], 1, WeightDtype::F32).unwrap();
        let three = PackedLinear::pack(&pool, &[Values::F32(&[0.5; 3])], 3, WeightDtype::F32).unwrap();
        let mlp = GatedMlp { gate_up: (&two, None), activation: Activation::Silu, down: (&three, None) };
        let error = gated_mlp(&pool, x, 1, &mlp, RowsMut::new(&mut [0.0], 1)).unwrap_err();
        assert_eq!(error.to_string(), "1 gated outputs are not the 3 inputs of what follows");
    }
}
