//! The executor of the CPU backend: a decoder, its KV blocks, and the heads for the rows that are wanted. Leaves
//! operations to `cpu` and what runs to the scheduler.

use std::sync::Arc;

use rectify_kernels::{KvCache, KvDtype, Pool, WeightDtype};

use super::backend::{Backend, Result};
use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use super::cpu::CpuBackend;
use super::cpu_tensor::CpuTensor;
use super::decoder::Decoder;
use super::load::load_decoder;
use super::readiness::Readiness;
use super::readout::Readout;
use super::weights::WeightStore;
use crate::EngineError;
use crate::batch::{Batch, Executor, ExecutorSpec, StepOutput};

/// Tokens the KV blocks hold at most: beyond this more memory serves nobody.
const MAX_CACHED_TOKENS: usize = 1 << 22;

/// How a model is held and how much it may hold.
#[derive(Clone, Debug)]
pub struct CpuOptions {
    /// Threads, shared by all models of the process.
    pub pool: Arc<Pool>,
    /// Packed weights.
    pub dtype: WeightDtype,
    /// Where they are, if another holds them too.
    pub weights: WeightStore,
    /// Keys and values.
    pub kv_dtype: KvDtype,
    /// Bytes of memory for keys and values.
    pub kv_memory: usize,
    /// Tokens per KV block, a multiple of 16.
    pub block_size: usize,
    /// Longest sequence; `None` is what the model and the memory allow.
    pub max_model_len: Option<usize>,
}

/// A model on the CPU.
#[derive(Debug)]
pub struct CpuExecutor {
    backend: CpuBackend,
    decoder: Decoder<CpuBackend>,
    spec: ExecutorSpec,
    readiness: Readiness,
    /// Of the model's own head.
    readout: Readout,
    /// Rows of the batch whose logits or scores are wanted, ascending.
    wanted: Vec<u32>,
    logits: Option<CpuTensor>,
    scores: Vec<f32>,
}

impl CpuExecutor {
    /// Packs a model's weights and makes its KV blocks.
    ///
    /// # Errors
    /// [`EngineError::Load`] if the checkpoint does not fit the configuration; [`EngineError::InvalidRequest`] naming
    /// the option that cannot be met.
    pub fn new(config: &ModelConfig, checkpoint: &Checkpoint, options: &CpuOptions) -> Result<Self> {
        let cache = |num_blocks| kv_cache(config, num_blocks, options.block_size, options.kv_dtype);
        let bytes_per_block = block_bytes(config, options.block_size, options.kv_dtype)?;
        let max_blocks = (MAX_CACHED_TOKENS / options.block_size).max(1);
        let num_blocks = (options.kv_memory / bytes_per_block).min(max_blocks);
        let max_model_len = max_model_len(config, options, num_blocks, bytes_per_block)?;
        let mut backend =
            CpuBackend::new(Arc::clone(&options.pool), options.dtype, options.weights.clone(), max_model_len);
        let decoder = load_decoder(&mut backend, config, checkpoint)?;
        let caches: Vec<_> = (0..config.num_layers).map(|_| cache(num_blocks)).collect::<Result<_>>()?;
        let page = caches.first().map_or(1, KvCache::page_blocks);
        let readiness = Readiness::new(num_blocks, caches.len(), page);
        backend.set_caches(caches);
        let spec = ExecutorSpec {
            vocab_size: config.vocab_size,
            max_model_len,
            num_blocks,
            block_size: options.block_size,
            has_score_head: decoder.score_head.is_some(),
            reads_whole: false,
        };
        let readout = Readout::default();
        let (wanted, logits, scores) = (Vec::new(), None, Vec::new());
        Ok(Self { backend, decoder, spec, readiness, readout, wanted, logits, scores })
    }

    /// The same model, whose own head is read by `readout`.
    #[must_use]
    pub fn with_readout(self, readout: Readout) -> Self {
        Self { readout, ..self }
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.decoder.config
    }

    fn forward(&mut self, batch: &Batch) -> Result<()> {
        self.wanted.clear();
        self.wanted.extend(batch.logit_rows.iter().chain(&batch.score_rows));
        self.wanted.sort_unstable();
        self.wanted.dedup();
        let hidden = self.decoder.hidden_rows(&mut self.backend, &batch.token_ids, &self.wanted)?;
        self.score(batch, &hidden)?;
        if batch.logit_rows == self.wanted && !self.wanted.is_empty() {
            self.logits = Some(self.decoder.logits(&mut self.backend, &hidden)?);
        } else if !batch.logit_rows.is_empty() {
            let rows =
                batch.logit_rows.iter().map(|&row| self.place_of(row)).collect::<Result<Vec<u32>>>()?;
            let rows = self.backend.gather_rows(&hidden, &rows)?;
            self.logits = Some(self.decoder.logits(&mut self.backend, &rows)?);
        }
        Ok(())
    }

