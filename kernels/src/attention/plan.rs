//! Who meets which keys together: planned once for all layers of a step that attend alike, apart from running it (Ye et al.
//! 2025, arXiv:2501.01005). Leaves the arithmetic to `walk`.
//!
//! Queries are cut into members (some tokens of one sequence), members that share blocks are put side by side into units,
//! and a task is one unit at one key-value head: it reads each physical block once for all its members. What a unit sees is
//! walked in chunks, and a chunk in segments (`segment`).

use std::cmp::Reverse;
use std::ops::Range;

use super::cache::{GROUP, Layout};
use super::segment::{Chunk, Segments};
use super::{AttentionParams, KvCache, PagedBatch, check_batch};
use crate::error::ensure;
use crate::{KernelError, Pool};

/// Tokens whose scores are kept at once; whole blocks of about this many.
const CHUNK_TOKENS: usize = 128;
/// Most blocks of a chunk: of the smallest.
pub(super) const MAX_CHUNK_BLOCKS: usize = CHUNK_TOKENS / GROUP;
/// Tokens of a partition, whose partial results are merged in order.
const PARTITION_TOKENS: usize = 512;
/// Rows of a member: what its scores take stays in the second-level cache.
const MEMBER_ROWS: usize = 256;
/// Rows at most of a unit whose keys take longer to read than to multiply.
const FEW_ROWS: usize = MEMBER_ROWS / 4;
/// Units for each thread that keep it busy, whatever the length of the last.
const MANY_UNITS: usize = 8;
/// Rows of a unit.
const UNIT_ROWS: usize = 512;

/// Some queries of one sequence: `tokens` of them from row `first` of the call on, at `position` of the sequence.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// Its block table among all.
    table: Range<usize>,
    pub(super) first: usize,
    pub(super) tokens: usize,
    pub(super) position: usize,
    /// Its first row in its unit; a row is a token and a query head, heads first.
    pub(super) row: usize,
}

impl Member {
    /// Keys its last token sees, counted from the start of the sequence.
    pub(super) fn end(&self) -> usize {
        self.position + self.tokens
    }

    /// The first key its first token sees.
    pub(super) fn start(&self, params: &AttentionParams) -> usize {
        params.sliding_window.map_or(0, |window| (self.position + 1).saturating_sub(window))
    }

    /// Whether it sees any of these tokens.
    pub(super) fn sees(&self, tokens: Range<usize>, params: &AttentionParams) -> bool {
        self.end() > tokens.start && self.start(params) < tokens.end
    }
}

/// Members side by side.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) members: Range<usize>,
    pub(super) rows: usize,
    /// Partitions any of its members sees.
    partitions: Range<usize>,
    /// What they see of them.
    chunks: Range<usize>,
}

/// One unit at some key-value heads, in some of its partitions.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) unit: usize,
    pub(super) kv_heads: Range<usize>,
    pub(super) partitions: Range<usize>,
    /// Where the partial results go if other tasks have the other partitions.
    pub(super) partial: Option<usize>,
    cost: usize,
}

/// How the sequences of a batch meet their keys, for all layers with the same parameters and layout of the cache. Kept and
/// filled again for each step, so that a steady state allocates nothing.
#[derive(Debug, Default)]
pub struct AttentionPlan {
    /// What it was made for.
    made_for: Option<(Layout, AttentionParams)>,
    /// Blocks that a cache must have at least.
    num_blocks: usize,
    pub(super) num_tokens: usize,
    tables: Vec<u32>,
    pub(super) members: Vec<Member>,
    pub(super) units: Vec<Unit>,
    pub(super) segments: Segments,
    /// The longest first.
    pub(super) tasks: Vec<Task>,
    /// Those of split units again: those of one unit at one head side by side, partitions in order.
    pub(super) split: Vec<Task>,
    /// Tokens of a chunk.
    pub(super) chunk: usize,
    partition_tokens: usize,
    /// f32 of all partial results.
    pub(super) partials: usize,
    /// Multiplications.
    pub(super) work: usize,
    /// Sequences by their block tables.
    order: Vec<usize>,
}

