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
    /// Sequence `i` goes on after all of sequence `prefixes[i]`, which is itself if it starts from nothing. Those that
    /// share a prefix follow it. Empty if all start from nothing.
    pub prefixes: &'a [u32],
}

/// A sequence: the rows of its prefix and its own, which are the later positions.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    prefix: usize,
    prefix_len: usize,
    from: usize,
    len: usize,
}

impl Sequence {
    /// Positions.
    fn total(&self) -> usize {
        self.prefix_len + self.len
    }

    /// Row of a position.
    fn row(&self, position: usize) -> usize {
        match position.checked_sub(self.prefix_len) {
            Some(own) => self.from + own,
            None => self.prefix + position,
        }
    }
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
        let is_prefix = |(index, prefix): (usize, &u32)| {
            let prefix = *prefix as usize;
            prefix == index
                || prefix < index && self.prefixes[prefix..index].iter().all(|p| *p as usize == prefix)
        };
        assert!(
            self.prefixes.is_empty() || self.prefixes.len() + 1 == self.cu_seqlens.len(),
            "one prefix per sequence"
        );
        assert!(self.prefixes.iter().enumerate().all(is_prefix), "sequences follow the prefix they share");
        assert!(qkv.len() == rows * self.row(), "attention input");
        assert!(
            out == rows * self.num_heads * self.head_dim && lse == rows * self.num_heads,
            "attention output"
        );
    }

    fn rows_of(&self, sequence: usize) -> std::ops::Range<usize> {
        self.cu_seqlens[sequence] as usize..self.cu_seqlens[sequence + 1] as usize
    }

    fn prefix_of(&self, sequence: usize) -> usize {
        self.prefixes.get(sequence).map_or(sequence, |prefix| *prefix as usize)
    }

    /// Sequences that share rows, `first..last`: each with a key head is a task.
    fn groups(&self) -> Vec<(usize, usize)> {
        let count = self.cu_seqlens.len().saturating_sub(1);
        let mut groups: Vec<(usize, usize)> = Vec::with_capacity(count);
        for sequence in 0..count {
            match groups.last_mut() {
                Some((_, last)) if self.prefix_of(sequence) < sequence => *last = sequence + 1,
                _ => groups.push((sequence, sequence + 1)),
            }
        }
        groups
    }

    fn sequence(&self, index: usize) -> Sequence {
        let (own, prefix) = (self.rows_of(index), self.prefix_of(index));
        let prefix = if prefix == index { own.start..own.start } else { self.rows_of(prefix) };
        Sequence { prefix: prefix.start, prefix_len: prefix.len(), from: own.start, len: own.len() }
    }

    /// First key any of the queries from `query` on sees.
    fn first_key(&self, query: usize) -> usize {
        self.sliding_window.map_or(0, |window| (query + 1).saturating_sub(window))
    }
}

