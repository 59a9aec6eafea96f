//! One task of attention: walks the blocks of a unit's members, each block once for all of them. Leaves who is in a unit
//! to `plan`, who shares a block to `segment` and the row's softmax to `softmax`.
#![expect(unsafe_code, reason = "blocks are addressed by pointer")]

use std::cell::RefCell;
use std::ops::Range;

use super::KvCache;
use super::ahead::NextKeys;
use super::call::Call;
use super::plan::{MAX_CHUNK_BLOCKS, Member, Task, partial_width};
use super::segment::{Chunk, Run};
use super::softmax::{RowState, SoftmaxRow, merge};
use super::tiles::{TileScratch, are_tiles, padded_rows};
use crate::buffer::Buffer;
use crate::simd::tile::{Layout, MAX_COLUMNS, Multiply, Operands, Sums, Words, columns_for};
use crate::simd::{LANES, Op, Simd, dispatch, narrowed, paired};

/// Blocks of values that few queries meet before keys are asked for.
const PIECE_BLOCKS: usize = 4;

thread_local! {
    /// Boxed: it is taken and put back for each head of a task.
    static SCRATCH: RefCell<Option<Box<Scratch>>> = RefCell::default();
}

#[cfg(test)]
thread_local! {
    /// Blocks of keys read on this thread.
    pub(super) static BLOCKS_READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// What a task works in; kept for the next.
#[derive(Default)]
pub(super) struct Scratch {
    /// Queries as left operand, `[rows][words]`.
    pub(super) queries: Buffer<u32>,
    /// Scores, then probabilities, of a chunk: `[rows][chunk]`.
    pub(super) scores: Buffer<f32>,
    /// Probabilities as pairs of bf16, `[rows][chunk / 2]`.
    pub(super) pairs: Buffer<u32>,
    /// Sums of a partition, `[rows][padded head_dim]`, and their maxima and totals.
    pub(super) sums: Buffer<f32>,
    states: Vec<RowState>,
    /// The same of all partitions so far.
    merged: Buffer<f32>,
    merged_states: Vec<RowState>,
    /// One pair of values with the odd one cleared.
    last_pair: Buffer<u32>,
    pub(super) next_keys: NextKeys,
    pub(super) tiles: TileScratch,
}

/// A task of a call, at one of its heads.
pub(super) struct Walk<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) task: &'a Task,
    pub(super) kv_head: usize,
}

impl Op for Walk<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Call { cache, plan, partials, .. } = self.call;
        let rows = plan.units[self.task.unit].rows;
        let width = cache.padded_head_dim();
        let mut scratch = SCRATCH.take().unwrap_or_default();
        self.load_queries(s, &mut scratch.queries);
        let padded = padded_rows(rows);
        scratch.scores.resize(padded * plan.chunk);
        scratch.pairs.resize(padded * plan.chunk / 2);
        scratch.last_pair.resize(width);
        if are_tiles::<S>(cache) {
            s.begin_tiles([LANES, LANES / 2]);
        }
        for partition in self.task.partitions.clone() {
            scratch.sums.resize(padded * width);
            scratch.sums.fill(0.0);
            scratch.states.clear();
            scratch.states.resize(rows, RowState::default());
            for chunk in plan.chunks(self.task.unit, partition..partition + 1) {
                self.look_ahead(chunk, &mut scratch.next_keys);
                self.chunk(s, chunk, &mut scratch);
            }
            if partition == self.task.partitions.start {
                std::mem::swap(&mut scratch.sums, &mut scratch.merged);
                std::mem::swap(&mut scratch.states, &mut scratch.merged_states);
            } else {
                for row in 0..rows {
                    let range = row * width..(row + 1) * width;
                    merge(
                        s,
                        (&mut scratch.merged_states[row], &mut scratch.merged[range.clone()]),
                        (scratch.states[row], &scratch.sums[range]),
                    );
                }
            }
        }
        if are_tiles::<S>(cache) {
            s.end_tiles();
        }
        if let Some(start) = self.task.partial {
            let step = partial_width(cache);
            for row in 0..rows {
                let at = start + row * step;
                // SAFETY: each task has its own partial results.
                let partial = unsafe { partials.part(at..at + step) };
                let (sums, state) = partial.split_at_mut(width);
                sums.copy_from_slice(&scratch.merged[row * width..][..width]);
                state.copy_from_slice(&[scratch.merged_states[row].max, scratch.merged_states[row].total]);
            }
        } else {
            self.call.write(s, (self.task.unit, self.kv_head), &scratch.merged, &scratch.merged_states);
        }
        SCRATCH.set(Some(scratch));
    }
}