    /// The score of each of the batch's score rows, by its adapter's head or the model's own.
    fn score(&mut self, batch: &Batch, hidden: &CpuTensor) -> Result<()> {
        self.scores.clear();
        if batch.score_rows.is_empty() {
            return Ok(());
        }
        let raw = Readout::default();
        for &row in &batch.score_rows {
            let run = batch.adapter_runs.iter().find(|run| run.tokens.contains(&(row as usize)));
            let adapter_head = run.and_then(|run| run.adapter.score_head());
            let adapter_head = adapter_head.map(|head| ((head, None), &raw));
            let own_head = || self.decoder.score_head.as_ref().map(|head| (head.parts(), &self.readout));
            let Some((head, readout)) = adapter_head.or_else(own_head) else {
                return Err(EngineError::Execution("a score is wanted, but there is no score head".into()));
            };
            let (num_outputs, wanted) = (head.0.out_features(), readout.num_outputs());
            if num_outputs != wanted {
                let message = format!("the score head has {num_outputs} outputs, but must have {wanted}");
                return Err(EngineError::Execution(message));
            }
            let mut outputs = vec![0.0; num_outputs];
            let place = self.place_of(row)? as usize;
            self.backend.head(head, hidden, place, &mut outputs)?;
            self.scores.push(readout.reward(&outputs));
        }
        Ok(())
    }

    /// Where a token's hidden state is among the wanted ones.
    fn place_of(&self, row: u32) -> Result<u32> {
        let place = self.wanted.binary_search(&row);
        place.map(|place| place as u32).map_err(|_| EngineError::Execution(format!("there is no row {row}")))
    }
}

/// Keys and values of one layer.
fn kv_cache(config: &ModelConfig, num_blocks: usize, block_size: usize, dtype: KvDtype) -> Result<KvCache> {
    KvCache::new(num_blocks, block_size, config.num_kv_heads, config.head_dim, dtype)
        .map_err(|error| EngineError::invalid("block_size", error.to_string()))
}

/// Bytes of a block of `block_size` tokens, over all layers.
///
/// # Errors
/// [`EngineError::InvalidRequest`] if blocks cannot be of this size.
pub(super) fn block_bytes(config: &ModelConfig, block_size: usize, dtype: KvDtype) -> Result<usize> {
    Ok(kv_cache(config, 1, block_size, dtype)?.num_bytes() * config.num_layers)
}

/// The longest sequence, checked against the model and the blocks.
fn max_model_len(
    config: &ModelConfig,
    options: &CpuOptions,
    num_blocks: usize,
    bytes_per_block: usize,
) -> Result<usize> {
    const FIELD: &str = "max_model_len";
    let capacity = num_blocks * options.block_size;
    let need = |tokens: usize| tokens.div_ceil(options.block_size) * bytes_per_block;
    if num_blocks == 0 {
        let message = format!(
            "{} bytes of KV memory hold no block of {} tokens, which takes {bytes_per_block} bytes",
            options.kv_memory, options.block_size
        );
        return Err(EngineError::invalid("kv_memory", message));
    }
    match options.max_model_len {
        None => Ok(config.max_position_embeddings.min(capacity)),
        Some(len) if len > config.max_position_embeddings => {
            let max = config.max_position_embeddings;
            Err(EngineError::invalid(FIELD, format!("{FIELD} is {len}, but the model takes {max} tokens")))
        }
        Some(len) if len > capacity => {
            let message = format!(
                "{FIELD} is {len}, but the KV memory holds {capacity} tokens; one such sequence takes {} bytes",
                need(len)
            );
            Err(EngineError::invalid(FIELD, message))
        }
        Some(0) => Err(EngineError::invalid(FIELD, format!("{FIELD} is 0, but must be at least 1"))),
        Some(len) => Ok(len),
    }
}

impl Executor for CpuExecutor {
    fn spec(&self) -> ExecutorSpec {
        self.spec
    }

    fn execute(&mut self, batch: &Batch) -> Result<StepOutput<'_>> {
        self.logits = None;
        self.readiness.observe(batch.slot_mapping.iter().map(|slot| slot.0 as usize / self.spec.block_size));
        self.backend.begin(batch)?;
        let outcome = self.forward(batch);
        self.backend.end();
        outcome?;
        let logits = self.logits.as_ref().map_or(&[][..], CpuTensor::as_slice);
        Ok(StepOutput { logits, scores: &self.scores })
    }

    fn prepare(&mut self, is_idle: bool) -> bool {
        let next = self.readiness.next(is_idle);
        if let Some((layer, blocks)) = &next {
            self.backend.populate(*layer, blocks.clone());
        }
        next.is_some()
    }
}

#[cfg(test)]
mod tests;
