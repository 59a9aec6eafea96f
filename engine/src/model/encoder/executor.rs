//! Runs texts through an encoder, some layers at a time. Where a decoder's text is computed token by token over several
//! steps, an encoder's is computed layer by layer: a step that has room for a third of a text's tokens runs a third of its
//! layers, so that a long text holds nobody up. Leaves the order of texts to the scheduler.

use std::ops::Range;
use std::sync::Arc;

use rectify_kernels::{KvCache, KvDtype, Pool, WeightDtype};

use super::config::EncoderConfig;
use super::forward::Encoder;
use super::load::load;
use crate::EngineError;
use crate::batch::{Batch, Executor, ExecutorSpec, StepOutput};
use crate::ids::{BlockId, SlotId};
use crate::model::backend::Result;
use crate::model::checkpoint::Checkpoint;
use crate::model::cpu::{CpuBackend, refused};
use crate::model::cpu_tensor::CpuTensor;
use crate::model::readout::Readout;
use crate::model::weights::WeightStore;

/// Tokens that run together: enough for the matrices to be read seldom, few enough for activations to stay in cache.
const MAX_TOKENS: usize = 1024;
/// Texts that run together.
const MAX_TEXTS: usize = 64;
/// Texts that may be under way.
const MAX_SLOTS: usize = 1024;
/// Tokens per block of the keys and values of a layer.
const BLOCK: usize = 16;

/// How an encoder is held.
#[derive(Clone, Debug)]
pub struct EncoderOptions {
    /// Threads, shared by all models of the process.
    pub pool: Arc<Pool>,
    /// Packed weights of the layers.
    pub dtype: WeightDtype,
    /// Bytes for texts under way.
    pub memory: usize,
    /// Longest text, in tokens; `None` is [`EncoderConfig::max_len`].
    pub max_len: Option<usize>,
    /// What the outputs come to.
    pub readout: Readout,
}

/// An encoder on the CPU. One block of its pool is the place of one text.
#[derive(Debug)]
pub struct EncoderExecutor {
    backend: CpuBackend,
    encoder: Encoder,
    readout: Readout,
    spec: ExecutorSpec,
    /// By block.
    slots: Vec<Slot>,
    cache_blocks: usize,
    scores: Vec<f32>,
}

/// A text under way. What it holds follows from its tokens and the number of layers alone, so that a slot left behind by
/// a request that ended is right for whoever comes with the same tokens, and is started over by anybody else.
#[derive(Clone, Debug, Default)]
struct Slot {
    tokens: Vec<u32>,
    layers: usize,
    /// Output of the last of `layers`, `[tokens, hidden_size]`; empty before the first and behind the last.
    hidden: Vec<f32>,
    reward: Option<f32>,
}

/// A text of a batch.
#[derive(Clone, Debug)]
struct Text {
    slot: usize,
    tokens: Range<usize>,
    /// Layers that this step runs.
    layers: Range<usize>,
}

