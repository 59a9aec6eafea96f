//! Gated activations: Shazeer 2020 (arXiv:2002.05202). Leaves the projections to `linear`.

use crate::error::{check_len, ensure};
use crate::rows::{for_each_chunk, for_each_strided_row};
use crate::simd::{LANES, Op, Simd, dispatch, exp, padded};
use crate::{KernelError, Pool, RowsMut};

/// Values below which a second thread costs more than it brings.
const PARALLEL_VALUES: usize = 1 << 14;

/// `silu(gate) · up`: `gate_up` is `[num_rows, 2 · width]`, rows `[gate | up]`; `out` is `[num_rows, width]`.
///
/// # Errors
/// [`KernelError`] if lengths disagree.
pub fn swiglu(pool: &Pool, gate_up: &[f32], num_rows: usize, out: &mut [f32]) -> Result<(), KernelError> {
    check_len("gate_up", gate_up.len(), 2 * out.len())?;
    if num_rows == 0 {
        return check_len("out", out.len(), 0);
    }
    ensure(out.len().is_multiple_of(num_rows), || {
        format!("out holds {} values, which are not {num_rows} rows", out.len())
    })?;
    let width = out.len() / num_rows;
    let parallel = out.len() > PARALLEL_VALUES;
    if num_rows == 1 {
        let (gate, up) = gate_up.split_at(width);
        let part = PARALLEL_VALUES / 4;
        for_each_chunk(pool, parallel, out, part, |i, out| {
            let part = i * part..i * part + out.len();
            dispatch(pool.isa(), Swiglu { gate: &gate[part.clone()], up: &up[part], out });
        });
    } else {
        for_each_strided_row(pool, parallel, RowsMut::new(out, width), (num_rows, width), |i, out| {
            let (gate, up) = gate_up[2 * i * width..][..2 * width].split_at(width);
            dispatch(pool.isa(), Swiglu { gate, up, out });
        });
    }
    Ok(())
}

/// Gates one row; all have its width.
struct Swiglu<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Op for Swiglu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gate, gate_tail) = self.gate.as_chunks::<LANES>();
        let (up, up_tail) = self.up.as_chunks::<LANES>();
        let (out, out_tail) = self.out.as_chunks_mut::<LANES>();
        for ((gate, up), out) in gate.iter().zip(up).zip(out) {
            gate_lanes(s, gate, up, out);
        }
        if !out_tail.is_empty() {
            let mut last = [0.0; LANES];
            gate_lanes(s, &padded(gate_tail, 0.0), &padded(up_tail, 0.0), &mut last);
            out_tail.copy_from_slice(&last[..out_tail.len()]);
        }
    }
}

#[inline(always)]
fn gate_lanes<S: Simd>(s: S, gate: &[f32; LANES], up: &[f32; LANES], out: &mut [f32; LANES]) {
    let gate = s.load(gate);
    let denominator = s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), gate)));
    s.store(s.mul(s.div(gate, denominator), s.load(up)), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn equals_the_formula_in_f64_for_any_shape() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
            let pool = Pool::with_isa(2, isa).unwrap();
            for (rows, width) in [(1, 1), (3, 15), (2, 16), (5, 100), (1, 20_000), (9, 5000)] {
                let gate_up: Vec<f32> =
                    (0..rows * 2 * width).map(|i| (i as f32 * 0.731).sin() * 20.0).collect();
                let mut out = vec![f32::NAN; rows * width];
                swiglu(&pool, &gate_up, rows, &mut out).unwrap();
                for (i, &out) in out.iter().enumerate() {
                    let at = i / width * 2 * width + i % width;
                    let (gate, up) = (f64::from(gate_up[at]), f64::from(gate_up[at + width]));
                    let expected = gate / (1.0 + (-gate).exp()) * up;
                    let error = (f64::from(out) - expected).abs();
                    assert!(error <= 1e-6 * expected.abs() + 1e-9, "{isa:?} {rows}×{width} value {i}");
                }
            }
        }
    }

    #[test]
    fn large_gates_saturate() {
        let pool = Pool::new(1).unwrap();
        let mut out = [0.0; 2];
        swiglu(&pool, &[-1000.0, 1000.0, 3.0, 3.0], 1, &mut out).unwrap();
        assert_eq!(out, [0.0, 3000.0]);
    }

    #[test]
    fn rows_must_be_whole() {
        let pool = Pool::new(1).unwrap();
        let error = swiglu(&pool, &[0.0; 6], 2, &mut [0.0; 3]).unwrap_err();
        assert_eq!(error.to_string(), "out holds 3 values, which are not 2 rows");
    }
}
