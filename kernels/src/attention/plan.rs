//! Who meets which keys together. Leaves the arithmetic to `walk`.
//!
//! Queries are cut into members (some tokens of one sequence), members that share blocks are put side by side into units,
//! and a task is one unit at one key-value head: it reads each physical block once for all its members.

use std::ops::Range;

use super::cache::GROUP;
use super::{AttentionParams, KvCache, PagedBatch};

/// Tokens whose scores are kept at once; whole blocks of about this many.
const CHUNK_TOKENS: usize = 128;
/// Most blocks of a chunk: of the smallest.
pub(super) const MAX_CHUNK_BLOCKS: usize = CHUNK_TOKENS / GROUP;
/// Tokens of a partition, whose partial results are merged in order.
const PARTITION_TOKENS: usize = 512;
/// Rows of a member: what its scores take stays in the second-level cache.
const MEMBER_ROWS: usize = 256;
/// Rows of a unit.
const UNIT_ROWS: usize = 512;

/// Some queries of one sequence: `tokens` of them from row `first` of the call on, at `position` of the sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'a> {
    pub(super) table: &'a [u32],
    pub(super) first: usize,
    pub(super) tokens: usize,
    pub(super) position: usize,
    /// Its first row in its unit; a row is a token and a query head, heads first.
    pub(super) row: usize,
}

impl Member<'_> {
    /// Keys its last token sees, counted from the start of the sequence.
    pub(super) fn end(&self) -> usize {
        self.position + self.tokens
    }

    /// The first key its first token sees.
    pub(super) fn start(&self, params: &AttentionParams) -> usize {
        params.sliding_window.map_or(0, |window| (self.position + 1).saturating_sub(window))
    }
}

/// Members side by side.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) members: Range<usize>,
    pub(super) rows: usize,
    /// Partitions any of its members sees.
    pub(super) partitions: Range<usize>,
}

/// One unit at one key-value head, in some of its partitions.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) unit: usize,
    pub(super) kv_head: usize,
    pub(super) partitions: Range<usize>,
    /// Where the partial results go if other tasks have the other partitions.
    pub(super) partial: Option<usize>,
}

/// The work of a call.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) members: Vec<Member<'a>>,
    pub(super) units: Vec<Unit>,
    pub(super) tasks: Vec<Task>,
    pub(super) chunk_blocks: usize,
    pub(super) partition_tokens: usize,
    /// f32 of all partial results.
    pub(super) partials: usize,
    /// Multiplications.
    pub(super) work: usize,
}

impl<'a> Plan<'a> {
    /// Plans a batch that was checked.
    pub(super) fn new(
        batch: &PagedBatch<'a>,
        cache: &KvCache,
        params: &AttentionParams,
        num_threads: usize,
    ) -> Self {
        let group = params.num_heads / cache.num_kv_heads();
        let chunk_blocks = (CHUNK_TOKENS / cache.block_size()).max(1);
        let chunk = chunk_blocks * cache.block_size();
        let mut plan = Self {
            members: members(batch, group),
            units: Vec::new(),
            tasks: Vec::new(),
            chunk_blocks,
            partition_tokens: chunk * (PARTITION_TOKENS / chunk).max(1),
            partials: 0,
            work: 0,
        };
        plan.join(params, group, cache.num_kv_heads(), num_threads);
        plan.split(params, cache, num_threads);
        plan
    }

    /// Makes units of members.
    fn join(&mut self, params: &AttentionParams, group: usize, num_kv_heads: usize, num_threads: usize) {
        let rows: usize = self.members.iter().map(|member| member.tokens * group).sum();
        // With fewer heads than threads a sharing group is cut, so that no thread idles.
        let share = num_threads.div_ceil(num_kv_heads);
        let most = if share > 1 { rows.div_ceil(share).clamp(16, UNIT_ROWS) } else { UNIT_ROWS };
        for i in 0..self.members.len() {
            let member = self.members[i];
            let rows = member.tokens * group;
            let partitions =
                member.start(params) / self.partition_tokens..member.end().div_ceil(self.partition_tokens);
            let joined = i > 0
                && self.members[i - 1].table[0] == member.table[0]
                && rows < MEMBER_ROWS / 2
                && self.units.last().is_some_and(|unit| unit.rows + rows <= most);
            if let (true, Some(unit)) = (joined, self.units.last_mut()) {
                self.members[i].row = unit.rows;
                unit.members.end = i + 1;
                unit.rows += rows;
                unit.partitions.start = unit.partitions.start.min(partitions.start);
                unit.partitions.end = unit.partitions.end.max(partitions.end);
            } else {
                self.units.push(Unit { members: i..i + 1, rows, partitions });
            }
        }
    }

    /// Makes tasks of units, the longest first.
    fn split(&mut self, params: &AttentionParams, cache: &KvCache, num_threads: usize) {
        let few = num_threads > 1 && self.units.len() * cache.num_kv_heads() < 2 * num_threads;
        let mut costs = Vec::new();
        for (i, unit) in self.units.iter().enumerate() {
            let tokens = |member: &Member<'_>| member.end() - member.start(params);
            let tokens = self.members[unit.members.clone()].iter().map(tokens).max().unwrap_or(0);
            self.work += unit.rows * tokens * cache.head_dim() * 2 * cache.num_kv_heads();
            for kv_head in 0..cache.num_kv_heads() {
                if few && unit.partitions.len() > 1 && unit.rows <= MEMBER_ROWS / 4 {
                    for p in unit.partitions.clone() {
                        let partial = Some(self.partials);
                        self.partials += unit.rows * partial_width(cache);
                        costs.push(unit.rows * tokens / unit.partitions.len());
                        self.tasks.push(Task { unit: i, kv_head, partitions: p..p + 1, partial });
                    }
                } else {
                    costs.push(unit.rows * tokens);
                    self.tasks.push(Task {
                        unit: i,
                        kv_head,
                        partitions: unit.partitions.clone(),
                        partial: None,
                    });
                }
            }
        }
        let mut order: Vec<usize> = (0..self.tasks.len()).collect();
        order.sort_by_key(|&task| std::cmp::Reverse(costs[task]));
        self.tasks = order.into_iter().map(|task| self.tasks[task].clone()).collect();
    }
}

/// f32 of one row's partial result: its sums, its maximum and its total.
pub(super) fn partial_width(cache: &KvCache) -> usize {
    cache.padded_head_dim() + 2
}

/// Cuts the queries into members, sequences with a common beginning side by side.
fn members<'a>(batch: &PagedBatch<'a>, group: usize) -> Vec<Member<'a>> {
    let table = |seq: usize| {
        let range = batch.cu_blocks[seq] as usize..batch.cu_blocks[seq + 1] as usize;
        &batch.block_tables[range]
    };
    let mut order: Vec<usize> = (0..batch.seq_lens.len()).collect();
    order.sort_by(|&a, &b| table(a).cmp(table(b)));
    let most = (MEMBER_ROWS / group).max(1);
    let mut members = Vec::with_capacity(order.len());
    for seq in order {
        let queries = batch.cu_seqlens_q[seq] as usize..batch.cu_seqlens_q[seq + 1] as usize;
        let start = batch.seq_lens[seq] as usize - queries.len();
        for first in queries.clone().step_by(most) {
            members.push(Member {
                table: table(seq),
                first,
                tokens: most.min(queries.end - first),
                position: start + first - queries.start,
                row: 0,
            });
        }
    }
    members
}