impl AttentionPlan {
    /// Plans a batch for caches like `cache`, forgetting the one before.
    ///
    /// # Errors
    /// [`KernelError`] if the batch is not one of this cache, or a parameter is out of range.
    pub fn fill(
        &mut self,
        pool: &Pool,
        batch: &PagedBatch<'_>,
        cache: &KvCache,
        params: &AttentionParams,
    ) -> Result<(), KernelError> {
        self.made_for = None;
        self.num_tokens = check_batch(batch, cache)?;
        params.check(cache)?;
        let group = params.num_heads / cache.num_kv_heads();
        self.chunk = (CHUNK_TOKENS / cache.block_size()).max(1) * cache.block_size();
        self.partition_tokens = self.chunk * (PARTITION_TOKENS / self.chunk).max(1);
        self.num_blocks = batch.block_tables.iter().max().map_or(0, |&block| block as usize + 1);
        self.tables.clear();
        self.tables.extend_from_slice(batch.block_tables);
        self.cut(batch, group);
        self.join(params, group, cache.num_kv_heads(), pool.num_threads());
        self.walk(params, group, cache.block_size());
        self.split(params, cache, pool.num_threads());
        self.made_for = Some((cache.layout(), *params));
        Ok(())
    }

    /// How a layer with this cache attends, unless the plan is of another.
    pub(super) fn params(&self, cache: &KvCache) -> Result<&AttentionParams, KernelError> {
        match &self.made_for {
            Some((layout, params)) if *layout == cache.layout() && self.num_blocks <= cache.num_blocks() => {
                Ok(params)
            }
            _ => Err(KernelError::Invalid("the plan was not made for such a cache".to_owned())),
        }
    }

    /// Whether it was made for a layer with these parameters and a cache like this.
    pub fn is_for(&self, cache: &KvCache, params: &AttentionParams) -> bool {
        self.made_for == Some((cache.layout(), *params))
    }

    /// Blocks of a member, at least as many as it has keys for.
    pub(super) fn table(&self, member: usize) -> &[u32] {
        &self.tables[self.members[member].table.clone()]
    }

    /// What the members of a unit see of some partitions.
    pub(super) fn chunks(&self, unit: usize, partitions: Range<usize>) -> &[Chunk] {
        let chunks = &self.segments.chunks[self.units[unit].chunks.clone()];
        let tokens = partitions.start * self.partition_tokens..partitions.end * self.partition_tokens;
        let place = |token| chunks.partition_point(|chunk| chunk.first < token);
        &chunks[place(tokens.start)..place(tokens.end)]
    }

    /// Cuts the queries into members, sequences with a common beginning side by side.
    fn cut(&mut self, batch: &PagedBatch<'_>, group: usize) {
        let range = |seq: usize| batch.cu_blocks[seq] as usize..batch.cu_blocks[seq + 1] as usize;
        let table = |seq: usize| &batch.block_tables[range(seq)];
        self.order.clear();
        self.order.extend(0..batch.seq_lens.len());
        self.order.sort_unstable_by(|&a, &b| table(a).cmp(table(b)).then(a.cmp(&b)));
        let most = (MEMBER_ROWS / group).max(1);
        self.members.clear();
        for &seq in &self.order {
            let queries = batch.cu_seqlens_q[seq] as usize..batch.cu_seqlens_q[seq + 1] as usize;
            let start = batch.seq_lens[seq] as usize - queries.len();
            for first in queries.clone().step_by(most) {
                self.members.push(Member {
                    table: range(seq),
                    first,
                    tokens: most.min(queries.end - first),
                    position: start + first - queries.start,
                    row: 0,
                });
            }
        }
    }

    /// Makes units of members.
    fn join(&mut self, params: &AttentionParams, group: usize, num_kv_heads: usize, num_threads: usize) {
        let rows: usize = self.members.iter().map(|member| member.tokens * group).sum();
        // With fewer heads than threads a sharing group is cut, so that no thread idles.
        let share = num_threads.div_ceil(num_kv_heads);
        let most = if share > 1 { rows.div_ceil(share).clamp(16, UNIT_ROWS) } else { UNIT_ROWS };
        self.units.clear();
        for i in 0..self.members.len() {
            let member = &self.members[i];
            let rows = member.tokens * group;
            let partitions =
                member.start(params) / self.partition_tokens..member.end().div_ceil(self.partition_tokens);
            let joined = i > 0
                && self.table(i - 1)[0] == self.table(i)[0]
                && rows < MEMBER_ROWS / 2
                && self.units.last().is_some_and(|unit| unit.rows + rows <= most);
            if let (true, Some(unit)) = (joined, self.units.last_mut()) {
                self.members[i].row = unit.rows;
                unit.members.end = i + 1;
                unit.rows += rows;
                unit.partitions.start = unit.partitions.start.min(partitions.start);
                unit.partitions.end = unit.partitions.end.max(partitions.end);
            } else {
                self.units.push(Unit { members: i..i + 1, rows, partitions, chunks: 0..0 });
            }
        }
    }

