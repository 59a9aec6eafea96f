//! What is asked for before attention needs it: a sequence of its own is met by few queries, so that its keys and values take longer
//! to arrive than to multiply, and no machine foresees the next block. Leaves the products to `walk` and `tiles`, which say when.

use std::ops::Range;

use super::cache::GROUP;
use super::call::Call;
use super::segment::Chunk;
use super::walk::Walk;
use crate::simd::{LANES, Simd};

/// Where the keys of the next chunk lie, sixteen tokens at a time, of which the first `asked` were asked for.
#[derive(Default)]
pub(super) struct NextKeys {
    places: Vec<*const u32>,
    pub(super) asked: usize,
}

impl NextKeys {
    /// Those that were not asked for.
    pub(super) fn left(&self) -> &[*const u32] {
        self.places.get(self.asked..).unwrap_or_default()
    }
}

impl Walk<'_> {
    /// Finds what is to be asked for while the values of a chunk are summed: the keys of the next, or of the next head's first.
    pub(super) fn look_ahead(&self, chunk: &Chunk, next_keys: &mut NextKeys) {
        let Call { cache, plan, .. } = self.call;
        let (keys, words, _) = cache.key_words();
        let chunks = plan.chunks(self.task.unit, self.task.partitions.clone());
        let next = chunks.partition_point(|other| other.first <= chunk.first);
        let (next, kv_head) = match chunks.get(next) {
            Some(next) => (Some(next), self.kv_head),
            None => (chunks.first().filter(|_| self.kv_head + 1 < self.task.kv_heads.end), self.kv_head + 1),
        };
        next_keys.places.clear();
        next_keys.asked = 0;
        for (levels, run) in next.into_iter().flat_map(|next| plan.segments.of(next)) {
            let table = plan.table(run.member);
            let tokens = levels.start * cache.block_size()..(levels.end * cache.block_size()).min(run.end);
            let groups = tokens.step_by(GROUP);
            next_keys
                .places
                .extend(groups.map(|at| keys.wrapping_add(cache.place(table, kv_head, at) * words)));
        }
    }

    /// Asks for the values of some tokens of a member, sixteen at a time.
    #[inline(always)]
    pub(super) fn ask_for_values<S: Simd>(&self, s: S, table: &[u32], tokens: Range<usize>) {
        let Call { cache, .. } = self.call;
        let ((values, per_word), width) = (cache.value_words(), cache.padded_head_dim());
        for token in tokens.step_by(GROUP) {
            let start = values.wrapping_add(cache.place(table, self.kv_head, token) / per_word * width);
            ask(s, start, GROUP / per_word * width);
        }
    }

    /// Asks for the keys of the next chunk: of as many tokens as are summed meanwhile.
    #[inline(always)]
    pub(super) fn ask_for_keys<S: Simd>(&self, s: S, tokens: usize, next_keys: &mut NextKeys) {
        let words = GROUP * self.call.cache.key_words().1;
        let groups = tokens.div_ceil(GROUP);
        for &start in next_keys.left().iter().take(groups) {
            ask(s, start, words);
        }
        next_keys.asked += groups;
    }
}

#[inline(always)]
fn ask<S: Simd>(s: S, start: *const u32, words: usize) {
    for word in (0..words).step_by(LANES) {
        s.prefetch_far(start.wrapping_add(word).cast());
    }
}
