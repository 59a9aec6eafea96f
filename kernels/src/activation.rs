//! Activations of MLPs, plain (Hendrycks and Gimpel 2016, arXiv:1606.08415) and gated (Shazeer 2020,
//! arXiv:2002.05202). Leaves the projections to `linear`.

use std::marker::PhantomData;

use crate::error::{check_len, ensure};
use crate::rows::{for_each_chunk, for_each_strided_row};
use crate::simd::{LANES, Op, Simd, dispatch, exp, padded};
use crate::{KernelError, Pool, RowsMut};

/// Values below which a second thread costs more than it brings.
const PARALLEL_VALUES: usize = 1 << 14;

/// A function of each value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · σ(x)`.
    Silu,
    /// `x · Φ(x)`, `Φ` by its approximation with tanh.
    GeluTanh,
    /// `x · Φ(x)`, within 3·10⁻⁷ of `x`.
    Gelu,
    /// `max(x, 0)`.
    Relu,
}

/// Runs `$call` with the function of `$activation` as the type `$curve`.
macro_rules! with_curve {
    ($activation:expr, $curve:ident => $call:expr) => {
        with_curve! { $activation, $curve => $call; Silu GeluTanh Gelu Relu }
    };
    ($activation:expr, $curve:ident => $call:expr; $($kind:ident)*) => {
        match $activation {
            $($crate::activation::Activation::$kind => {
                type $curve = $crate::activation::$kind;
                $call
            })*
        }
    };
}
pub(crate) use with_curve;

/// `f(gate) · up`: `gate_up` is `[num_rows, 2 · width]`, rows `[gate | up]`; `out` is `[num_rows, width]`.
///
/// # Errors
/// [`KernelError`] if lengths disagree.
pub fn gated(
    pool: &Pool,
    activation: Activation,
    gate_up: &[f32],
    num_rows: usize,
    out: &mut [f32],
) -> Result<(), KernelError> {
    with_curve!(activation, C => gated_by::<C>(pool, gate_up, num_rows, out))
}

/// `x = f(x)` for each value.
pub fn activate(pool: &Pool, activation: Activation, x: &mut [f32]) {
    with_curve!(activation, C => activate_by::<C>(pool, x));
}

/// The function over a vector of values.
pub(crate) trait Curve: Sync {
    fn of<S: Simd>(s: S, x: S::V) -> S::V;
}

pub(crate) struct Silu;

impl Curve for Silu {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        s.div(x, s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), x))))
    }
}

pub(crate) struct GeluTanh;

impl Curve for GeluTanh {
    /// `(1 + tanh z) / 2 = σ(2z)` with `z = √(2/π) · (x + 0.044715 x³)`.
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        const TWICE_ROOT: f32 = 2.0 * 0.797_884_6;
        let cubic = s.mul_add(s.mul(x, x), s.splat(-0.044_715 * TWICE_ROOT), s.splat(-TWICE_ROOT));
        s.div(x, s.add(s.splat(1.0), exp(s, s.mul(x, cubic))))
    }
}

pub(crate) struct Gelu;

impl Curve for Gelu {
    /// `Φ(−|x|) = q / 2` by Abramowitz and Stegun's 7.1.26, so that `x Φ(x) = max(x, 0) − |x| q / 2`.
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        let size = s.max(x, s.sub(s.splat(0.0), x));
        let t = s.div(
            s.splat(1.0),
            s.mul_add(size, s.splat(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2), s.splat(1.0)),
        );
        let mut q = s.splat(1.061_405_4);
        for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
            q = s.mul_add(q, t, s.splat(c));
        }
        let q = s.mul(s.mul(q, t), exp(s, s.mul(s.mul(x, x), s.splat(-0.5))));
        s.sub(s.max(x, s.splat(0.0)), s.mul(s.mul(size, s.splat(0.5)), q))
    }
}

pub(crate) struct Relu;

impl Curve for Relu {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::V) -> S::V {
        s.max(x, s.splat(0.0))
    }
}

fn gated_by<C: Curve>(
    pool: &Pool,
    gate_up: &[f32],
    num_rows: usize,
    out: &mut [f32],
) -> Result<(), KernelError> {
    check_len("gate_up", gate_up.len(), 2 * out.len())?;
    if num_rows == 0 {
        return check_len("out", out.len(), 0);
    }
    ensure(out.len().is_multiple_of(num_rows), || {
        format!("out holds {} values, which are not {num_rows} rows", out.len())
    })?;
    let width = out.len() / num_rows;
    let parallel = out.len() > PARALLEL_VALUES;
    let curve = PhantomData::<C>;
    if num_rows == 1 {
        let (gate, up) = gate_up.split_at(width);
        let part = PARALLEL_VALUES / 4;
        for_each_chunk(pool, parallel, out, part, |i, out| {
            let part = i * part..i * part + out.len();
            dispatch(pool.isa(), Gate { gate: &gate[part.clone()], up: &up[part], out, curve });
        });
    } else {
        for_each_strided_row(pool, parallel, RowsMut::new(out, width), (num_rows, width), |i, out| {
            let (gate, up) = gate_up[2 * i * width..][..2 * width].split_at(width);
            dispatch(pool.isa(), Gate { gate, up, out, curve });
        });
    }
    Ok(())
}

