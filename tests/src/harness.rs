//! Executors and engines over the fixtures, in the sizes a test asks for. Leaves what they should say to the tests.

use std::path::PathBuf;
use std::sync::Arc;

use rectify_engine::model::assemble::{self, Dtype, ModelsConfig, PolicyConfig};
use rectify_engine::model::checkpoint::Checkpoint;
use rectify_engine::model::config::ModelConfig;
use rectify_engine::model::cpu_executor::{CpuExecutor, CpuOptions};
use rectify_engine::model::source::ModelSource;
use rectify_engine::model::weights::WeightStore;
use rectify_engine::{EngineConfig, EngineError, EngineHandle};
use rectify_kernels::{KvCache, KvDtype, Pool, WeightDtype};

use crate::fixture::Fixture;

/// How a model is held.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Weights.
    pub dtype: WeightDtype,
    /// Keys and values.
    pub kv_dtype: KvDtype,
    /// Physical blocks of each model.
    pub num_blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// Threads.
    pub threads: usize,
    /// Longest sequence; `None` is what the model takes.
    pub max_model_len: Option<usize>,
    /// Limits of scheduling.
    pub engine: EngineConfig,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            dtype: WeightDtype::F32,
            kv_dtype: KvDtype::F32,
            num_blocks: 2048,
            block_size: 16,
            threads: 2,
            max_model_len: None,
            engine: EngineConfig { prefix_caching: false, ..EngineConfig::default() },
        }
    }
}

impl Setup {
    /// A pool of its own for each executor or engine.
    pub fn pool(&self) -> Arc<Pool> {
        Arc::new(Pool::new(self.threads).unwrap())
    }

    /// The model in `folder`.
    ///
    /// # Errors
    /// What loading says.
    pub fn executor(&self, folder: PathBuf, pool: Arc<Pool>) -> Result<CpuExecutor, EngineError> {
        let source = ModelSource::Folder(folder);
        let config = ModelConfig::load(&source)?;
        let options = CpuOptions {
            pool,
            dtype: self.dtype,
            weights: WeightStore::default(),
            kv_dtype: self.kv_dtype,
            kv_memory: self.kv_memory(&config),
            block_size: self.block_size,
            max_model_len: self.max_model_len,
        };
        CpuExecutor::new(&config, &Checkpoint::open(&source)?, &options)
    }

    /// An engine on a fixture: its policy, its adapters and its reward models under their folders' names.
    pub fn start(&self, fixture: &Fixture) -> EngineHandle {
        let named = |name: &&str| ((*name).to_owned(), ModelSource::Folder(fixture.path(name)));
        let rewards = ["reward-adapter", "reward"];
        let rewards = &rewards[..1 + usize::from(fixture.expected.reward.is_some())];
        let memory = |name: &str| {
            let source = ModelSource::Folder(fixture.path(name));
            self.kv_memory(&ModelConfig::load(&source).unwrap())
        };
        let models = ModelsConfig {
            rewards: rewards.iter().map(named).collect(),
            dtype: Some(if self.dtype == WeightDtype::F32 { Dtype::Float32 } else { Dtype::Bfloat16 }),
            kv_dtype: Some(if self.kv_dtype == KvDtype::F32 { Dtype::Float32 } else { Dtype::Bfloat16 }),
            kv_memory: memory("policy"),
            reward_kv_memory: rewards.get(1).map_or(1 << 20, |name| memory(name)),
            block_size: self.block_size,
            threads: Some(self.threads),
            ..ModelsConfig::of(PolicyConfig {
                adapters: ["lora", "lora-ranks"].iter().map(named).collect(),
                ..PolicyConfig::new(ModelSource::Folder(fixture.path("policy")))
            })
        };
        assemble::start(self.engine, models).unwrap().0
    }

    /// Memory of `num_blocks` blocks over all layers.
    fn kv_memory(&self, config: &ModelConfig) -> usize {
        let block = KvCache::new(1, self.block_size, config.num_kv_heads, config.head_dim, self.kv_dtype);
        block.unwrap().num_bytes() * config.num_layers * self.num_blocks
    }
}
