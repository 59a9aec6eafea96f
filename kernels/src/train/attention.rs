//! Dense causal attention over packed sequences, forward and backward: no padding, no score between sequences, scores
//! recomputed in the backward pass as in FlashAttention-2 (Dao 2023, arXiv:2307.08691). Leaves the paged cache to
//! `paged_attention`.

use std::cell::RefCell;

use super::Shared;
use super::gemm::{PackedRight, SerialProduct, View, gemm_serial};
use super::simd::{dot, exp, max_of, multiversion, sum_of};
use crate::Pool;

/// Queries scored at once.
const BLOCK: usize = 48;

/// Attention over fused rows `[q heads | k heads | v heads]`, each head `head_dim` wide.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Scores are multiplied by this.
    pub scale: f32,
    /// A query sees this many last keys, itself included.
    pub sliding_window: Option<usize>,
    /// Sequence `i` is rows `cu_seqlens[i]..cu_seqlens[i + 1]`.
    pub cu_seqlens: &'a [u32],
}

impl Attention<'_> {
    fn row(&self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
    }

    fn check(&self, qkv: &[f32], out: usize, lse: usize) {
        let rows = self.cu_seqlens.last().map_or(0, |last| *last as usize);
        assert!(
            self.num_kv_heads > 0 && self.num_heads.is_multiple_of(self.num_kv_heads),
            "heads must divide"
        );
        assert!(
            self.cu_seqlens.is_sorted() && self.cu_seqlens.first().is_none_or(|first| *first == 0),
            "cu_seqlens"
        );
        assert!(qkv.len() == rows * self.row(), "attention input");
        assert!(
            out == rows * self.num_heads * self.head_dim && lse == rows * self.num_heads,
            "attention output"
        );
    }

    fn num_tasks(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1) * self.num_kv_heads
    }

    /// Sequence (first row, length) and key head of a task.
    fn task(&self, task: usize) -> (usize, usize, usize) {
        let (sequence, kv_head) = (task / self.num_kv_heads, task % self.num_kv_heads);
        let (from, to) = (self.cu_seqlens[sequence] as usize, self.cu_seqlens[sequence + 1] as usize);
        (from, to - from, kv_head)
    }

    /// First key any of the queries from `query` on sees.
    fn first_key(&self, query: usize) -> usize {
        self.sliding_window.map_or(0, |window| (query + 1).saturating_sub(window))
    }
}

#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    grads: Vec<f32>,
    keys: PackedRight,
    keys_t: PackedRight,
    values: PackedRight,
    values_t: PackedRight,
    right: PackedRight,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// `out = softmax(scale · q kᵀ) v`, `[rows, num_heads * head_dim]`; `lse`, `[rows * num_heads]`, takes each query's
/// log-sum-exp, for the gradient.
///
/// # Panics
/// If the lengths do not fit.
pub fn attention(pool: &Pool, spec: &Attention<'_>, qkv: &[f32], out: &mut [f32], lse: &mut [f32]) {
    spec.check(qkv, out.len(), lse.len());
    let Attention { num_heads, num_kv_heads, head_dim, scale, .. } = *spec;
    let (stride, group) = (spec.row(), num_heads / num_kv_heads);
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    pool.run(spec.num_tasks(), |task| {
        let (from, len, kv_head) = spec.task(task);
        if len == 0 {
            return;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let column = |head: usize| &qkv[from * stride + head * head_dim..];
            scratch.keys_t.pack(View::rows(column(num_heads + kv_head), stride).t(), head_dim, len);
            scratch.values.pack(
                View::rows(column(num_heads + num_kv_heads + kv_head), stride),
                len,
                head_dim,
            );
            scratch.scores.resize(BLOCK * len, 0.0);
            for head in kv_head * group..(kv_head + 1) * group {
                for query in (0..len).step_by(BLOCK) {
                    let (rows, keys) = (BLOCK.min(len - query), len.min(query + BLOCK));
                    let q = View::rows(&column(head)[query * stride..], stride);
                    let product = SerialProduct::new((rows, keys, head_dim), q, &scratch.keys_t, scale);
                    gemm_serial(&product, &mut scratch.scores, keys);
                    for row in 0..rows {
                        let position = query + row;
                        let scores = &mut scratch.scores[row * keys..(row + 1) * keys];
                        let value = softmax_row(scores, spec.first_key(position), position + 1);
                        let at = (from + position) * num_heads + head;
                        // SAFETY: one element per query and head.
                        unsafe { lse.part(at, at + 1)[0] = value };
                    }
                    let scores = View::rows(&scratch.scores, keys);
                    let product = SerialProduct::new((rows, head_dim, keys), scores, &scratch.values, 1.0);
                    scratch.grads.resize(BLOCK * head_dim, 0.0);
                    gemm_serial(&product, &mut scratch.grads, head_dim);
                    for (row, values) in scratch.grads.chunks_exact(head_dim).take(rows).enumerate() {
                        let at = ((from + query + row) * num_heads + head) * head_dim;
                        // SAFETY: heads of the output are disjoint.
                        unsafe { out.part(at, at + head_dim) }.copy_from_slice(values);
                    }
                }
            }
        });
    });
}