impl Walk<'_> {
    fn members(&self) -> &[Member] {
        &self.call.plan.members[self.call.plan.units[self.task.unit].members.clone()]
    }

    /// Copies the queries of the unit, as f32 or as pairs of bf16.
    #[inline(always)]
    fn load_queries<S: Simd>(&self, s: S, queries: &mut Buffer<u32>) {
        let Call { q, cache, params, plan, .. } = self.call;
        let (group, head_dim) = (self.call.group(), cache.head_dim());
        let words = query_words::<S>(cache);
        queries.resize(padded_rows(plan.units[self.task.unit].rows) * words);
        for member in self.members() {
            for row in 0..member.tokens * group {
                let token = q.row(member.first + row / group, params.num_heads * head_dim);
                let query = &token[(self.kv_head * group + row % group) * head_dim..][..head_dim];
                let out = &mut queries[(member.row + row) * words..][..words];
                if words < head_dim {
                    to_pairs(s, query, out);
                } else {
                    out.iter_mut().zip(query).for_each(|(out, x)| *out = x.to_bits());
                }
            }
        }
    }

    /// Takes the keys and values of a chunk into account.
    #[inline(always)]
    fn chunk<S: Simd>(&self, s: S, chunk: &Chunk, scratch: &mut Scratch) {
        let Call { cache, params, plan, .. } = self.call;
        let (block_size, first) = (cache.block_size(), chunk.first);
        let are_tiles = are_tiles::<S>(cache);
        for (levels, run) in plan.segments.of(chunk) {
            #[cfg(test)]
            BLOCKS_READ.set(BLOCKS_READ.get() + levels.len());
            let end = (levels.end * block_size).min(run.end.next_multiple_of(LANES));
            let tokens = levels.start * block_size..end;
            match are_tiles {
                true => self.tile_scores(s, tokens, run, first, scratch),
                false => self.scores(s, tokens, run, first, scratch),
            }
        }
        let seen = chunk.levels.start * block_size - first..chunk.levels.end * block_size - first;
        let has_pairs = query_words::<S>(cache) < cache.head_dim();
        let group = self.call.group();
        let tokens = first..first + plan.chunk;
        for member in self.members().iter().filter(|member| member.sees(tokens.clone(), params)) {
            for row in 0..member.tokens * group {
                let position = member.position + row / group;
                let low = params.sliding_window.map_or(0, |window| (position + 1).saturating_sub(window));
                let row = member.row + row;
                let width = cache.padded_head_dim();
                let scores = &mut scratch.scores[row * plan.chunk..][seen.clone()];
                let offset = first + seen.start;
                SoftmaxRow {
                    scores: &mut *scores,
                    visible: low.saturating_sub(offset)..(position + 1).saturating_sub(offset),
                    state: &mut scratch.states[row],
                    sums: &mut scratch.sums[row * width..][..width],
                    params,
                }
                .run(s);
                if has_pairs {
                    let pairs = &mut scratch.pairs[row * plan.chunk / 2..][seen.start / 2..seen.end / 2];
                    to_pairs(s, scores, pairs);
                }
            }
        }
        for (levels, run) in plan.segments.of(chunk) {
            let tokens = levels.start * block_size..(levels.end * block_size).min(run.end);
            match are_tiles {
                true => self.tile_values(s, tokens, run, first, scratch),
                false => self.values(s, tokens, run, first, scratch),
            }
        }
    }

    /// Scores of a run against the keys of some tokens.
    #[inline(always)]
    fn scores<S: Simd>(&self, s: S, tokens: Range<usize>, run: &Run, first: usize, scratch: &mut Scratch) {
        let Call { cache, plan, .. } = self.call;
        let (keys, key_words, bf16) = cache.key_words();
        let table = plan.table(run.member);
        let words = query_words::<S>(cache);
        let most = columns_for::<S>(run.rows.len().min(S::MAX_ROWS));
        for token in tokens.clone().step_by(most * LANES) {
            let columns = most.min((tokens.end - token) / LANES);
            self.ask_for_values(s, table, token..token + columns * LANES);
            let mut tiles = [keys; MAX_COLUMNS];
            for (j, tile) in tiles.iter_mut().enumerate().take(columns) {
                *tile = keys.wrapping_add(cache.place(table, self.kv_head, token + j * LANES) * key_words);
            }
            for rows in panels::<S>(run.rows.clone()) {
                let scores = &mut scratch.scores[rows.start * plan.chunk + token - first..];
                // SAFETY: the rows of queries and scores are those of the unit; blocks were checked to be in the cache,
                // whose 16-token groups hold `key_words` steps of sixteen words.
                let product = unsafe {
                    Multiply::new(
                        (rows.len(), columns),
                        key_words,
                        Operands {
                            rows: scratch.queries[rows.start * words..].as_ptr(),
                            tiles,
                            words: if bf16 { Words::Pairs } else { Words::Single },
                            layout: Layout::Strided {
                                row_step: words,
                                word_step: 1,
                                blocks: &[0],
                                step: LANES,
                            },
                        },
                        Sums { start: scores.as_mut_ptr(), row_step: plan.chunk, resume: false },
                    )
                };
                dispatch(S::ISA, product);
            }
        }
    }

    /// Adds the values of some tokens, weighted by a run's probabilities.
    #[inline(always)]
    fn values<S: Simd>(&self, s: S, tokens: Range<usize>, run: &Run, first: usize, scratch: &mut Scratch) {
        let Call { cache, plan, .. } = self.call;
        let (table, (values, per_word)) = (plan.table(run.member), cache.value_words());
        let (block_size, width) = (cache.block_size(), cache.padded_head_dim());
        let Range { start, end } = tokens;
        let block = |level: usize| cache.first_token(table[level] as usize, self.kv_head) / per_word * width;
        // Whole blocks, then the pairs (or tokens) of a partial one, then a last token without its pair: what lies past
        // it in memory may be anything, so that a probability of zero does not make it harmless.
        let mut whole = [0; MAX_CHUNK_BLOCKS];
        let num_whole = (end - start) / block_size;
        whole.iter_mut().zip(start / block_size..).take(num_whole).for_each(|(at, level)| *at = block(level));
        // Few queries are met by some blocks at a time, and keys are asked for in between.
        let piece = if run.rows.len() <= S::MAX_ROWS { PIECE_BLOCKS } else { MAX_CHUNK_BLOCKS };
        for (blocks, token) in whole[..num_whole].chunks(piece).zip((start..).step_by(piece * block_size)) {
            self.ask_for_keys(s, blocks.len() * block_size, &mut scratch.next_keys);
            self.add::<S>(run, scratch, values, blocks, block_size / per_word, token - first);
        }
        let partial = end % block_size;
        if partial > 0 {
            let (level, at) = (end / block_size, end - partial - first);
            self.add::<S>(run, scratch, values, &[block(level)], partial / per_word, at);
            if !partial.is_multiple_of(per_word) {
                let token = cache.first_token(table[level] as usize, self.kv_head) + partial - 1;
                let mut last_pair = std::mem::take(&mut scratch.last_pair);
                cache.even_values(token, &mut last_pair);
                self.add::<S>(run, scratch, last_pair.as_ptr(), &[0], 1, end - 1 - first);
                scratch.last_pair = last_pair;
            }
        }
    }

    /// Adds `depth` words of each of `blocks` of values, the first of them at token `offset` of the chunk.
    #[inline(always)]
    fn add<S: Simd>(
        &self,
        run: &Run,
        scratch: &mut Scratch,
        values: *const u32,
        blocks: &[usize],
        depth: usize,
        offset: usize,
    ) {
        let Call { cache, plan, .. } = self.call;
        let (chunk, width) = (plan.chunk, cache.padded_head_dim());
        let bf16 = cache.key_words().2;
        let most = columns_for::<S>(run.rows.len().min(S::MAX_ROWS));
        for column in (0..width).step_by(most * LANES) {
            let columns = most.min((width - column) / LANES);
            let mut tiles = [values; MAX_COLUMNS];
            for (j, tile) in tiles.iter_mut().enumerate().take(columns) {
                *tile = values.wrapping_add(column + j * LANES);
            }
            for rows in panels::<S>(run.rows.clone()) {
                let (weights, row_step) = if bf16 && S::HAS_DOT {
                    (scratch.pairs[(rows.start * chunk + offset) / 2..].as_ptr(), chunk / 2)
                } else {
                    (scratch.scores[rows.start * chunk + offset..].as_ptr().cast(), chunk)
                };
                let sums = scratch.sums[rows.start * width + column..].as_mut_ptr();
                // SAFETY: rows of probabilities and sums are those of the unit, `depth` words of each block lie in the
                // chunk and in the cache, where a word of every column is `width` words from the next.
                let product = unsafe {
                    Multiply::new(
                        (rows.len(), columns),
                        depth,
                        Operands {
                            rows: weights,
                            tiles,
                            words: if bf16 { Words::Pairs } else { Words::Single },
                            layout: Layout::Strided { row_step, word_step: 1, blocks, step: width },
                        },
                        Sums { start: sums, row_step: width, resume: true },
                    )
                };
                dispatch(S::ISA, product);
            }
        }
    }
}