fn activate_by<C: Curve>(pool: &Pool, x: &mut [f32]) {
    let parallel = x.len() > PARALLEL_VALUES;
    for_each_chunk(pool, parallel, x, PARALLEL_VALUES / 4, |_, x| {
        dispatch(pool.isa(), Plain { x, curve: PhantomData::<C> });
    });
}

/// Gates one row; all have its width.
struct Gate<'a, C> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
    curve: PhantomData<C>,
}

impl<C: Curve> Op for Gate<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gate, gate_tail) = self.gate.as_chunks::<LANES>();
        let (up, up_tail) = self.up.as_chunks::<LANES>();
        let (out, out_tail) = self.out.as_chunks_mut::<LANES>();
        for ((gate, up), out) in gate.iter().zip(up).zip(out) {
            s.store(s.mul(C::of(s, s.load(gate)), s.load(up)), out);
        }
        if !out_tail.is_empty() {
            let mut last = [0.0; LANES];
            let (gate, up) = (s.load(&padded(gate_tail, 0.0)), s.load(&padded(up_tail, 0.0)));
            s.store(s.mul(C::of(s, gate), up), &mut last);
            out_tail.copy_from_slice(&last[..out_tail.len()]);
        }
    }
}

/// Applies the function to each value.
struct Plain<'a, C> {
    x: &'a mut [f32],
    curve: PhantomData<C>,
}

impl<C: Curve> Op for Plain<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (x, tail) = self.x.as_chunks_mut::<LANES>();
        for x in x {
            s.store(C::of(s, s.load(x)), x);
        }
        if !tail.is_empty() {
            let mut last = padded(tail, 0.0);
            s.store(C::of(s, s.load(&last)), &mut last);
            tail.copy_from_slice(&last[..tail.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    const ALL: [Activation; 4] = [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu];

    /// Maclaurin's series and the continued fraction of erfc, each where it converges.
    fn erf(x: f64) -> f64 {
        if x.abs() < 3.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..80 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return sum * std::f64::consts::FRAC_2_SQRT_PI;
        }
        let z = x.abs();
        let fraction = (1..60).rev().fold(z, |below, n| z + f64::from(n) / 2.0 / below);
        (1.0 - (-z * z).exp() / (fraction * std::f64::consts::PI.sqrt())).copysign(x)
    }

    fn exact(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + z.tanh())
            }
            Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
            Activation::Relu => x.max(0.0),
        }
    }

    #[test]
    fn equals_the_formula_in_f64_for_any_shape() {
        for isa in Isa::supported() {
            let pool = Pool::with_isa(2, isa).unwrap();
            for activation in ALL {
                for (rows, width) in [(1, 1), (3, 15), (2, 16), (5, 100), (1, 20_000), (9, 5000)] {
                    let gate_up: Vec<f32> =
                        (0..rows * 2 * width).map(|i| (i as f32 * 0.731).sin() * 20.0).collect();
                    let mut out = vec![f32::NAN; rows * width];
                    gated(&pool, activation, &gate_up, rows, &mut out).unwrap();
                    let mut plain = gate_up.clone();
                    activate(&pool, activation, &mut plain);
                    for (i, &out) in out.iter().enumerate() {
                        let at = i / width * 2 * width + i % width;
                        let (gate, up) = (f64::from(gate_up[at]), f64::from(gate_up[at + width]));
                        let wanted = exact(activation, gate);
                        let tolerance = 1e-6 * (wanted * up).abs() + 4e-7 * up.abs() + 1e-9;
                        let error = (f64::from(out) - wanted * up).abs();
                        assert!(error <= tolerance, "{isa:?} {activation:?} {rows}×{width} value {i}");
                        let error = (f64::from(plain[at]) - wanted).abs();
                        assert!(error <= 1e-6 * wanted.abs() + 4e-7, "{isa:?} {activation:?} plain {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn large_gates_saturate() {
        let pool = Pool::new(1).unwrap();
        for activation in ALL {
            let mut out = [0.0; 2];
            gated(&pool, activation, &[-1000.0, 1000.0, 3.0, 3.0], 1, &mut out).unwrap();
            assert_eq!(out, [0.0, 3000.0], "{activation:?}");
        }
    }

    #[test]
    fn rows_must_be_whole() {
        let pool = Pool::new(1).unwrap();
        let error = gated(&pool, Activation::Silu, &[0.0; 6], 2, &mut [0.0; 3]).unwrap_err();
        assert_eq!(error.to_string(), "out holds 3 values, which are not 2 rows");
    }
}