impl EncoderExecutor {
    /// Packs the weights.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the file and tensor that does not fit; [`EngineError::InvalidRequest`] if `memory`
    /// holds no text.
    pub fn new(config: &EncoderConfig, checkpoint: &Checkpoint, options: EncoderOptions) -> Result<Self> {
        let EncoderOptions { pool, dtype, memory, max_len, readout } = options;
        let max_model_len = match max_len {
            Some(max_len) if !config.embeds_positions => max_len,
            Some(max_len) => max_len.min(config.max_len()),
            None => config.max_len(),
        };
        let bytes_per_text = max_model_len * (config.hidden_size + 1) * size_of::<f32>();
        let num_blocks = (memory / bytes_per_text).min(MAX_SLOTS);
        if num_blocks == 0 {
            let message = format!(
                "{memory} bytes of memory hold no text of {max_model_len} tokens, which takes {bytes_per_text} bytes"
            );
            return Err(EngineError::invalid("reward_kv_memory", message));
        }
        if readout.num_outputs() != config.labels.len() {
            let message = format!(
                "the readout is of {} outputs, but the head has {}",
                readout.num_outputs(),
                config.labels.len()
            );
            return Err(EngineError::Execution(message));
        }
        let mut backend = CpuBackend::new(pool, dtype, WeightStore::default(), config.num_positions);
        let encoder = load(&mut backend, config, checkpoint)?;
        // Whole blocks of the tokens that run together, and a partial one of each text.
        let cache_blocks = MAX_TOKENS.max(max_model_len).div_ceil(BLOCK) + MAX_TEXTS;
        let head_dim = config.hidden_size / config.num_heads;
        // Lives for one layer only: there is nothing to save by rounding.
        let cache = KvCache::new(cache_blocks, BLOCK, config.num_heads, head_dim, KvDtype::F32);
        backend.set_caches(vec![cache.map_err(refused)?]);
        let spec = ExecutorSpec {
            vocab_size: config.vocab_size,
            max_model_len,
            num_blocks,
            block_size: max_model_len,
            has_score_head: true,
            reads_whole: true,
        };
        let slots = vec![Slot::default(); num_blocks];
        Ok(Self { backend, encoder, readout, spec, slots, cache_blocks, scores: Vec::new() })
    }

    /// The model's shape.
    pub fn config(&self) -> &EncoderConfig {
        &self.encoder.config
    }

    /// The texts of a batch and the layers that each has earned: as large a share of all as it has tokens computed.
    fn texts(&mut self, batch: &Batch) -> Result<Vec<Text>> {
        let num_layers = self.encoder.layers.len();
        let wrong = || EngineError::Execution("a text of the batch has no place of its own".into());
        let mut texts = Vec::with_capacity(batch.num_seqs());
        for (index, &computed) in batch.seq_lens.iter().enumerate() {
            let tokens = batch.cu_seqlens_q[index] as usize..batch.cu_seqlens_q[index + 1] as usize;
            let block = batch.block_tables.get(batch.cu_blocks[index] as usize).ok_or_else(wrong)?;
            let place = block.0 as usize;
            let slot = self.slots.get_mut(place).ok_or_else(wrong)?;
            let until = num_layers * (computed as usize).min(tokens.len()) / tokens.len().max(1);
            if slot.tokens != batch.token_ids[tokens.clone()] || slot.layers > until {
                *slot = Slot { tokens: batch.token_ids[tokens.clone()].to_vec(), ..Slot::default() };
            }
            texts.push(Text { slot: place, tokens, layers: slot.layers..until });
        }
        Ok(texts)
    }

    /// Runs texts that are at the same layer together.
    fn run(&mut self, batch: &Batch, mut texts: Vec<Text>) -> Result<()> {
        texts.retain(|text| !text.layers.is_empty());
        texts.sort_by_key(|text| (text.layers.start, text.layers.end));
        for alike in texts.chunk_by(|a, b| a.layers == b.layers) {
            let mut rest = alike;
            while !rest.is_empty() {
                let mut num_tokens = 0;
                let fits = |text: &&Text| {
                    num_tokens += text.tokens.len();
                    num_tokens <= MAX_TOKENS
                };
                let count = rest.iter().take(MAX_TEXTS).take_while(fits).count().max(1);
                let (now, later) = rest.split_at(count);
                self.run_together(batch, now)?;
                rest = later;
            }
        }
        Ok(())
    }

