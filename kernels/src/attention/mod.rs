//! Attention over a paged cache. Leaves projections and rotations to their own operations.
#![expect(unsafe_code, reason = "tasks write different heads of the same rows")]

mod cache;

pub use cache::{KvCache, KvDtype, reshape_and_cache};

use crate::error::{check_len, ensure};
use crate::rows::Shared;
use crate::{KernelError, Pool, Rows};

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

/// Causal attention of the last tokens of each sequence: `q` and `out` are `[num_tokens, num_heads · head_dim]`; the
/// queries of sequence `i` are its last `cu_seqlens_q[i + 1] - cu_seqlens_q[i]` tokens, whose keys are in the cache.
///
/// # Errors
/// [`KernelError`] if shapes disagree or a block lies outside the cache.
pub fn paged_attention(
    pool: &Pool,
    q: Rows<'_>,
    cache: &KvCache,
    batch: &PagedBatch<'_>,
    params: &AttentionParams,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let head_dim = cache.head_dim();
    let width = params.num_heads * head_dim;
    let num_tokens = check_batch(batch, cache)?;
    ensure(params.num_heads.is_multiple_of(cache.num_kv_heads()), || {
        format!(
            "{} query heads do not divide over {} key-value heads",
            params.num_heads,
            cache.num_kv_heads()
        )
    })?;
    q.check("q", num_tokens, width)?;
    check_len("out", out.len(), num_tokens * width)?;
    let group = params.num_heads / cache.num_kv_heads();
    let out = Shared::new(out);
    pool.run(batch.seq_lens.len() * params.num_heads, |task| {
        let (seq, head) = (task / params.num_heads, task % params.num_heads);
        let kv_head = head / group;
        let (first, last) = (batch.cu_seqlens_q[seq] as usize, batch.cu_seqlens_q[seq + 1] as usize);
        let table = &batch.block_tables[batch.cu_blocks[seq] as usize..];
        let seq_len = batch.seq_lens[seq] as usize;
        let (mut key, mut value) = (vec![0.0; head_dim], vec![0.0; head_dim]);
        for token in first..last {
            let query: Vec<f32> =
                q.row(token, width)[head * head_dim..][..head_dim].iter().map(|&x| cache.round(x)).collect();
            let end = seq_len - (last - token) + 1;
            let start = params.sliding_window.map_or(0, |window| end.saturating_sub(window));
            let scores: Vec<f32> = (start..end)
                .map(|t| {
                    cache.read_key(table[t / cache.block_size()], kv_head, t % cache.block_size(), &mut key);
                    let score = query.iter().zip(&key).map(|(q, k)| q * k).sum::<f32>() * params.scale;
                    params.soft_cap.map_or(score, |cap| cap * (score / cap).tanh())
                })
                .collect();
            let max = crate::max(&scores);
            let at = token * width + head * head_dim;
            // SAFETY: each task owns one head of its sequence's rows.
            let out = unsafe { out.part(at..at + head_dim) };
            out.fill(0.0);
            let mut total = 0.0;
            for (score, t) in scores.iter().zip(start..end) {
                let p = (score - max).exp();
                total += p;
                cache.read_value(table[t / cache.block_size()], kv_head, t % cache.block_size(), &mut value);
                out.iter_mut().zip(&value).for_each(|(out, v)| *out += p * v);
            }
            out.iter_mut().for_each(|out| *out /= total);
        }
    });
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
