//! The two products of attention where the machine multiplies whole tiles: sixteen rows of a run at once with sixteen tokens, or
//! sixteen numbers of a head. Leaves everything else to `walk`.
//!
//! Values are summed by sixteen tokens at a time, so that the sums of a row do not depend on which blocks follow each other in
//! a run.
#![expect(unsafe_code, reason = "blocks are addressed by pointer")]

use std::ops::Range;

use super::cache::GROUP;
use super::call::Call;
use super::segment::Run;
use super::walk::{Scratch, Walk};
use super::{KvCache, KvDtype};
use crate::buffer::Buffer;
use crate::simd::tile::Sums;
use crate::simd::tiles::{Gathered, WIDE};
use crate::simd::{LANES, Simd};

/// Words of sixteen values of a column.
const VALUE_WORDS: usize = GROUP / 2;

/// Whether both products of such a cache are of tiles: then queries and weights are pairs of bf16 too.
#[inline(always)]
pub(super) fn are_tiles<S: Simd>(cache: &KvCache) -> bool {
    S::HAS_TILES && cache.dtype() == KvDtype::Bf16 && cache.head_dim().is_multiple_of(2 * LANES)
}

/// Rows of whole tiles: those beyond the unit's may be anything.
#[inline(always)]
pub(super) fn padded_rows(rows: usize) -> usize {
    rows + LANES - 1
}

/// What products of tiles work in.
#[derive(Default)]
pub(super) struct TileScratch {
    /// Where the tiles of a product begin, and what is asked for meanwhile.
    tiles: Vec<*const u32>,
    ahead: Vec<*const u32>,
    /// The last values of a run, zeros for those that there are not: `[8][padded head_dim]` words.
    last: Buffer<u32>,
    /// Sums of a tile of which only some rows are the run's.
    sums: Buffer<f32>,
}

