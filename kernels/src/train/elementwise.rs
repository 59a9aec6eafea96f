//! Element by element: sums, SwiGLU, dropout. Leaves norms and rotations to their own files.

use super::simd::{fma, multiversion, sigmoid};
use super::thin::Dropout;
use super::{Shared, for_chunks, rows_per_task};
use crate::Pool;

const CHUNK: usize = 16384;

/// `into += x`.
///
/// # Panics
/// If the lengths differ.
pub fn add_assign(pool: &Pool, into: &mut [f32], x: &[f32]) {
    assert_eq!(into.len(), x.len(), "add_assign of different lengths");
    let shared = Shared::new(into);
    for_chunks(pool, x.len(), CHUNK, |from, to| {
        // SAFETY: chunks are disjoint.
        let into = unsafe { shared.part(from, to) };
        add_chunk(into, &x[from..to]);
    });
}

multiversion! { fn add_chunk(into: &mut [f32], x: &[f32]) = add_body }

#[inline(always)]
fn add_body<const FMA: bool>(into: &mut [f32], x: &[f32]) {
    for (into, x) in into.iter_mut().zip(x) {
        *into += x;
    }
}

/// `out = silu(gate) · up` for rows `[gate | up]` of `2 * width`; `out` is `[rows, width]` (Shazeer 2020,
/// arXiv:2002.05202).
///
/// # Panics
/// If the lengths do not fit.
pub fn swiglu(pool: &Pool, gate_up: &[f32], width: usize, out: &mut [f32]) {
    assert_eq!(gate_up.len(), 2 * out.len(), "swiglu halves its input");
    let rows = out.len() / width;
    let shared = Shared::new(out);
    for_chunks(pool, rows, rows_per_task(width), |first, last| {
        for row in first..last {
            // SAFETY: rows are disjoint.
            let out = unsafe { shared.part(row * width, (row + 1) * width) };
            let (gate, up) = gate_up[2 * row * width..2 * (row + 1) * width].split_at(width);
            swiglu_row(gate, up, out);
        }
    });
}

multiversion! { fn swiglu_row(gate: &[f32], up: &[f32], out: &mut [f32]) = swiglu_body }

#[inline(always)]
fn swiglu_body<const FMA: bool>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((gate, up), out) in gate.iter().zip(up).zip(out) {
        *out = gate * sigmoid::<FMA>(*gate) * up;
    }
}

/// Gradient of [`swiglu`]: writes `grad_gate_up`, shaped as `gate_up`.
///
/// # Panics
/// If the lengths do not fit.
pub fn swiglu_backward(
    pool: &Pool,
    gate_up: &[f32],
    width: usize,
    grad_out: &[f32],
    grad_gate_up: &mut [f32],
) {
    assert_eq!(gate_up.len(), 2 * grad_out.len(), "swiglu halves its input");
    assert_eq!(gate_up.len(), grad_gate_up.len(), "a gradient has the shape of its input");
    let rows = grad_out.len() / width;
    let shared = Shared::new(grad_gate_up);
    for_chunks(pool, rows, rows_per_task(2 * width), |first, last| {
        for row in first..last {
            // SAFETY: rows are disjoint.
            let grads = unsafe { shared.part(2 * row * width, 2 * (row + 1) * width) };
            let inputs = &gate_up[2 * row * width..2 * (row + 1) * width];
            swiglu_backward_row(inputs, &grad_out[row * width..(row + 1) * width], grads);
        }
    });
}

multiversion! { fn swiglu_backward_row(gate_up: &[f32], grad_out: &[f32], grads: &mut [f32]) = swiglu_backward_body }

