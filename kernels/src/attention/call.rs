//! What the tasks of one call of attention share, and the results of sequences that several tasks walked. Leaves the
//! walking to `walk`.
#![expect(unsafe_code, reason = "tasks write disjoint parts of the output and of the partial results")]

use std::cell::RefCell;

use super::plan::{AttentionPlan, partial_width};
use super::softmax::{RowState, merge};
use super::{AttentionParams, KvCache};
use crate::Rows;
use crate::buffer::Buffer;
use crate::rows::Shared;
use crate::simd::{LANES, Op, Simd};

thread_local! {
    /// Sums of the unit whose partial results are merged; kept for the next.
    static MERGED: RefCell<(Buffer<f32>, Vec<RowState>)> = RefCell::default();
}

/// One call's operands.
pub(super) struct Call<'a> {
    pub(super) q: Rows<'a>,
    pub(super) cache: &'a KvCache,
    pub(super) params: &'a AttentionParams,
    pub(super) plan: &'a AttentionPlan,
    pub(super) out: Shared<'a, f32>,
    pub(super) partials: Shared<'a, f32>,
}

impl Call<'_> {
    /// Query heads of a key-value head.
    pub(super) fn group(&self) -> usize {
        self.params.num_heads / self.cache.num_kv_heads()
    }

    /// Writes `sums / total` of a unit's rows to the output.
    #[inline(always)]
    pub(super) fn write<S: Simd>(
        &self,
        s: S,
        (unit, kv_head): (usize, usize),
        sums: &[f32],
        states: &[RowState],
    ) {
        let (group, head_dim) = (self.group(), self.cache.head_dim());
        for member in &self.plan.members[self.plan.units[unit].members.clone()] {
            for row in 0..member.tokens * group {
                let (token, head) = (member.first + row / group, kv_head * group + row % group);
                let at = (token * self.params.num_heads + head) * head_dim;
                // SAFETY: one task (or the caller, after all of them) owns the heads of these tokens.
                let out = unsafe { self.out.part(at..at + head_dim) };
                let row = member.row + row;
                let inverse = 1.0 / states[row].total;
                let sums = &sums[row * self.cache.padded_head_dim()..];
                let (whole, rest) = out.as_chunks_mut();
                let (sums, last) = sums.split_at(whole.len() * LANES);
                for (out, sums) in whole.iter_mut().zip(sums.as_chunks().0) {
                    s.store(s.mul(s.load(sums), s.splat(inverse)), out);
                }
                rest.iter_mut().zip(last).for_each(|(out, sum)| *out = sum * inverse);
            }
        }
    }
}

/// Merges the partial results of all split units, partitions in order, after their tasks are done.
pub(super) struct Finish<'a> {
    pub(super) call: &'a Call<'a>,
}

impl Op for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Call { cache, plan, partials, .. } = self.call;
        let (width, step) = (cache.padded_head_dim(), partial_width(cache));
        let (mut sums, mut states) = MERGED.take();
        for parts in plan.split.chunk_by(|a, b| (a.unit, &a.kv_heads) == (b.unit, &b.kv_heads)) {
            let rows = plan.units[parts[0].unit].rows;
            sums.resize(rows * width);
            sums.fill(0.0);
            states.clear();
            states.resize(rows, RowState::default());
            for start in parts.iter().filter_map(|task| task.partial) {
                for (row, state) in states.iter_mut().enumerate() {
                    let at = start + row * step;
                    // SAFETY: the tasks are done; nobody else uses the partial results.
                    let partial = unsafe { partials.part(at..at + step) };
                    let new = RowState { max: partial[width], total: partial[width + 1] };
                    merge(s, (state, &mut sums[row * width..][..width]), (new, &partial[..width]));
                }
            }
            self.call.write(s, (parts[0].unit, parts[0].kv_heads.start), &sums, &states);
        }
        MERGED.set((sums, states));
    }
}
