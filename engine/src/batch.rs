//! One flat batch for one model and the trait that runs it. Leaves what to run to the scheduler and how to the model.

use std::ops::Range;
use std::sync::Arc;

use crate::EngineError;
use crate::ids::{BlockId, SlotId};
use crate::model::adapter::Adapter;

/// A step's work for one model: `num_tokens` tokens of `num_seqs` sequences, back to back, without padding.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Token ids, `[num_tokens]`.
    pub token_ids: Vec<u32>,
    /// Position of each token in its sequence, `[num_tokens]`.
    pub positions: Vec<u32>,
    /// Where each token's key and value go, `[num_tokens]`.
    pub slot_mapping: Vec<SlotId>,
    /// Start of each sequence's tokens, `[num_seqs + 1]`; the last is `num_tokens`.
    pub cu_seqlens_q: Vec<u32>,
    /// Tokens of each sequence with a key in the cache after this step, `[num_seqs]`.
    pub seq_lens: Vec<u32>,
    /// Block tables back to back; sequence `i` owns `cu_blocks[i]..cu_blocks[i + 1]`.
    pub block_tables: Vec<BlockId>,
    /// `[num_seqs + 1]`.
    pub cu_blocks: Vec<u32>,
    /// Runs of tokens under one adapter, in order, covering all tokens that have one.
    pub adapter_runs: Vec<AdapterRun>,
    /// Rows whose logits are wanted, as token indices, ascending, `[num_logit_rows]`.
    pub logit_rows: Vec<u32>,
    /// Rows whose score is wanted, as token indices, `[num_score_rows]`. The head is the row's adapter's, or else the
    /// model's own.
    pub score_rows: Vec<u32>,
    /// Blocks to copy before anything else (copy-on-write), as `(from, to)`, in this order.
    pub block_copies: Vec<(BlockId, BlockId)>,
}

/// Tokens `tokens` of the batch run under `adapter`.
#[derive(Clone, Debug)]
pub struct AdapterRun {
    /// Token indices.
    pub tokens: Range<usize>,
    /// The adapter.
    pub adapter: Arc<Adapter>,
}

impl Batch {
    /// Number of tokens.
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Number of sequences.
    pub fn num_seqs(&self) -> usize {
        self.seq_lens.len()
    }

    /// Empties every list, keeping the memory for the next step.
    pub fn clear(&mut self) {
        self.token_ids.clear();
        self.positions.clear();
        self.slot_mapping.clear();
        self.cu_seqlens_q.clear();
        self.seq_lens.clear();
        self.block_tables.clear();
        self.cu_blocks.clear();
        self.adapter_runs.clear();
        self.logit_rows.clear();
        self.score_rows.clear();
        self.block_copies.clear();
    }
}

/// What a step produced; borrowed from the executor until its next step.
#[derive(Clone, Copy, Debug)]
pub struct StepOutput<'a> {
    /// `[num_logit_rows, vocab_size]`, in the order of [`Batch::logit_rows`].
    pub logits: &'a [f32],
    /// `[num_score_rows]`, in the order of [`Batch::score_rows`].
    pub scores: &'a [f32],
}

/// What the scheduler must know about a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecutorSpec {
    /// Width of a row of logits.
    pub vocab_size: usize,
    /// Longest sequence.
    pub max_model_len: usize,
    /// Physical KV blocks.
    pub num_blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// The model's own head gives scores (a reward model with its own weights).
    pub has_score_head: bool,
    /// Its attention looks both ways, so every batch holds the whole of its sequences, of which [`Batch::seq_lens`] tokens
    /// count as computed after the step. It has no keys to share: a block is the place of one whole sequence.
    pub reads_whole: bool,
}

/// A model that runs batches. The scheduler is tested with fakes of this.
pub trait Executor {
    /// Shapes and limits.
    fn spec(&self) -> ExecutorSpec;

    /// Runs one batch. A row's result depends on its own sequence alone, bit for bit.
    ///
    /// # Errors
    /// [`EngineError::Execution`]; the sequences of the batch are then failed, and the engine goes on.
    fn execute(&mut self, batch: &Batch) -> Result<StepOutput<'_>, EngineError>;

    /// Makes a little of the memory ready that coming batches will write; more of it if none waits. Returns whether it did,
    /// else there is nothing to do.
    fn prepare(&mut self, _is_idle: bool) -> bool {
        false
    }
}