    /// Cuts what units see into chunks and segments.
    fn walk(&mut self, params: &AttentionParams, group: usize, block_size: usize) {
        let mut segments = std::mem::take(&mut self.segments);
        segments.clear();
        for i in 0..self.units.len() {
            let Unit { members, partitions, .. } = self.units[i].clone();
            let first_chunk = segments.chunks.len();
            let tokens = partitions.start * self.partition_tokens..partitions.end * self.partition_tokens;
            for first in tokens.step_by(self.chunk) {
                segments.cut(self, members.clone(), first..first + self.chunk, params, group, block_size);
            }
            self.units[i].chunks = first_chunk..segments.chunks.len();
        }
        self.segments = segments;
    }

    /// Makes tasks of units, the longest first.
    fn split(&mut self, params: &AttentionParams, cache: &KvCache, num_threads: usize) {
        let few = num_threads > 1 && self.units.len() * cache.num_kv_heads() < 2 * num_threads;
        // With many sequences a task takes all heads of one, so that what follows in memory is its own to ask for.
        let many = self.units.len() >= MANY_UNITS * num_threads;
        (self.work, self.partials) = (0, 0);
        self.tasks.clear();
        self.split.clear();
        for (i, unit) in self.units.iter().enumerate() {
            let tokens = |member: &Member| member.end() - member.start(params);
            let tokens = self.members[unit.members.clone()].iter().map(tokens).max().unwrap_or(0);
            let cost = unit.rows * tokens;
            self.work += cost * cache.head_dim() * 2 * cache.num_kv_heads();
            let heads = if many && unit.rows <= FEW_ROWS { cache.num_kv_heads() } else { 1 };
            for kv_head in (0..cache.num_kv_heads()).step_by(heads) {
                let task = Task {
                    unit: i,
                    kv_heads: kv_head..kv_head + heads,
                    partitions: unit.partitions.clone(),
                    partial: None,
                    cost: cost * heads,
                };
                if few && unit.partitions.len() > 1 && unit.rows <= FEW_ROWS {
                    for p in unit.partitions.clone() {
                        let (partitions, partial) = (p..p + 1, Some(self.partials));
                        self.partials += unit.rows * partial_width(cache);
                        self.split.push(Task {
                            partitions,
                            partial,
                            cost: cost / unit.partitions.len(),
                            ..task.clone()
                        });
                    }
                } else {
                    self.tasks.push(task);
                }
            }
        }
        self.tasks.extend_from_slice(&self.split);
        self.tasks
            .sort_unstable_by_key(|task| (Reverse(task.cost), task.unit, task.kv_heads.start, task.partial));
    }
}

impl AttentionParams {
    fn check(&self, cache: &KvCache) -> Result<(), KernelError> {
        let (num_heads, num_kv_heads) = (self.num_heads, cache.num_kv_heads());
        ensure(num_heads.is_multiple_of(num_kv_heads), || {
            format!("{num_heads} query heads do not divide over {num_kv_heads} key-value heads")
        })?;
        ensure(self.scale > 0.0 && self.scale.is_finite(), || {
            format!("scale must be positive and finite, not {}", self.scale)
        })?;
        ensure(self.soft_cap.is_none_or(|cap| cap > 0.0 && cap.is_finite()), || {
            "soft_cap must be positive and finite".to_owned()
        })?;
        ensure(self.sliding_window != Some(0), || "sliding_window must be one token or more".to_owned())
    }
}

/// f32 of one row's partial result: its sums, its maximum and its total.
pub(super) fn partial_width(cache: &KvCache) -> usize {
    cache.padded_head_dim() + 2
}
