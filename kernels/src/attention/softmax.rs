//! The online softmax of one row. Leaves the products to `walk`.

use std::ops::Range;

use super::AttentionParams;
use crate::simd::{LANES, Op, Simd, exp2, tanh};

/// What a query has seen so far: the largest score, in units of ln 2, and the sum of `2^(score − max)`.
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
        let mut scale = params.scale * std::f32::consts::LOG2_E;
        if let Some(cap) = params.soft_cap {
            for lanes in &mut lanes[groups.clone()] {
                let capped = tanh(s, s.mul(s.load(lanes), s.splat(params.scale / cap)));
                s.store(s.mul(capped, s.splat(cap)), lanes);
            }
            scale = std::f32::consts::LOG2_E;
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
            let weight = power(s, s.mul_add(s.load(lanes), s.splat(scale), s.splat(-max)));
            total = s.add(total, weight);
            s.store(weight, lanes);
        }
        lanes[groups.end..].fill([0.0; LANES]);
        // Every other row or so has a new maximum, which no machine foresees: the others are multiplied by one.
        let shrink = power_scalar(s, if max > state.max { state.max - max } else { 0.0 });
        scale_all(s, sums, shrink);
        state.total = state.total * shrink + s.sum(total);
        state.max = max;
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
    let (old_weight, new_weight) = (power_scalar(s, state.max - max), power_scalar(s, new.max - max));
    state.total = state.total * old_weight + new.total * new_weight;
    state.max = max;
    for (sums, new) in sums.as_chunks_mut::<LANES>().0.iter_mut().zip(new_sums.as_chunks::<LANES>().0) {
        let old = s.mul(s.load(sums), s.splat(old_weight));
        s.store(s.mul_add(s.load(new), s.splat(new_weight), old), sums);
    }
}

/// `2^x` of numbers not far above zero; zero where it would be too small to be normal.
#[inline(always)]
fn power<S: Simd>(s: S, x: S::V) -> S::V {
    let power = exp2(s, x);
    s.sub(power, s.keep_above(power, s.splat(-126.0), x))
}

#[inline(always)]
fn power_scalar<S: Simd>(s: S, x: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    s.store(power(s, s.splat(x)), &mut lanes);
    lanes[0]
}

#[inline(always)]
fn scale_all<S: Simd>(s: S, x: &mut [f32], factor: f32) {
    for lanes in x.as_chunks_mut::<LANES>().0 {
        s.store(s.mul(s.load(lanes), s.splat(factor)), lanes);
    }
}
