//! AdamW's step and the norm of a gradient, over flat parameters. Leaves schedules and which weights decay to the trainer.

use super::simd::{fma, multiversion, sum_of};
use super::{Shared, for_chunks};
use crate::Pool;

const CHUNK: usize = 16384;

/// One step of AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), as PyTorch computes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Of this step.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled.
    pub weight_decay: f32,
    /// From 1, for the bias corrections.
    pub step: u64,
    /// Gradients are multiplied by this first: clipping.
    pub grad_scale: f32,
}

/// Moves `weights` against `grad`, updating both moments. All have one length.
///
/// # Panics
/// If the lengths differ.
pub fn adamw(
    pool: &Pool,
    hyper: &AdamW,
    weights: &mut [f32],
    grad: &[f32],
    moments: (&mut [f32], &mut [f32]),
) {
    let (m, v) = moments;
    assert!(weights.len() == grad.len() && m.len() == grad.len() && v.len() == grad.len(), "adamw shapes");
    let correction1 = 1.0 - f64::from(hyper.beta1).powi(hyper.step.min(1 << 30) as i32);
    let correction2 = 1.0 - f64::from(hyper.beta2).powi(hyper.step.min(1 << 30) as i32);
    let constants = Constants {
        hyper: *hyper,
        keep: (1.0 - f64::from(hyper.learning_rate) * f64::from(hyper.weight_decay)) as f32,
        step_size: (f64::from(hyper.learning_rate) / correction1) as f32,
        root_scale: correction2.sqrt().recip() as f32,
    };
    let (weights, m, v) = (Shared::new(weights), Shared::new(m), Shared::new(v));
    for_chunks(pool, grad.len(), CHUNK, |from, to| {
        // SAFETY: chunks are disjoint.
        let (weights, m, v) = unsafe { (weights.part(from, to), m.part(from, to), v.part(from, to)) };
        adamw_chunk(&constants, weights, &grad[from..to], m, v);
    });
}

pub(super) struct Constants {
    hyper: AdamW,
    keep: f32,
    step_size: f32,
    root_scale: f32,
}

multiversion! {
    fn adamw_chunk(c: &Constants, weights: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) = adamw_body
}

#[inline(always)]
fn adamw_body<const FMA: bool>(
    c: &Constants,
    weights: &mut [f32],
    grad: &[f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    let AdamW { beta1, beta2, epsilon, grad_scale, .. } = c.hyper;
    let len = grad.len();
    let (weights, m, v) = (&mut weights[..len], &mut m[..len], &mut v[..len]);
    for i in 0..len {
        let grad = grad[i] * grad_scale;
        m[i] = fma::<FMA>(1.0 - beta1, grad - m[i], m[i]);
        v[i] = fma::<FMA>(beta2, v[i], (1.0 - beta2) * grad * grad);
        let denominator = fma::<FMA>(v[i].sqrt(), c.root_scale, epsilon);
        weights[i] = fma::<FMA>(weights[i], c.keep, -c.step_size * m[i] / denominator);
    }
}

/// `Σ x²`, chunks added in order in f64.
pub fn sum_squares(pool: &Pool, x: &[f32]) -> f64 {
    let mut partial = vec![0.0f64; x.len().div_ceil(CHUNK)];
    {
        let shared = Shared::new(&mut partial);
        for_chunks(pool, x.len(), CHUNK, |from, to| {
            // SAFETY: one element per chunk.
            let out = unsafe { shared.part(from / CHUNK, from / CHUNK + 1) };
            out[0] = f64::from(squares_chunk(&x[from..to]));
        });
    }
    partial.iter().sum()
}

multiversion! { fn squares_chunk(x: &[f32]) -> f32 = squares_body }

#[inline(always)]
fn squares_body<const FMA: bool>(x: &[f32]) -> f32 {
    sum_of([x], |[x]| x * x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adamw_repeats_pytorch() {
        // torch.optim.AdamW([w], lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1), w = [1, -2, 0.5], three steps
        // with gradients [0.5, -1, 2], [0.1, 0.2, -0.3], [-1, 0, 1], computed by its documented recurrence in f64.
        let pool = Pool::new(1).unwrap();
        let (mut w, mut m, mut v) = (vec![1.0f32, -2.0, 0.5], vec![0.0; 3], vec![0.0; 3]);
        let (mut want, mut wm, mut wv) = ([1.0f64, -2.0, 0.5], [0.0f64; 3], [0.0f64; 3]);
        for (index, grad) in [[0.5f32, -1.0, 2.0], [0.1, 0.2, -0.3], [-1.0, 0.0, 1.0]].iter().enumerate() {
            let step = index as u64 + 1;
            let hyper = AdamW {
                learning_rate: 0.1,
                beta1: 0.9,
                beta2: 0.99,
                epsilon: 1e-8,
                weight_decay: 0.1,
                step,
                grad_scale: 0.5,
            };
            adamw(&pool, &hyper, &mut w, grad, (&mut m, &mut v));
            for i in 0..3 {
                let g = f64::from(grad[i]) * 0.5;
                want[i] -= 0.1 * 0.1 * want[i];
                wm[i] = 0.9 * wm[i] + 0.1 * g;
                wv[i] = 0.99 * wv[i] + 0.01 * g * g;
                let (mh, vh) =
                    (wm[i] / (1.0 - 0.9f64.powi(step as i32)), wv[i] / (1.0 - 0.99f64.powi(step as i32)));
                want[i] -= 0.1 * mh / (vh.sqrt() + 1e-8);
                assert!((f64::from(w[i]) - want[i]).abs() < 1e-6, "step {step}: {} {}", w[i], want[i]);
            }
        }
    }

    #[test]
    fn squares_are_summed_whole() {
        let pool = Pool::new(2).unwrap();
        assert_eq!(sum_squares(&pool, &vec![0.5; 40_000]), 10_000.0);
    }
}