#[inline(always)]
fn swiglu_backward_body<const FMA: bool>(gate_up: &[f32], grad_out: &[f32], grads: &mut [f32]) {
    let width = grad_out.len();
    let (gate, up) = gate_up.split_at(width);
    let (grad_gate, grad_up) = grads.split_at_mut(width);
    for index in 0..width {
        let (gate, up, grad) = (gate[index], up[index], grad_out[index]);
        let sigma = sigmoid::<FMA>(gate);
        let silu = gate * sigma;
        grad_up[index] = grad * silu;
        // silu' = σ + gate σ (1 − σ)
        grad_gate[index] = grad * up * fma::<FMA>(silu, 1.0 - sigma, sigma);
    }
}

/// Inverted dropout: `out (+)= x / (1 − p)` where kept, else 0. Whether an element is kept depends on `seed` and its
/// index alone, so the gradient is the same call on the gradient.
///
/// # Panics
/// If the lengths differ.
pub fn dropout(pool: &Pool, x: &[f32], p: f32, seed: u64, accumulate: bool, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "dropout keeps the shape");
    let shared = Shared::new(out);
    for_chunks(pool, x.len(), CHUNK, |from, to| {
        // SAFETY: chunks are disjoint.
        let out = unsafe { shared.part(from, to) };
        dropout_row(&x[from..to], Dropout { p, seed }, from, accumulate, out);
    });
}

multiversion! {
    /// [`dropout`] of elements from `first` on.
    fn dropout_row(x: &[f32], dropout: Dropout, first: usize, accumulate: bool, out: &mut [f32]) = dropout_body
}

#[inline(always)]
fn dropout_body<const FMA: bool>(
    x: &[f32],
    dropout: Dropout,
    first: usize,
    accumulate: bool,
    out: &mut [f32],
) {
    let Dropout { p, seed } = dropout;
    let scale = 1.0 / (1.0 - p);
    let threshold = (f64::from(p) * 4_294_967_296.0) as u32;
    let (low, high) = (seed as u32, (seed >> 32) as u32);
    let len = x.len().min(out.len());
    let (x, out) = (&x[..len], &mut out[..len]);
    for index in 0..len {
        // A 32-bit finaliser with little bias (Wellons 2018, "Prospecting for hash functions"), keyed before and within.
        let mut bits = low.wrapping_add((first + index) as u32);
        bits = (bits ^ (bits >> 16)).wrapping_mul(0x7FEB_352D).wrapping_add(high);
        bits = (bits ^ (bits >> 15)).wrapping_mul(0x846C_A68B);
        bits ^= bits >> 16;
        let keep = if bits >= threshold { scale } else { 0.0 };
        out[index] = if accumulate { fma::<FMA>(x[index], keep, out[index]) } else { x[index] * keep };
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{gradient_error, numbers};
    use super::*;

    #[test]
    fn swiglu_gradient_is_the_slope() {
        let pool = Pool::new(2).unwrap();
        let (rows, width) = (3, 5);
        let x = numbers(1, 2 * rows * width);
        let weights = numbers(2, rows * width);
        let mut grad = vec![0.0; x.len()];
        swiglu_backward(&pool, &x, width, &weights, &mut grad);
        let loss = |x: &[f32]| {
            let mut out = vec![0.0; rows * width];
            swiglu(&pool, x, width, &mut out);
            out.iter().zip(&weights).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        assert!(gradient_error(&x, &grad, loss) < 1e-3);
    }

    #[test]
    fn dropout_keeps_the_mean_and_repeats_by_seed() {
        let pool = Pool::new(2).unwrap();
        let x = vec![1.0; 100_000];
        let run = |seed: u64| {
            let mut out = vec![0.0; x.len()];
            dropout(&pool, &x, 0.25, seed, false, &mut out);
            out
        };
        let out = run(1);
        let kept = out.iter().filter(|value| **value != 0.0).count() as f64 / x.len() as f64;
        assert!((kept - 0.75).abs() < 0.01, "{kept}");
        assert!(out.iter().all(|value| *value == 0.0 || (*value - 4.0 / 3.0).abs() < 1e-6));
        assert_eq!(out, run(1));
        assert_ne!(out, run(2));
    }
}