multiversion! {
    /// Softmax of `scores[from..to]` in place, zero elsewhere; returns the log-sum-exp.
    fn softmax_row(scores: &mut [f32], from: usize, to: usize) -> f32 = softmax_body
}

#[inline(always)]
fn softmax_body<const FMA: bool>(scores: &mut [f32], from: usize, to: usize) -> f32 {
    let (before, rest) = scores.split_at_mut(from);
    let (seen, after) = rest.split_at_mut(to - from);
    before.fill(0.0);
    after.fill(0.0);
    let max = max_of(seen);
    for score in seen.iter_mut() {
        *score = exp::<FMA>(*score - max);
    }
    let sum = sum_of(seen.len(), |i| seen[i]);
    let scale = 1.0 / sum;
    for score in seen {
        *score *= scale;
    }
    max + sum.ln()
}

/// What [`attention`] saw and wrote.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSaved<'a> {
    /// Its input.
    pub qkv: &'a [f32],
    /// Its output.
    pub out: &'a [f32],
    /// Its log-sum-exps.
    pub lse: &'a [f32],
}

/// Gradient of [`attention`]: writes `grad_qkv`, shaped as `qkv`.
///
/// With `P` the probabilities and `D = rowsum(dO · O)`: `dV = Pᵀ dO`, `dS = P · (dO Vᵀ − D)`, `dQ = scale · dS K`,
/// `dK = scale · dSᵀ Q`.
///
/// # Panics
/// If the lengths do not fit.
pub fn attention_backward(
    pool: &Pool,
    spec: &Attention<'_>,
    saved: &AttentionSaved<'_>,
    grad_out: &[f32],
    grad_qkv: &mut [f32],
) {
    let &AttentionSaved { qkv, out, lse } = saved;
    spec.check(qkv, out.len(), lse.len());
    assert!(grad_out.len() == out.len() && grad_qkv.len() == qkv.len(), "attention gradients");
    let Attention { num_heads, num_kv_heads, head_dim, scale, .. } = *spec;
    let (stride, group, width) = (spec.row(), num_heads / num_kv_heads, num_heads * head_dim);
    let shared = Shared::new(grad_qkv);
    pool.run(spec.num_tasks(), |task| {
        let (from, len, kv_head) = spec.task(task);
        if len == 0 {
            return;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { scores, grads, keys, keys_t, values_t, right, .. } = scratch;
            let column = |head: usize| &qkv[from * stride + head * head_dim..];
            let (k, v) = (column(num_heads + kv_head), column(num_heads + num_kv_heads + kv_head));
            keys_t.pack(View::rows(k, stride).t(), head_dim, len);
            keys.pack(View::rows(k, stride), len, head_dim);
            values_t.pack(View::rows(v, stride).t(), head_dim, len);
            scores.resize(BLOCK * len, 0.0);
            grads.resize(BLOCK * len, 0.0);
            let mut grad_k = vec![0.0f32; len * head_dim];
            let mut grad_v = vec![0.0f32; len * head_dim];
            let mut grad_q = vec![0.0f32; BLOCK * head_dim];
            for head in kv_head * group..(kv_head + 1) * group {
                for query in (0..len).step_by(BLOCK) {
                    let (rows, seen) = (BLOCK.min(len - query), len.min(query + BLOCK));
                    let q = View::rows(&column(head)[query * stride..], stride);
                    let at = (from + query) * width + head * head_dim;
                    let grad_o = View::rows(&grad_out[at..], width);
                    let forward = (rows, seen, head_dim);
                    gemm_serial(&SerialProduct::new(forward, q, keys_t, scale), scores, seen);
                    gemm_serial(&SerialProduct::new(forward, grad_o, values_t, 1.0), grads, seen);
                    for row in 0..rows {
                        let position = query + row;
                        let at = (from + position) * width + head * head_dim;
                        let delta = dot_row(&grad_out[at..at + head_dim], &out[at..at + head_dim]);
                        let span = row * seen..(row + 1) * seen;
                        let range = (spec.first_key(position), position + 1);
                        let lse = lse[(from + position) * num_heads + head];
                        score_grad_row(&mut scores[span.clone()], &mut grads[span], range, lse, delta);
                    }
                    let backward = (seen, head_dim, rows);
                    right.pack(grad_o, rows, head_dim);
                    gemm_serial(
                        &SerialProduct::new(backward, View::rows(scores, seen).t(), right, 1.0).accumulate(),
                        &mut grad_v,
                        head_dim,
                    );
                    right.pack(q, rows, head_dim);
                    gemm_serial(
                        &SerialProduct::new(backward, View::rows(grads, seen).t(), right, scale).accumulate(),
                        &mut grad_k,
                        head_dim,
                    );
                    let product =
                        SerialProduct::new((rows, head_dim, seen), View::rows(grads, seen), keys, scale);
                    gemm_serial(&product, &mut grad_q, head_dim);
                    for (row, grad) in grad_q.chunks_exact(head_dim).take(rows).enumerate() {
                        let at = (from + query + row) * stride + head * head_dim;
                        // SAFETY: a query head belongs to one key head, hence to one task.
                        unsafe { shared.part(at, at + head_dim) }.copy_from_slice(grad);
                    }
                }
            }
            for row in 0..len {
                let at = (from + row) * stride + (num_heads + kv_head) * head_dim;
                let span = row * head_dim..(row + 1) * head_dim;
                // SAFETY: this task alone has this key and value head of these rows.
                unsafe {
                    shared.part(at, at + head_dim).copy_from_slice(&grad_k[span.clone()]);
                    let at = at + num_kv_heads * head_dim;
                    shared.part(at, at + head_dim).copy_from_slice(&grad_v[span]);
                }
            }
        });
    });
}

