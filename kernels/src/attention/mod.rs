//! Attention over a paged cache. Leaves projections and rotations to their own operations.
//!
//! Block-centric: sequences that share blocks are walked together, so that a step reads each physical block once per
//! key-value head, however many candidates of a prompt refer to it. Softmax is online (Milakov and Gimelshein 2018,
//! arXiv:1805.02867; Dao 2023, arXiv:2307.08691): a query keeps `(maximum, total, sums)` and meets its blocks in the
//! order of its block table, in chunks and partitions that depend on positions alone. What a query gets is therefore
//! the same bit for bit whoever else is in the batch.

mod ahead;
mod cache;
mod call;
mod plan;
mod segment;
mod softmax;
mod tiles;
mod walk;

pub use cache::{KvCache, KvDtype, reshape_and_cache};
pub use plan::AttentionPlan;

use std::cell::RefCell;

use crate::buffer::Buffer;
use crate::error::{check_len, ensure};
use crate::rows::Shared;
use crate::simd::dispatch;
use crate::{KernelError, Pool, Rows};
use call::{Call, Finish};
use walk::Walk;

/// Multiplications below which a second thread costs more than it brings.
const PARALLEL_WORK: usize = 1 << 19;

thread_local! {
    /// Partial results of the call in hand; kept for the next.
    static PARTIALS: RefCell<Buffer<f32>> = RefCell::default();
}

/// The sequences of one call, flat and without padding.
#[derive(Clone, Copy, Debug)]
pub struct PagedBatch<'a> {
    /// Start of each sequence's queries, `[num_seqs + 1]`.
    pub cu_seqlens_q: &'a [u32],
    /// Tokens of each sequence in the cache, its queries included, `[num_seqs]`.
    pub seq_lens: &'a [u32],
    /// Block tables back to back.
    pub block_tables: &'a [u32],
    /// Start of each sequence's block table, `[num_seqs + 1]`.
    pub cu_blocks: &'a [u32],
}

/// How queries meet keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionParams {
    /// Query heads, a multiple of the cache's key-value heads.
    pub num_heads: usize,
    /// Scores are multiplied by this.
    pub scale: f32,
    /// Attend to this many last tokens only, the query's own included.
    pub sliding_window: Option<usize>,
    /// `cap · tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

/// Causal attention of the last tokens of each sequence of a planned batch: `q` and `out` are `[num_tokens, num_heads ·
/// head_dim]`; the queries of sequence `i` are its last `cu_seqlens_q[i + 1] - cu_seqlens_q[i]` tokens, whose keys are in the
/// cache.
///
/// # Errors
/// [`KernelError`] if shapes disagree or the plan is of another cache.
pub fn paged_attention(
    pool: &Pool,
    q: Rows<'_>,
    cache: &KvCache,
    plan: &AttentionPlan,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let params = plan.params(cache)?;
    let width = params.num_heads * cache.head_dim();
    q.check("q", plan.num_tokens, width)?;
    check_len("out", out.len(), plan.num_tokens * width)?;
    let mut partials = PARTIALS.take();
    partials.resize(plan.partials);
    let call = Call { q, cache, params, plan, out: Shared::new(out), partials: Shared::new(&mut partials) };
    pool.run_if(plan.work > PARALLEL_WORK, plan.tasks.len(), |task| {
        let task = &plan.tasks[task];
        for kv_head in task.kv_heads.clone() {
            dispatch(pool.isa(), Walk { call: &call, task, kv_head });
        }
    });
    if plan.partials > 0 {
        dispatch(pool.isa(), Finish { call: &call });
    }
    PARTIALS.set(partials);
    Ok(())
}

/// Checks the batch against the cache; gives the number of queries.
fn check_batch(batch: &PagedBatch<'_>, cache: &KvCache) -> Result<usize, KernelError> {
    let num_seqs = batch.seq_lens.len();
    check_len("cu_seqlens_q", batch.cu_seqlens_q.len(), num_seqs + 1)?;
    check_len("cu_blocks", batch.cu_blocks.len(), num_seqs + 1)?;
    ensure(batch.cu_seqlens_q[0] == 0 && batch.cu_blocks[0] == 0, || {
        "cu_seqlens_q and cu_blocks must start with zero".to_owned()
    })?;
    check_len("block_tables", batch.block_tables.len(), batch.cu_blocks[num_seqs] as usize)?;
    for (i, &seq_len) in batch.seq_lens.iter().enumerate() {
        let queries = batch.cu_seqlens_q[i + 1].checked_sub(batch.cu_seqlens_q[i]);
        ensure(queries.is_some_and(|queries| queries <= seq_len), || {
            format!("sequence {i} has more queries than its {seq_len} tokens, or fewer than none")
        })?;
        let blocks = batch.cu_blocks[i + 1].checked_sub(batch.cu_blocks[i]);
        ensure(
            blocks.is_some_and(|blocks| blocks as usize * cache.block_size() >= seq_len as usize),
            || format!("the block table of sequence {i} is too short for its {seq_len} tokens"),
        )?;
    }
    if let Some(block) = batch.block_tables.iter().find(|&&block| block as usize >= cache.num_blocks()) {
        return Err(KernelError::Invalid(format!(
            "block {block} lies outside a cache of {} blocks",
            cache.num_blocks()
        )));
    }
    Ok(batch.cu_seqlens_q[num_seqs] as usize)
}

#[cfg(test)]
mod tests;
