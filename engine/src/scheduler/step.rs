//! A step's plan and the flat batches made of it. Leaves what goes into a step to `plan`.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::batch::{AdapterRun, Batch, ExecutorSpec};
use crate::group::Part;
use crate::ids::{BlockId, ModelId, RequestId};
use crate::sequence::Sequence;

/// One sequence's share of a step.
#[derive(Clone, Debug)]
pub struct Item {
    /// Whose it is.
    pub request: RequestId,
    /// Which of the request's sequences.
    pub part: Part,
    /// Tokens computed in this step.
    pub num_scheduled_tokens: usize,
    /// Position of the first of them.
    pub first_position: usize,
    /// Rows of the step's logits.
    pub logits: Range<usize>,
    /// Rows of the step's scores.
    pub scores: Range<usize>,
    pub(super) group: usize,
    pub(super) logit_rows: LogitRows,
}

/// Which of an item's rows need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogitRows {
    None,
    Last,
    All,
}

/// The work of one model in a step.
#[derive(Debug)]
pub struct ModelStep {
    /// The model.
    pub model: ModelId,
    /// What its executor runs.
    pub batch: Batch,
    /// What the rows mean, in the order of the batch's sequences.
    pub items: Vec<Item>,
    pub(super) copies: Vec<(BlockId, BlockId)>,
    /// How long it took, once it has run.
    pub time: Duration,
}

/// The work of all models in a step. Kept and refilled, so that a steady state allocates nothing.
#[derive(Debug, Default)]
pub struct Step {
    /// One for each model, possibly empty.
    pub models: Vec<ModelStep>,
}

impl Step {
    /// Whether no model has anything to do.
    pub fn is_empty(&self) -> bool {
        self.models.iter().all(|model| model.items.is_empty())
    }

    /// Tokens over all models.
    pub fn num_tokens(&self) -> usize {
        self.models.iter().map(ModelStep::num_tokens).sum()
    }

    pub(super) fn clear(&mut self, num_models: usize) {
        for index in self.models.len()..num_models {
            let model = ModelId(index as u16);
            let (batch, time) = (Batch::default(), Duration::ZERO);
            self.models.push(ModelStep { model, batch, items: vec![], copies: vec![], time });
        }
        for model in &mut self.models {
            model.batch.clear();
            model.items.clear();
            model.copies.clear();
        }
    }
}

impl ModelStep {
    /// Tokens.
    pub fn num_tokens(&self) -> usize {
        self.items.iter().map(|item| item.num_scheduled_tokens).sum()
    }

    /// Tokens that are not decodes.
    pub fn num_prefill_tokens(&self) -> usize {
        let tokens = self.items.iter().map(|item| item.num_scheduled_tokens);
        tokens.filter(|&num_tokens| num_tokens > 1).sum()
    }

    /// Lays the items out as a flat batch; `sequence` finds an item's sequence. Sequences under one adapter stand
    /// together, so that its product runs once.
    pub(super) fn build<'a>(
        &mut self,
        spec: &ExecutorSpec,
        sequence: impl Fn(&Item) -> Option<&'a Sequence>,
    ) {
        let block_size = spec.block_size;
        let version_of = |item: &Item| {
            let adapter = sequence(item).and_then(|sequence| sequence.adapter.as_ref());
            adapter.map_or("", |adapter| &*adapter.info.content_hash)
        };
        if self.items.iter().any(|item| !version_of(item).is_empty()) {
            self.items.sort_by(|a, b| version_of(a).cmp(version_of(b)));
        }
        let batch = &mut self.batch;
        batch.clear();
        batch.block_copies.extend_from_slice(&self.copies);
        batch.cu_seqlens_q.push(0);
        batch.cu_blocks.push(0);
        for item in &mut self.items {
            let Some(sequence) = sequence(item) else { continue };
            let first_token = batch.token_ids.len();
            let positions = item.first_position..item.first_position + item.num_scheduled_tokens;
            let in_batch = if spec.reads_whole { 0..sequence.len() } else { positions.clone() };
            let first_in_batch = in_batch.start;
            for position in in_batch {
                batch.token_ids.push(sequence.token(position));
                batch.positions.push(position as u32);
                batch.slot_mapping.push(sequence.slot(position, block_size));
            }
            let end = batch.token_ids.len();
            batch.cu_seqlens_q.push(end as u32);
            batch.seq_lens.push(positions.end as u32);
            let num_blocks = positions.end.div_ceil(block_size);
            batch.block_tables.extend_from_slice(&sequence.block_table[..num_blocks]);
            batch.cu_blocks.push(batch.block_tables.len() as u32);
            push_run(&mut batch.adapter_runs, sequence, first_token..end);

            let first_row = batch.logit_rows.len();
            match item.logit_rows {
                LogitRows::None => {}
                LogitRows::Last => batch.logit_rows.push(end as u32 - 1),
                LogitRows::All => batch.logit_rows.extend(first_token as u32..end as u32),
            }
            item.logits = first_row..batch.logit_rows.len();
            let first_row = batch.score_rows.len();
            if let Part::Score { .. } = item.part {
                let last = [sequence.len() as u32 - 1];
                let wanted = sequence.wanted.as_deref().unwrap_or(&last);
                let computed = wanted.iter().filter(|&&position| positions.contains(&(position as usize)));
                batch
                    .score_rows
                    .extend(computed.map(|position| position - first_in_batch as u32 + first_token as u32));
            }
            item.scores = first_row..batch.score_rows.len();
        }
    }
}

fn push_run(runs: &mut Vec<AdapterRun>, sequence: &Sequence, tokens: Range<usize>) {
    let Some(adapter) = &sequence.adapter else { return };
    match runs.last_mut() {
        Some(run) if Arc::ptr_eq(&run.adapter, adapter) && run.tokens.end == tokens.start => {
            run.tokens.end = tokens.end;
        }
        _ => runs.push(AdapterRun { tokens, adapter: Arc::clone(adapter) }),
    }
}