/// Words of a query as left operand.
#[inline(always)]
fn query_words<S: Simd>(cache: &KvCache) -> usize {
    let are_pairs = cache.key_words().2 && S::HAS_DOT || are_tiles::<S>(cache);
    if are_pairs { cache.head_dim() / 2 } else { cache.head_dim() }
}

/// Cuts rows into as few panels as the registers allow, of nearly equal height.
#[inline(always)]
fn panels<S: Simd>(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let count = rows.len().div_ceil(S::MAX_ROWS);
    (0..count).map(move |i| rows.start + i * rows.len() / count..rows.start + (i + 1) * rows.len() / count)
}

/// Rounds to pairs of bf16: `x` is twice as long as `pairs`.
#[inline(always)]
fn to_pairs<S: Simd>(s: S, x: &[f32], pairs: &mut [u32]) {
    let ((whole, rest), (pairs, last)) = (x.as_chunks::<LANES>(), pairs.as_chunks_mut::<{ LANES / 2 }>());
    for (x, pairs) in whole.iter().zip(pairs) {
        let mut narrow = [0; LANES];
        s.to_bf16(s.load(x), &mut narrow);
        *pairs = paired(&narrow);
    }
    if !rest.is_empty() {
        last.copy_from_slice(&paired(&narrowed(s, rest))[..last.len()]);
    }
}
