//! What happens to the sums of a product before they become outputs. Leaves summing to `linear`.
#![expect(unsafe_code, reason = "tasks write different columns of the same rows")]

use std::ops::Range;

use super::{Epilogue, Part, Product};
use crate::activation::{Curve, with_curve};
use crate::simd::{LANES, Simd, padded};

/// Rows of the output that are asked for in advance when sums are written.
const ROWS_AHEAD: usize = 16;

impl Part<'_> {
    /// Writes the sums of column tiles, rows of which begin `run` apart, to the output; `half` after those of gates are those of
    /// what they gate.
    #[inline(always)]
    pub(super) fn finish<S: Simd>(
        &self,
        s: S,
        tiles: Range<usize>,
        (sums, half, run): (&[f32], usize, usize),
    ) {
        let Product { panels, words, w, epilogue, gate, out, stride, column } = self.product;
        let width = if gate.is_some() { w.out_features() / 2 } else { w.out_features() };
        let outputs = tiles.start * LANES..width.min(tiles.end * LANES);
        let bias = |part: usize| {
            epilogue.bias.map(|bias| bias[part * width + outputs.start..][..outputs.len()].as_chunks())
        };
        let first_row = panels.first_row(self.panels.start);
        let num_rows = panels.first_row(self.panels.end) - first_row;
        let of_panel = |panel| (0..panels.num_rows(panel)).map(move |i| (panel, i));
        for ((panel, i), sums) in self.panels.clone().flat_map(of_panel).zip(sums.chunks_exact(run)) {
            let row = panels.first_row(panel) + i;
            let epilogue = Epilogue { scale: epilogue.scale * panels.factor(words, panel, i), ..**epilogue };
            let at = row * stride + column + outputs.start;
            // Rows lie far from each other, and no machine foresees such steps. After the last row the outputs that the task
            // writes next are asked for.
            let next = row - first_row + num_rows.min(ROWS_AHEAD);
            let ahead = (first_row + next % num_rows) * stride + next / num_rows * half;
            for line in (0..outputs.len()).step_by(LANES) {
                s.prefetch_to_write(out.address(ahead + column + outputs.start + line).cast());
            }
            // SAFETY: tasks own different columns or rows.
            let out = unsafe { out.part(at..at + outputs.len()) };
            match gate {
                Some(activation) => {
                    let (gates, gated) = ((sums, bias(0)), (&sums[half..], bias(1)));
                    with_curve!(*activation, C => finish_gated::<S, C>(s, &epilogue, gates, gated, out));
                }
                None => finish_row(s, &epilogue, (sums, bias(0)), out),
            }
        }
    }
}

/// Sums of outputs, and their bias if they have one.
type Outputs<'a> = (&'a [f32], Option<(&'a [[f32; LANES]], &'a [f32])>);

/// `out = (accumulate ? out : 0) + scale · sums + bias`.
#[inline(always)]
fn finish_row<S: Simd>(s: S, epilogue: &Epilogue<'_>, outputs: Outputs<'_>, out: &mut [f32]) {
    let (whole, rest) = out.as_chunks_mut::<LANES>();
    for (j, out) in whole.iter_mut().enumerate() {
        let mut result = value(s, epilogue.scale, outputs, j);
        if epilogue.accumulate {
            result = s.add(s.load(out), result);
        }
        s.store(result, out);
    }
    if !rest.is_empty() {
        let mut result = value(s, epilogue.scale, outputs, whole.len());
        if epilogue.accumulate {
            result = s.add(s.load(&padded(rest, 0.0)), result);
        }
        let mut last = [0.0; LANES];
        s.store(result, &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// `out = f(scale · sums of gates + bias) · (scale · sums + bias)`, of whole tiles.
#[inline(always)]
fn finish_gated<S: Simd, C: Curve>(
    s: S,
    epilogue: &Epilogue<'_>,
    gates: Outputs<'_>,
    gated: Outputs<'_>,
    out: &mut [f32],
) {
    for (j, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
        let gate = C::of(s, value(s, epilogue.scale, gates, j));
        s.store(s.mul(gate, value(s, epilogue.scale, gated, j)), out);
    }
}

/// Outputs of tile `j` of a row.
#[inline(always)]
fn value<S: Simd>(s: S, scale: f32, (sums, bias): Outputs<'_>, j: usize) -> S::V {
    let bias = match bias {
        Some((whole, rest)) => match whole.get(j) {
            Some(bias) => s.load(bias),
            None => s.load(&padded(rest, 0.0)),
        },
        None => s.splat(0.0),
    };
    s.mul_add(s.load(&sums.as_chunks().0[j]), s.splat(scale), bias)
}

#[cfg(test)]
mod tests {
    use crate::{Activation, Epilogue, Isa, PackedLinear, Pool, Rows, RowsMut, Values, WeightDtype};
    use crate::{gated, gated_linear, linear};

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
                let bias: Vec<f32> = (0..2 * width).map(|i| noise(i + 5)).collect();
                for num_rows in [1, 5, 17, 33, 70] {
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
    }
}
