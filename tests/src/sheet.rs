//! Batches written by hand, to ask an executor directly: sequences with blocks of their own, cut into chunks as a test
//! likes. Leaves choosing chunks to the tests.

use std::sync::Arc;

use rectify_engine::batch::{AdapterRun, Batch, Executor};
use rectify_engine::ids::{BlockId, SlotId};
use rectify_engine::model::adapter::Adapter;

/// A sequence with its blocks.
#[derive(Clone, Debug)]
pub struct Row {
    /// All its tokens.
    pub ids: Vec<u32>,
    /// The adapter it runs under.
    pub adapter: Option<Arc<Adapter>>,
    /// Tokens whose keys and values are in the cache.
    pub num_computed: usize,
    blocks: Vec<BlockId>,
}

/// Hands out blocks to sequences, never twice.
#[derive(Debug)]
pub struct Sheet {
    block_size: usize,
    next: u32,
}

impl Sheet {
    /// An empty sheet for an executor.
    pub fn new(executor: &dyn Executor) -> Self {
        Self { block_size: executor.spec().block_size, next: 0 }
    }

    /// A sequence that has computed nothing yet. Its blocks run backwards, so that neighbours in the sequence are no
    /// neighbours in memory.
    pub fn row(&mut self, ids: &[u32], adapter: Option<&Arc<Adapter>>) -> Row {
        let count = ids.len().div_ceil(self.block_size) as u32;
        let blocks = (self.next..self.next + count).rev().map(BlockId).collect();
        self.next += count;
        Row { ids: ids.to_vec(), adapter: adapter.cloned(), num_computed: 0, blocks }
    }

    /// The next `lens[i]` tokens of each row, logits wanted of all of them, scores of those that end a row of `scored`.
    pub fn batch(&self, rows: &mut [Row], lens: &[usize], scored: bool) -> Batch {
        let mut batch = Batch::default();
        batch.cu_seqlens_q.push(0);
        batch.cu_blocks.push(0);
        for (row, &len) in rows.iter_mut().zip(lens) {
            let first = batch.num_tokens();
            let end = (row.num_computed + len).min(row.ids.len());
            if end == row.num_computed {
                continue;
            }
            for position in row.num_computed..end {
                let block = row.blocks[position / self.block_size].0 as usize;
                batch.token_ids.push(row.ids[position]);
                batch.positions.push(position as u32);
                batch
                    .slot_mapping
                    .push(SlotId((block * self.block_size + position % self.block_size) as u32));
            }
            let last = batch.num_tokens();
            let blocks = &row.blocks[..end.div_ceil(self.block_size)];
            batch.cu_seqlens_q.push(last as u32);
            batch.seq_lens.push(end as u32);
            batch.block_tables.extend_from_slice(blocks);
            batch.cu_blocks.push(batch.block_tables.len() as u32);
            if let Some(adapter) = &row.adapter {
                batch.adapter_runs.push(AdapterRun { tokens: first..last, adapter: Arc::clone(adapter) });
            }
            if !scored {
                batch.logit_rows.extend(first as u32..last as u32);
            } else if end == row.ids.len() {
                batch.score_rows.push(last as u32 - 1);
            }
            row.num_computed = end;
        }
        batch
    }
}

/// Rows of log-probabilities, in nats, of rows of logits `[n, vocab_size]`.
pub fn log_softmax(logits: &[f32], vocab_size: usize) -> Vec<Vec<f64>> {
    let row = |row: &[f32]| {
        let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        row.iter().map(|&x| f64::from(x) - max - sum.ln()).collect()
    };
    logits.chunks_exact(vocab_size).map(row).collect()
}
