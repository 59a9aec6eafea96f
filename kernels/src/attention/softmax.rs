//! The online softmax of one row. Leaves the products to `walk`.

use std::ops::Range;

use super::AttentionParams;
use crate::simd::{LANES, Op, Simd, exp, tanh};

/// What a query has seen so far: the largest score and the sum of `exp(score − max)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowState {
    pub(super) max: f32,
    pub(super) total: f32,
}

impl Default for RowState {
    fn default() -> Self {
        Self { max: f32::NEG_INFINITY, total: 0.0 }
    }
}

/// Turns the raw scores of a chunk into weights relative to the row's new maximum, zero where nothing is visible, and
/// rescales what was summed before.
pub(super) struct SoftmaxRow<'a> {
    /// A multiple of sixteen.
    pub(super) scores: &'a mut [f32],
    /// May reach past the chunk.
    pub(super) visible: Range<usize>,
    pub(super) state: &'a mut RowState,
    /// A multiple of sixteen.
    pub(super) sums: &'a mut [f32],
    pub(super) params: &'a AttentionParams,
}

impl Op for SoftmaxRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { scores, visible, state, sums, params } = self;
        let (start, end) = (visible.start, visible.end.min(scores.len()));
        if start >= end {
            scores.fill(0.0);
            return;
        }
        let groups = start / LANES..end.div_ceil(LANES);
        let (lanes, _) = scores.as_chunks_mut::<LANES>();
        let mut scale = params.scale;
        if let Some(cap) = params.soft_cap {
            for lanes in &mut lanes[groups.clone()] {
                let capped = tanh(s, s.mul(s.load(lanes), s.splat(scale / cap)));
                s.store(s.mul(capped, s.splat(cap)), lanes);
            }
            scale = 1.0;
        }
        lanes.as_flattened_mut()[groups.start * LANES..start].fill(f32::NEG_INFINITY);
        lanes.as_flattened_mut()[end..groups.end * LANES].fill(f32::NEG_INFINITY);

        let mut largest = s.splat(f32::NEG_INFINITY);
        for lanes in &lanes[groups.clone()] {
            largest = s.max(s.load(lanes), largest);
        }
        let largest = s.largest(largest) * scale;
        let max = if largest > state.max { largest } else { state.max };
        let mut total = s.splat(0.0);
        lanes[..groups.start].fill([0.0; LANES]);
        for lanes in &mut lanes[groups.clone()] {
            let weight = exp(s, s.mul_add(s.load(lanes), s.splat(scale), s.splat(-max)));
            total = s.add(total, weight);
            s.store(weight, lanes);
        }
        lanes[groups.end..].fill([0.0; LANES]);
        if max > state.max {
            let shrink = exp_scalar(s, state.max - max);
            state.total *= shrink;
            scale_all(s, sums, shrink);
        }
        state.max = max;
        state.total += s.sum(total);
    }
}

/// Adds what another partition has seen; both `sums` are multiples of sixteen long.
#[inline(always)]
pub(super) fn merge<S: Simd>(
    s: S,
    (state, sums): (&mut RowState, &mut [f32]),
    (new, new_sums): (RowState, &[f32]),
) {
    if new.total == 0.0 {
        return;
    }
    let max = if new.max > state.max { new.max } else { state.max };
    let (old_weight, new_weight) = (exp_scalar(s, state.max - max), exp_scalar(s, new.max - max));
    state.total = state.total * old_weight + new.total * new_weight;
    state.max = max;
    for (sums, new) in sums.as_chunks_mut::<LANES>().0.iter_mut().zip(new_sums.as_chunks::<LANES>().0) {
        let old = s.mul(s.load(sums), s.splat(old_weight));
        s.store(s.mul_add(s.load(new), s.splat(new_weight), old), sums);
    }
}

#[inline(always)]
fn exp_scalar<S: Simd>(s: S, x: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    s.store(exp(s, s.splat(x)), &mut lanes);
    lanes[0]
}

#[inline(always)]
fn scale_all<S: Simd>(s: S, x: &mut [f32], factor: f32) {
    for lanes in x.as_chunks_mut::<LANES>().0 {
        s.store(s.mul(s.load(lanes), s.splat(factor)), lanes);
    }
}