    fn run_together(&mut self, batch: &Batch, texts: &[Text]) -> Result<()> {
        let Some(first) = texts.first() else { return Ok(()) };
        let tokens: Vec<u32> =
            texts.iter().flat_map(|text| &batch.token_ids[text.tokens.clone()]).copied().collect();
        self.backend.begin(&self.layout(batch, texts))?;
        let mut x = match first.layers.start {
            0 => self.encoder.embed(&mut self.backend, &tokens)?,
            _ => self.gather(texts, tokens.len())?,
        };
        let mut end = 0;
        let rows_of = |text: &Text| {
            let start = end;
            end += text.tokens.len();
            start..end
        };
        let rows: Vec<Range<usize>> = texts.iter().map(rows_of).collect();
        for layer in first.layers.clone() {
            x = self.encoder.layer(&mut self.backend, layer, &rows, x)?;
        }
        let is_last = first.layers.end == self.encoder.layers.len();
        let width = self.encoder.config.hidden_size;
        for (text, rows) in texts.iter().zip(rows) {
            let slot = &mut self.slots[text.slot];
            slot.layers = text.layers.end;
            slot.hidden.clear();
            if is_last {
                let ids = &batch.token_ids[text.tokens.clone()];
                let outputs = self.encoder.outputs(&self.backend, &x, rows.start, ids)?;
                slot.reward = Some(self.readout.reward(&outputs));
            } else {
                slot.hidden.extend_from_slice(&x.as_slice()[rows.start * width..rows.end * width]);
            }
        }
        Ok(())
    }

    /// Where the texts stood, one after the other.
    fn gather(&self, texts: &[Text], num_tokens: usize) -> Result<CpuTensor> {
        let mut x = self.backend.zeroed(num_tokens, self.encoder.config.hidden_size);
        let mut rest = x.as_mut_slice();
        for text in texts {
            let hidden = &self.slots[text.slot].hidden;
            let Some((own, others)) = rest.split_at_mut_checked(hidden.len()) else {
                return Err(EngineError::Execution("a text has more rows than tokens".into()));
            };
            own.copy_from_slice(hidden);
            rest = others;
        }
        Ok(x)
    }

    /// The texts as the kernels read them. Attention that looks both ways is that of a token behind the last one, for each
    /// token: every token is a sequence of its own that ends where its text does, over its text's blocks.
    fn layout(&self, batch: &Batch, texts: &[Text]) -> Batch {
        let mut out = Batch::default();
        out.cu_seqlens_q.push(0);
        out.cu_blocks.push(0);
        let vocab_size = self.encoder.config.vocab_size as u32;
        let mut next_block = 0;
        for text in texts {
            let tokens = &batch.token_ids[text.tokens.clone()];
            let ids: Vec<u32> = tokens.iter().map(|token| token % vocab_size).collect();
            out.positions.extend(self.encoder.config.positions(&ids));
            let blocks = next_block..next_block + tokens.len().div_ceil(BLOCK) as u32;
            next_block = blocks.end;
            debug_assert!(next_block as usize <= self.cache_blocks, "texts that run together fit");
            for token in 0..tokens.len() as u32 {
                out.token_ids.push(tokens[token as usize]);
                out.slot_mapping.push(SlotId(blocks.start * BLOCK as u32 + token));
                out.cu_seqlens_q.push(out.token_ids.len() as u32);
                out.seq_lens.push(tokens.len() as u32);
                out.block_tables.extend(blocks.clone().map(BlockId));
                out.cu_blocks.push(out.block_tables.len() as u32);
            }
        }
        out
    }
}

impl Executor for EncoderExecutor {
    fn spec(&self) -> ExecutorSpec {
        self.spec
    }

    fn execute(&mut self, batch: &Batch) -> Result<StepOutput<'_>> {
        let texts = self.texts(batch)?;
        let slots: Vec<usize> = texts.iter().map(|text| text.slot).collect();
        self.run(batch, texts)?;
        self.scores.clear();
        for &row in &batch.score_rows {
            let index = batch.cu_seqlens_q.partition_point(|&start| start <= row).saturating_sub(1);
            let reward = slots.get(index).and_then(|&slot| self.slots[slot].reward);
            let missing = || EngineError::Execution("a reward is wanted of a text that is not read".into());
            self.scores.push(reward.ok_or_else(missing)?);
        }
        Ok(StepOutput { logits: &[], scores: &self.scores })
    }
}