#[derive(Default)]
struct Scratch {
    gathered: Vec<f32>,
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

/// Head `head` of all positions of a sequence, `[total, head_dim]`.
fn gather(spec: &Attention<'_>, qkv: &[f32], sequence: &Sequence, head: usize, out: &mut Vec<f32>) {
    let (stride, head_dim) = (spec.row(), spec.head_dim);
    out.clear();
    for position in 0..sequence.total() {
        let at = sequence.row(position) * stride + head * head_dim;
        out.extend_from_slice(&qkv[at..at + head_dim]);
    }
}

/// `out = softmax(scale · q kᵀ) v`, `[rows, num_heads * head_dim]`; `lse`, `[rows * num_heads]`, takes each query's
/// log-sum-exp, for the gradient.
///
/// # Panics
/// If the lengths do not fit.
pub fn attention(pool: &Pool, spec: &Attention<'_>, qkv: &[f32], out: &mut [f32], lse: &mut [f32]) {
    spec.check(qkv, out.len(), lse.len());
    let Attention { num_heads, num_kv_heads, head_dim, scale, .. } = *spec;
    let group = num_heads / num_kv_heads;
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    let groups = spec.groups();
    pool.run(groups.len() * num_kv_heads, |task| {
        let ((first, last), kv_head) = (groups[task / num_kv_heads], task % num_kv_heads);
        for sequence in (first..last).map(|index| spec.sequence(index)).filter(|sequence| sequence.len > 0) {
            SCRATCH.with_borrow_mut(|scratch| {
                let Scratch { gathered, scores, grads, keys_t, values, .. } = scratch;
                let total = sequence.total();
                gather(spec, qkv, &sequence, num_heads + kv_head, gathered);
                keys_t.pack(View::rows(gathered, head_dim).t(), head_dim, total);
                gather(spec, qkv, &sequence, num_heads + num_kv_heads + kv_head, gathered);
                values.pack(View::rows(gathered, head_dim), total, head_dim);
                scores.resize(BLOCK * total, 0.0);
                grads.resize(BLOCK * head_dim, 0.0);
                for head in kv_head * group..(kv_head + 1) * group {
                    for query in (sequence.prefix_len..total).step_by(BLOCK) {
                        let (rows, keys) = (BLOCK.min(total - query), total.min(query + BLOCK));
                        let first_row = sequence.row(query);
                        let q = &qkv[first_row * spec.row() + head * head_dim..];
                        let q = View::rows(q, spec.row());
                        let product = SerialProduct::new((rows, keys, head_dim), q, keys_t, scale);
                        gemm_serial(&product, scores, keys);
                        for row in 0..rows {
                            let position = query + row;
                            let scores = &mut scores[row * keys..(row + 1) * keys];
                            let value = softmax_row(scores, spec.first_key(position), position + 1);
                            let at = (first_row + row) * num_heads + head;
                            // SAFETY: one element per query and head.
                            unsafe { lse.part(at, at + 1)[0] = value };
                        }
                        let scores = View::rows(scores, keys);
                        let product = SerialProduct::new((rows, head_dim, keys), scores, values, 1.0);
                        gemm_serial(&product, grads, head_dim);
                        for (row, values) in grads.chunks_exact(head_dim).take(rows).enumerate() {
                            let at = ((first_row + row) * num_heads + head) * head_dim;
                            // SAFETY: heads of the output are disjoint.
                            unsafe { out.part(at, at + head_dim) }.copy_from_slice(values);
                        }
                    }
                }
            });
        }
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
    let sum = sum_of([&*seen], |[weight]| weight);
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
    let Attention { num_heads, num_kv_heads, head_dim, .. } = *spec;
    let stride = spec.row();
    let shared = Shared::new(grad_qkv);
    let groups = spec.groups();
    pool.run(groups.len() * num_kv_heads, |task| {
        let ((first, last), kv_head) = (groups[task / num_kv_heads], task % num_kv_heads);
        let rows = spec.rows_of(first).start..spec.rows_of(last - 1).end;
        // Of the keys and values of all rows of the group, which its sequences add to.
        let mut grad_keys = vec![0.0f32; rows.len() * head_dim];
        let mut grad_values = vec![0.0f32; rows.len() * head_dim];
        for sequence in (first..last).map(|index| spec.sequence(index)).filter(|sequence| sequence.len > 0) {
            let backward = SequenceBackward { spec, saved, grad_out, sequence, kv_head, grad_qkv: &shared };
            let (keys, values) = SCRATCH.with_borrow_mut(|scratch| backward.run(scratch));
            for position in 0..sequence.total() {
                let to = (sequence.row(position) - rows.start) * head_dim;
                let from = position * head_dim..(position + 1) * head_dim;
                for (into, grads) in [(&mut grad_keys, &keys), (&mut grad_values, &values)] {
                    let into = into[to..to + head_dim].iter_mut();
                    into.zip(&grads[from.clone()]).for_each(|(into, grad)| *into += grad);
                }
            }
        }
        for (index, row) in rows.enumerate() {
            let at = row * stride + (num_heads + kv_head) * head_dim;
            let span = index * head_dim..(index + 1) * head_dim;
            // SAFETY: this task alone has this key and value head of these rows.
            unsafe {
                shared.part(at, at + head_dim).copy_from_slice(&grad_keys[span.clone()]);
                let at = at + num_kv_heads * head_dim;
                shared.part(at, at + head_dim).copy_from_slice(&grad_values[span]);
            }
        }
    });
}

/// The gradients of one sequence and key head.
struct SequenceBackward<'a> {
    spec: &'a Attention<'a>,
    saved: &'a AttentionSaved<'a>,
    grad_out: &'a [f32],
    sequence: Sequence,
    kv_head: usize,
    grad_qkv: &'a Shared<'a, f32>,
}

impl SequenceBackward<'_> {
    /// Writes the gradients of its queries; returns those of the keys and values of all its positions.
    fn run(&self, scratch: &mut Scratch) -> (Vec<f32>, Vec<f32>) {
        let &Self { spec, saved, grad_out, sequence, kv_head, grad_qkv } = self;
        let Attention { num_heads, num_kv_heads, head_dim, scale, .. } = *spec;
        let (stride, group, width) = (spec.row(), num_heads / num_kv_heads, num_heads * head_dim);
        let Scratch { gathered, scores, grads, keys, keys_t, values_t, right, .. } = scratch;
        let total = sequence.total();
        gather(spec, saved.qkv, &sequence, num_heads + kv_head, gathered);
        keys_t.pack(View::rows(gathered, head_dim).t(), head_dim, total);
        keys.pack(View::rows(gathered, head_dim), total, head_dim);
        gather(spec, saved.qkv, &sequence, num_heads + num_kv_heads + kv_head, gathered);
        values_t.pack(View::rows(gathered, head_dim).t(), head_dim, total);
        scores.resize(BLOCK * total, 0.0);
        grads.resize(BLOCK * total, 0.0);
        let mut grad_k = vec![0.0f32; total * head_dim];
        let mut grad_v = vec![0.0f32; total * head_dim];
        let mut grad_q = vec![0.0f32; BLOCK * head_dim];
        for head in kv_head * group..(kv_head + 1) * group {
            for query in (sequence.prefix_len..total).step_by(BLOCK) {
                let (rows, seen) = (BLOCK.min(total - query), total.min(query + BLOCK));
                let first_row = sequence.row(query);
                let q = View::rows(&saved.qkv[first_row * stride + head * head_dim..], stride);
                let grad_o = View::rows(&grad_out[first_row * width + head * head_dim..], width);
                let forward = (rows, seen, head_dim);
                gemm_serial(&SerialProduct::new(forward, q, keys_t, scale), scores, seen);
                gemm_serial(&SerialProduct::new(forward, grad_o, values_t, 1.0), grads, seen);
                for row in 0..rows {
                    let position = query + row;
                    let at = (first_row + row) * width + head * head_dim;
                    let delta = dot_row(&grad_out[at..at + head_dim], &saved.out[at..at + head_dim]);
                    let span = row * seen..(row + 1) * seen;
                    let range = (spec.first_key(position), position + 1);
                    let lse = saved.lse[(first_row + row) * num_heads + head];
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
                    let at = (first_row + row) * stride + head * head_dim;
                    // SAFETY: a query head belongs to one key head, hence to one task.
                    unsafe { grad_qkv.part(at, at + head_dim) }.copy_from_slice(grad);
                }
            }
        }
        (grad_k, grad_v)
    }
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
                prefixes: &[],
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
            prefixes: &[],
        };
        let qkv = numbers(1, 12 * 32);
        let (mut packed, mut alone) = (vec![0.0; 12 * 16], vec![0.0; 5 * 16]);
        attention(&pool, &spec(&[0, 7, 12]), &qkv, &mut packed, &mut [0.0; 24]);
        attention(&pool, &spec(&[0, 5]), &qkv[7 * 32..], &mut alone, &mut [0.0; 10]);
        assert_eq!(packed[7 * 16..], alone);
    }

    #[test]
    fn sequences_that_share_a_prefix_are_as_if_each_had_it() {
        let pool = Pool::new(2).unwrap();
        fn spec<'a>(
            cu_seqlens: &'a [u32],
            prefixes: &'a [u32],
            sliding_window: Option<usize>,
        ) -> Attention<'a> {
            let (num_heads, num_kv_heads, head_dim) = (4, 2, 8);
            Attention { num_heads, num_kv_heads, head_dim, scale: 0.3, sliding_window, cu_seqlens, prefixes }
        }
        let num_heads = 4;
        let (stride, width) = (64, 32);
        // Alone; a prompt of 50 with answers of 3, 0 and 60; a prompt of 2 with one of 1.
        let shared_seqlens = [0u32, 5, 55, 58, 58, 118, 120, 121];
        let prefixes = [0u32, 1, 1, 1, 1, 5, 5];
        let own_rows = [(0..0, 0..5), (5..55, 55..58), (5..55, 58..118), (118..120, 120..121), (5..5, 5..55)];
        let (qkv, upstream) = (numbers(1, 121 * stride), numbers(2, 121 * width));
        for sliding_window in [None, Some(20)] {
            let shared = spec(&shared_seqlens, &prefixes, sliding_window);
            let (mut out, mut lse) = (vec![0.0; 121 * width], vec![0.0; 121 * num_heads]);
            attention(&pool, &shared, &qkv, &mut out, &mut lse);
            let mut grad = vec![f32::NAN; qkv.len()];
            let saved = AttentionSaved { qkv: &qkv, out: &out, lse: &lse };
            attention_backward(&pool, &shared, &saved, &upstream, &mut grad);

            let mut want_grad = vec![0.0; qkv.len()];
            for (index, (prefix, own)) in own_rows.iter().enumerate() {
                let rows: Vec<usize> = prefix.clone().chain(own.clone()).collect();
                // The first prompt's own gradient counts once, in the last of the list.
                let counts = |at: usize| at >= prefix.len() || prefix.len() == 2;
                let pick = |from: &[f32], width: usize| -> Vec<f32> {
                    rows.iter().flat_map(|row| from[row * width..(row + 1) * width].to_vec()).collect()
                };
                let (qkv, mut upstream) = (pick(&qkv, stride), pick(&upstream, width));
                for at in 0..rows.len() {
                    if !counts(at) {
                        upstream[at * width..(at + 1) * width].fill(0.0);
                    }
                }
                let cu_seqlens = [0, rows.len() as u32];
                let alone = spec(&cu_seqlens, &[], sliding_window);
                let (mut own, mut lse) = (vec![0.0; rows.len() * width], vec![0.0; rows.len() * num_heads]);
                attention(&pool, &alone, &qkv, &mut own, &mut lse);
                for (got, want) in pick(&out, width).iter().zip(&own) {
                    assert!((got - want).abs() < 1e-5, "{index}: {got} {want}");
                }
                let mut grad = vec![0.0; qkv.len()];
                let saved = AttentionSaved { qkv: &qkv, out: &own, lse: &lse };
                attention_backward(&pool, &alone, &saved, &upstream, &mut grad);
                for (at, row) in rows.iter().enumerate() {
                    for column in 0..stride {
                        want_grad[row * stride + column] += grad[at * stride + column];
                    }
                }
            }
            for (got, want) in grad.iter().zip(&want_grad) {
                assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "{got} {want}");
            }
        }
    }
}