multiversion! { fn dot_row(a: &[f32], b: &[f32]) -> f32 = dot }

multiversion! {
    /// Turns scores into probabilities and gradients of probabilities into gradients of scores.
    fn score_grad_row(scores: &mut [f32], grads: &mut [f32], range: (usize, usize), lse: f32, delta: f32) = score_grad_body
}

#[inline(always)]
fn score_grad_body<const FMA: bool>(
    scores: &mut [f32],
    grads: &mut [f32],
    (from, to): (usize, usize),
    lse: f32,
    delta: f32,
) {
    for part in [&mut *scores, &mut *grads] {
        part[..from].fill(0.0);
        part[to..].fill(0.0);
    }
    for (score, grad) in scores[from..to].iter_mut().zip(&mut grads[from..to]) {
        let probability = exp::<FMA>(*score - lse);
        *grad = probability * (*grad - delta);
        *score = probability;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{gradient_error, numbers};
    use super::*;

    fn oracle(spec: &Attention<'_>, qkv: &[f32]) -> Vec<f64> {
        let (d, stride, group) = (spec.head_dim, spec.row(), spec.num_heads / spec.num_kv_heads);
        let mut out = Vec::new();
        for pair in spec.cu_seqlens.windows(2) {
            for query in pair[0] as usize..pair[1] as usize {
                for head in 0..spec.num_heads {
                    let value =
                        |row: usize, head: usize, i: usize| f64::from(qkv[row * stride + head * d + i]);
                    let local = query - pair[0] as usize;
                    let first =
                        pair[0] as usize + spec.sliding_window.map_or(0, |w| (local + 1).saturating_sub(w));
                    let (k, v) =
                        (spec.num_heads + head / group, spec.num_heads + spec.num_kv_heads + head / group);
                    let scores: Vec<f64> = (first..=query)
                        .map(|key| (0..d).map(|i| value(query, head, i) * value(key, k, i)).sum::<f64>())
                        .map(|score| (score * f64::from(spec.scale)).exp())
                        .collect();
                    let sum: f64 = scores.iter().sum();
                    for i in 0..d {
                        let mix = |(index, score): (usize, &f64)| score / sum * value(first + index, v, i);
                        out.push(scores.iter().enumerate().map(mix).sum());
                    }
                }
            }
        }
        out
    }

    #[test]
    fn output_and_gradient_agree_with_the_definition_on_ragged_sequences() {
        let pool = Pool::new(2).unwrap();
        let cases = [
            (4, 2, 8, None, vec![0u32, 1, 4, 4, 9]),
            (2, 1, 4, Some(3), vec![0, 7]),
            (1, 1, 16, None, vec![0, 101]),
            (2, 2, 6, Some(60), vec![0, 3, 103]),
        ];
        for (num_heads, num_kv_heads, head_dim, sliding_window, cu_seqlens) in cases {
            let scale = 1.0 / (head_dim as f32).sqrt();
            let spec = Attention {
                num_heads,
                num_kv_heads,
                head_dim,
                scale,
                sliding_window,
                cu_seqlens: &cu_seqlens,
            };
            let rows = *cu_seqlens.last().unwrap() as usize;
            let qkv = numbers(1, rows * spec.row());
            let (mut out, mut lse) = (vec![0.0; rows * num_heads * head_dim], vec![0.0; rows * num_heads]);
            attention(&pool, &spec, &qkv, &mut out, &mut lse);
            for (got, want) in out.iter().zip(oracle(&spec, &qkv)) {
                assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
            }
            if rows > 10 && head_dim != 6 {
                continue; // Finite differences of long cases take too long; one of them is enough.
            }
            let upstream = numbers(2, out.len());
            let mut grad = vec![f32::NAN; qkv.len()];
            attention_backward(
                &pool,
                &spec,
                &AttentionSaved { qkv: &qkv, out: &out, lse: &lse },
                &upstream,
                &mut grad,
            );
            let loss =
                |qkv: &[f32]| oracle(&spec, qkv).iter().zip(&upstream).map(|(a, b)| a * f64::from(*b)).sum();
            let checked = if rows > 10 { 300 } else { qkv.len() };
            // Differences of the f64 oracle, so the bound is that of the step alone.
            let error = gradient_error(&qkv[..checked], &grad[..checked], |head| {
                let mut moved = qkv.clone();
                moved[..checked].copy_from_slice(head);
                loss(&moved)
            });
            assert!(error < 2e-3, "{error}");
        }
    }

    #[test]
    fn a_sequence_does_not_see_its_neighbours() {
        let pool = Pool::new(2).unwrap();
        let spec = |cu_seqlens| Attention {
            num_heads: 2,
            num_kv_heads: 1,
            head_dim: 8,
            scale: 0.3,
            sliding_window: None,
            cu_seqlens,
        };
        let qkv = numbers(1, 12 * 32);
        let (mut packed, mut alone) = (vec![0.0; 12 * 16], vec![0.0; 5 * 16]);
        attention(&pool, &spec(&[0, 7, 12]), &qkv, &mut packed, &mut [0.0; 24]);
        attention(&pool, &spec(&[0, 5]), &qkv[7 * 32..], &mut alone, &mut [0.0; 10]);
        assert_eq!(packed[7 * 16..], alone);
    }
}
