//! From a folder to a policy: what is read first, then the weights and the adapters on them. Leaves reward models to
//! `load_reward` and the whole to `assemble`.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use rectify_kernels::{KvDtype, Pool, WeightDtype};

use super::adapter::Adapter;
use super::assemble::{Dtype, ModelsConfig, Quantization, ServedModels, stored_dtype};
use super::backend::Result;
use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use super::cpu_executor::{CpuExecutor, CpuOptions, block_bytes};
use super::generation_config::GenerationConfig;
use super::kv_budget::Claim;
use super::layout::{self, Projection};
use super::source::ModelSource;
use super::weights::WeightStore;
use crate::EngineError;
use crate::parts::PolicyParts;
use crate::text::{ChatTemplate, Tokenizer};

/// A policy: where it is and how it is held.
#[derive(Clone, Debug)]
pub struct PolicyConfig {
    /// Where it is.
    pub source: ModelSource,
    /// What requests call it; `None` is the source's name.
    pub name: Option<String>,
    /// PEFT adapters on its base, by name.
    pub adapters: Vec<(String, ModelSource)>,
    /// Weights; `None` is as for all models, and if nothing is said there either, a GGUF file's blocks stay as they are.
    pub dtype: Option<Dtype>,
    /// Its weights in fewer bits.
    pub quantize: Option<Quantization>,
    /// Bytes for its keys and values, out of those of all policies; `None` is a share of what others leave.
    pub kv_memory: Option<usize>,
    /// Longest sequence; `None` is what the model and the memory allow.
    pub max_model_len: Option<usize>,
    /// Its weights, if another holds them too: a tape that trains adapters on them.
    pub weights: WeightStore,
    /// How that other holds them; wins over `dtype`.
    pub weight_dtype: Option<WeightDtype>,
}

impl PolicyConfig {
    /// A policy with the defaults of everything else.
    pub fn new(source: ModelSource) -> Self {
        Self {
            source,
            name: None,
            adapters: Vec::new(),
            dtype: None,
            quantize: None,
            kv_memory: None,
            max_model_len: None,
            weights: WeightStore::default(),
            weight_dtype: None,
        }
    }

    /// What requests call it.
    pub fn name(&self) -> Cow<'_, str> {
        self.name.as_deref().map_or_else(|| self.source.name(), Cow::Borrowed)
    }
}

/// A policy before its weights are packed.
pub(super) struct Opened<'a> {
    policy: &'a PolicyConfig,
    name: String,
    config: ModelConfig,
    generation: GenerationConfig,
    tokenizer: Arc<Tokenizer>,
    chat_template: Option<Arc<ChatTemplate>>,
    checkpoint: Checkpoint,
    dtype: Dtype,
    kv_dtype: KvDtype,
}

impl<'a> Opened<'a> {
    /// Reads everything but the weights.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the file that does not fit.
    pub(super) fn new(policy: &'a PolicyConfig, models: &ModelsConfig) -> Result<Self> {
        let source = &policy.source;
        let config = ModelConfig::load(source)?;
        if config.num_labels.is_some() {
            let message =
                "is of a ForSequenceClassification model, but the policy must be a ForCausalLM model";
            return Err(EngineError::load(source.path_of("config.json"), message));
        }
        let mut generation = GenerationConfig::load(source, &config)?;
        let tokenizer = Arc::new(Tokenizer::load(source)?);
        tokenizer.check_vocabulary(&config)?;
        if let Some(eos) = tokenizer.eos_token_id()
            && !generation.eos_token_ids.contains(&eos)
        {
            generation.eos_token_ids.push(eos);
        }
        let chat_template = ChatTemplate::load(source)?.map(Arc::new);
        let checkpoint = Checkpoint::open(source)?;
        let dtype = policy.dtype.or(models.dtype).unwrap_or_else(|| stored_dtype(&checkpoint, &config));
        let kv_dtype = models.kv_dtype.unwrap_or(dtype).kv();
        let name = policy.name().into_owned();
        Ok(Self { policy, name, config, generation, tokenizer, chat_template, checkpoint, dtype, kv_dtype })
    }

    /// What it needs of the memory for keys and values.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if blocks cannot be of this size.
    pub(super) fn claim(&self, block_size: usize) -> Result<Claim> {
        let block_bytes = block_bytes(&self.config, block_size, self.kv_dtype)?;
        Ok(Claim { name: self.name.clone(), block_bytes, own: self.policy.kv_memory })
    }

    /// Packs its weights, and makes its KV blocks of `kv_memory` bytes.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the file that does not fit, [`EngineError::InvalidRequest`] naming the option.
    pub(super) fn load(
        self,
        models: &ModelsConfig,
        kv_memory: usize,
        pool: &Arc<Pool>,
    ) -> Result<(PolicyParts, ServedModels)> {
        let Self { policy, name, config, generation, tokenizer, chat_template, checkpoint, dtype, kv_dtype } =
            self;
        let asked = match policy.quantize {
            Some(Quantization::Int8) => WeightDtype::Int8,
            None if policy.dtype.or(models.dtype).is_none() && has_blocks(&checkpoint, &config) => {
                WeightDtype::Blocks
            }
            None => dtype.weights(),
        };
        let weight_dtype = policy.weight_dtype.unwrap_or(asked);
        let options = CpuOptions {
            pool: Arc::clone(pool),
            dtype: weight_dtype,
            weights: policy.weights.clone(),
            kv_dtype,
            kv_memory,
            block_size: models.block_size,
            max_model_len: policy.max_model_len,
        };
        let executor = CpuExecutor::new(&config, &checkpoint, &options).map_err(|error| match error {
            EngineError::InvalidRequest { param, message } if models.policies.len() > 1 => {
                EngineError::InvalidRequest { param, message: format!("the policy `{name}`: {message}") }
            }
            error => error,
        })?;
        let name: Arc<str> = name.into();
        let load =
            |(name, source): &(String, ModelSource)| Adapter::load(name, source, &config, pool).map(Arc::new);
        let adapters = policy.adapters.iter().map(load).collect::<Result<_>>()?;
        // Of its own: while one thread holds a pool, another's operations run on that thread alone.
        let loading = Pool::new(1).map_err(|error| EngineError::invalid("threads", error.to_string()))?;
        let base = config.clone();
        let loader = move |name: &str, path: &Path| {
            Adapter::load(name, &ModelSource::Folder(path.to_owned()), &base, &loading)
        };
        let parts = PolicyParts {
            name: Arc::clone(&name),
            token_bytes: Arc::<Tokenizer>::clone(&tokenizer),
            eos_token_ids: generation.eos_token_ids.clone(),
            adapters,
            adapter_loader: Arc::new(loader),
            executor: Box::new(executor),
        };
        let served = ServedModels {
            policy_name: name,
            config,
            generation,
            tokenizer,
            chat_template,
            max_model_len: parts.executor.spec().max_model_len,
            dtype,
            weight_dtype,
            weight_bytes: policy.weights.num_bytes(),
            rewards: models.rewards.iter().map(|(name, _)| name.as_str().into()).collect(),
            comparing: Vec::new(),
        };
        Ok((parts, served))
    }
}

/// Whether the projections of a GGUF file are in blocks of few bits.
fn has_blocks(checkpoint: &Checkpoint, config: &ModelConfig) -> bool {
    let layer = config.num_layers.saturating_sub(1);
    let parts = layout::parts(config, layer, Projection::O);
    parts.iter().any(|part| checkpoint.is_in_blocks(&format!("{}.weight", part.module(layer))))
}