impl Walk<'_> {
    /// Scores of a run against the keys of some levels; those of the rows after the run, up to a whole tile, are overwritten,
    /// so that runs must follow each other.
    #[inline(always)]
    pub(super) fn tile_scores<S: Simd>(
        &self,
        s: S,
        tokens: Range<usize>,
        run: &Run,
        first: usize,
        scratch: &mut Scratch,
    ) {
        let Call { cache, plan, .. } = self.call;
        let ((keys, words, _), (values, _)) = (cache.key_words(), cache.value_words());
        let table = plan.table(run.member);
        let TileScratch { tiles, ahead, .. } = &mut scratch.tiles;
        for token in tokens.clone().step_by(WIDE * GROUP) {
            let columns = WIDE.min((tokens.end - token).div_ceil(GROUP));
            tiles.clear();
            ahead.clear();
            for (step, j) in (0..words / LANES).flat_map(|step| (0..columns).map(move |j| (step, j))) {
                let at = cache.place(table, self.kv_head, token + j * GROUP) * words + step * LANES * LANES;
                tiles.push(keys.wrapping_add(at));
                // Heads of whole registers: values take as many words as keys, and are needed next.
                ahead.push(values.wrapping_add(at));
            }
            for row in run.rows.clone().step_by(LANES) {
                let rows = &scratch.queries[row * words..][..LANES * words];
                let scores = &mut scratch.scores[row * plan.chunk + token - first..];
                let scores = &mut scores[..(LANES - 1) * plan.chunk + columns * LANES];
                let sums = Sums { start: scores.as_mut_ptr(), row_step: plan.chunk, resume: false };
                let product = Gathered {
                    rows: rows.as_ptr(),
                    row_step: words,
                    tiles,
                    columns,
                    word_step: LANES,
                    depth: LANES,
                    ahead: if row == run.rows.start { ahead } else { &[] },
                    sums,
                };
                // SAFETY: rows and scores are as long as sliced, blocks were checked to be in the cache, whose groups of
                // sixteen tokens hold `words` steps of sixteen words, and the tiles are of as many.
                unsafe { s.multiply_gathered(&product) };
            }
        }
    }

    /// Adds the values of some tokens, weighted by a run's probabilities.
    #[inline(always)]
    pub(super) fn tile_values<S: Simd>(
        &self,
        s: S,
        tokens: Range<usize>,
        run: &Run,
        first: usize,
        scratch: &mut Scratch,
    ) {
        let Call { cache, plan, .. } = self.call;
        let (table, (values, _)) = (plan.table(run.member), cache.value_words());
        let width = cache.padded_head_dim();
        let address = |token| values.wrapping_add(cache.place(table, self.kv_head, token) / 2 * width);
        // What lies past the last token in memory may be anything, so that a probability of zero does not make it harmless.
        let partial = tokens.len() % GROUP;
        let TileScratch { tiles, ahead, last, sums: some } = &mut scratch.tiles;
        let next = scratch.next_keys.left();
        if partial > 0 {
            last.resize(VALUE_WORDS * width);
            // SAFETY: the block was checked to be in the cache, and holds a multiple of sixteen tokens.
            let words =
                unsafe { std::slice::from_raw_parts(address(tokens.end - partial), VALUE_WORDS * width) };
            let (present, absent) = last.split_at_mut(partial.div_ceil(2) * width);
            present.copy_from_slice(&words[..present.len()]);
            absent.fill(0);
            if !partial.is_multiple_of(2) {
                present[partial / 2 * width..].iter_mut().for_each(|word| *word &= 0xffff);
            }
        }
        for column in (0..width).step_by(WIDE * LANES) {
            let columns = WIDE.min((width - column) / LANES);
            tiles.clear();
            ahead.clear();
            for (index, token) in tokens.clone().step_by(GROUP).enumerate() {
                let is_whole = tokens.end - token >= GROUP;
                let start = if is_whole { address(token) } else { last.as_ptr() };
                tiles.extend((0..columns).map(|j| start.wrapping_add(column + j * LANES)));
                // Of as many tokens as are summed; what is in hand if there are no more.
                if !next.is_empty() {
                    let next = next.get(index).copied().unwrap_or(start);
                    ahead.extend((0..columns).map(|j| next.wrapping_add((column + j * LANES) * VALUE_WORDS)));
                }
            }
            for row in run.rows.clone().step_by(LANES) {
                let weights = &scratch.pairs[(row * plan.chunk + tokens.start - first) / 2..];
                let weights =
                    &weights[..((LANES - 1) * plan.chunk + tokens.len().next_multiple_of(GROUP)) / 2];
                let sums = &mut scratch.sums[row * width + column..];
                let sums = &mut sums[..(LANES - 1) * width + columns * LANES];
                let present = (run.rows.end - row).min(LANES);
                // Sums of the rows after the run are others'.
                let (start, row_step) = match present < LANES {
                    true => {
                        some.resize(LANES * WIDE * LANES);
                        (copied(sums, width, some, WIDE * LANES, (present, columns)), WIDE * LANES)
                    }
                    false => (sums.as_mut_ptr(), width),
                };
                let product = Gathered {
                    rows: weights.as_ptr(),
                    row_step: plan.chunk / 2,
                    tiles,
                    columns,
                    word_step: width,
                    depth: VALUE_WORDS,
                    ahead: if row == run.rows.start { ahead } else { &[] },
                    sums: Sums { start, row_step, resume: true },
                };
                // SAFETY: rows and sums are as long as sliced, or a whole tile; blocks were checked to be in the cache, where
                // a word of every column is `width` words from the next, and the tiles have as many rows.
                unsafe { s.multiply_gathered(&product) };
                if present < LANES {
                    copied(some, WIDE * LANES, sums, width, (present, columns));
                }
            }
        }
        scratch.next_keys.asked += tokens.len().div_ceil(GROUP);
    }
}

/// Copies some rows of tiles between matrices, and gives where they lie now.
#[inline(always)]
fn copied(
    from: &[f32],
    from_step: usize,
    to: &mut [f32],
    to_step: usize,
    (rows, columns): (usize, usize),
) -> *mut f32 {
    for i in 0..rows {
        to[i * to_step..][..columns * LANES].copy_from_slice(&from[i * from_step..][..columns * LANES]);
    }
    to.as_mut_ptr()
}
