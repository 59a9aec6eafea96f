//! Executors and engines over the fixtures, in the sizes a test asks for. Leaves what they should say to the tests.

use std::path::PathBuf;
use std::sync::Arc;

use rectify_engine::model::adapter::Adapter;
use rectify_engine::model::checkpoint::Checkpoint;
use rectify_engine::model::config::ModelConfig;
use rectify_engine::model::cpu_executor::{CpuExecutor, CpuOptions};
use rectify_engine::model::generation_config::GenerationConfig;
use rectify_engine::model::source::ModelSource;
use rectify_engine::request::Message;
use rectify_engine::text::{ChatTemplate, TemplateInput, Tokenizer};
use rectify_engine::{
    EngineConfig, EngineError, EngineHandle, EngineParts, RewardParts, RewardSpec, RewardWeights, TokenBytes,
};
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
    pub fn executor(&self, folder: PathBuf, pool: Arc<Pool>) -> Result<CpuExecutor, EngineError> {
        let source = ModelSource::Folder(folder);
        let config = ModelConfig::load(&source)?;
        let block =
            KvCache::new(1, self.block_size, config.num_kv_heads, config.head_dim, self.kv_dtype).unwrap();
        let options = CpuOptions {
            pool,
            dtype: self.dtype,
            kv_dtype: self.kv_dtype,
            kv_memory: block.num_bytes() * config.num_layers * self.num_blocks,
            block_size: self.block_size,
            max_model_len: None,
        };
        CpuExecutor::new(&config, &Checkpoint::open(&source)?, &options)
    }

    /// An engine on a fixture: its policy, its adapters under their names, its reward models under theirs.
    pub fn start(&self, fixture: &Fixture) -> EngineHandle {
        let (setup, folder) = (self.clone(), fixture.folder.clone());
        let own = fixture.expected.reward.is_some();
        rectify_engine::start(self.engine, move || setup.parts(&folder, own)).unwrap()
    }

    fn parts(&self, folder: &std::path::Path, own: bool) -> Result<EngineParts, EngineError> {
        let pool = self.pool();
        let policy = self.executor(folder.join("policy"), Arc::clone(&pool))?;
        let base = policy.config().clone();
        let load = move |name: &str, path: &std::path::Path| {
            Adapter::load(name, &ModelSource::from(path), &base, &pool).map(Arc::new)
        };
        let policy_source = ModelSource::Folder(folder.join("policy"));
        let tokenizer = Tokenizer::load(&policy_source)?;
        let adapters = ["lora", "lora-ranks"].map(|name| load(name, &folder.join(name)));
        let mut rewards = vec![RewardParts {
            name: "reward-adapter".into(),
            spec: Arc::new(Template::load(&policy_source)?),
            weights: RewardWeights::Adapter(load("reward-adapter", &folder.join("reward-adapter"))?),
        }];
        if own {
            rewards.push(RewardParts {
                name: "reward".into(),
                spec: Arc::new(Template::load(&ModelSource::Folder(folder.join("reward")))?),
                weights: RewardWeights::Own(Box::new(self.executor(folder.join("reward"), self.pool())?)),
            });
        }
        Ok(EngineParts {
            policy_name: "policy".into(),
            eos_token_ids: GenerationConfig::load(&policy_source, policy.config())?.eos_token_ids,
            policy: Box::new(policy),
            token_bytes: Arc::new(Bytes(tokenizer)),
            rewards,
            adapters: adapters.into_iter().collect::<Result<_, _>>()?,
            adapter_loader: Box::new(load),
        })
    }
}

struct Bytes(Tokenizer);

impl TokenBytes for Bytes {
    fn token_bytes(&self, token: u32) -> &[u8] {
        if self.0.is_special(token) { &[] } else { self.0.bytes(token) }
    }
}

struct Template {
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

impl Template {
    fn load(source: &ModelSource) -> Result<Self, EngineError> {
        let template = ChatTemplate::load(source)?.expect("every fixture has a chat template");
        Ok(Self { tokenizer: Tokenizer::load(source)?, template })
    }
}

impl RewardSpec for Template {
    fn prompt_tokens(&self, messages: &[Message]) -> Result<Vec<u32>, EngineError> {
        self.tokenizer.encode_whole(&self.template.render(&TemplateInput::new(messages, true))?)
    }

    fn candidate_tokens(&self, messages: &[Message], answer: &str) -> Result<Vec<u32>, EngineError> {
        let mut turns = messages.to_vec();
        turns.push(Message { role: "assistant".into(), content: answer.into() });
        self.text_tokens(&self.template.render(&TemplateInput::new(&turns, false))?)
    }

    fn text_tokens(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.tokenizer.encode(text, false)
    }
}
