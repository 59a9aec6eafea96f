//! The current batch as the kernels read it, and how its sequences meet their keys. Leaves running it to `cpu`.

use rectify_kernels::{AttentionParams, AttentionPlan, KernelError, KvCache, PagedBatch, Pool};

use crate::batch::{AdapterRun, Batch};

/// Refilled each step.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) positions: Vec<u32>,
    pub(super) slots: Vec<u32>,
    pub(super) adapter_runs: Vec<AdapterRun>,
    cu_seqlens_q: Vec<u32>,
    seq_lens: Vec<u32>,
    block_tables: Vec<u32>,
    cu_blocks: Vec<u32>,
    /// One for each kind of layer: with and without a window, say.
    plans: Vec<AttentionPlan>,
    /// Of these, the current batch's.
    num_plans: usize,
}

impl Step {
    pub(super) fn begin(&mut self, batch: &Batch) {
        self.positions.clone_from(&batch.positions);
        self.cu_seqlens_q.clone_from(&batch.cu_seqlens_q);
        self.seq_lens.clone_from(&batch.seq_lens);
        self.cu_blocks.clone_from(&batch.cu_blocks);
        self.adapter_runs.clone_from(&batch.adapter_runs);
        self.slots.clear();
        self.slots.extend(batch.slot_mapping.iter().map(|slot| slot.0));
        self.block_tables.clear();
        self.block_tables.extend(batch.block_tables.iter().map(|block| block.0));
        self.num_plans = 0;
    }

    /// The plan of layers that attend like this one, made when the first of them comes.
    ///
    /// # Errors
    /// As [`AttentionPlan::fill`].
    pub(super) fn plan(
        &mut self,
        pool: &Pool,
        cache: &KvCache,
        params: &AttentionParams,
    ) -> Result<&AttentionPlan, KernelError> {
        let known = self.plans[..self.num_plans].iter().position(|plan| plan.is_for(cache, params));
        let index = known.unwrap_or(self.num_plans);
        if known.is_none() {
            if self.plans.len() == index {
                self.plans.push(AttentionPlan::default());
            }
            let batch = PagedBatch {
                cu_seqlens_q: &self.cu_seqlens_q,
                seq_lens: &self.seq_lens,
                block_tables: &self.block_tables,
                cu_blocks: &self.cu_blocks,
            };
            self.plans[index].fill(pool, &batch, cache, params)?;
            self.num_plans += 1;
        }
        Ok(&self.plans[index])
    }
}
