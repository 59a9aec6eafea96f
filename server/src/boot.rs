//! From the configuration to a running engine: which models, how they are held, and the policy's text side. Shared by
//! `serve` and the commands that work without a server. Leaves loading to the engine.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rectify_engine::grammar::Spelling;
use rectify_engine::model::assemble::{self, Dtype, ModelsConfig, PolicyConfig, ServedModels};
use rectify_engine::model::source::ModelSource;
use rectify_engine::model::weights::WeightStore;
use rectify_engine::text::tools::{ToolFormat, plain};
use rectify_engine::text::{TemplateInput, reasoning};
use rectify_engine::{EngineConfig, EngineError, EngineHandle, Grammar, GrammarSpec, Grammars};

use crate::cli::{ModelArgs, ProgressMode};
use crate::config::{AdapterSection, ByteSize, Config, ConfigError, Generation, Precision, Quantization};
use crate::demo;
use crate::hub::{Hub, Wanted};
use crate::text::{Chat, ChatPrompt, ChatStyle, TextModel};

/// KV memory of the demo, whose sequences are short.
const DEMO_KV_MEMORY: ByteSize = ByteSize(256 << 20);

/// A running engine and what is known of its models.
#[derive(Clone, Debug)]
pub struct Booted {
    /// The engine.
    pub engine: EngineHandle,
    /// The models behind it.
    pub models: ServedModels,
    /// Where the policy came from.
    pub source: ModelSource,
    /// The policy's weights, which the engine and whoever trains on them hold together.
    pub weights: WeightStore,
    /// Sampling when a request does not say: the configuration's, then the model's own.
    pub generation: Generation,
}

/// The configuration a command runs with: the file, `RECTIFY_…` variables over it, options over both.
///
/// # Errors
/// [`ConfigError`].
pub fn configure(args: &ModelArgs) -> Result<Config, ConfigError> {
    // Only here is the environment read, but for the hub's variables. One that is no Unicode is none of ours.
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut config = Config::load(args.config.as_deref(), env)?;
    apply(args, &mut config);
    config.validate().map_err(|message| ConfigError { origin: "options".into(), message })?;
    Ok(config)
}

fn apply(args: &ModelArgs, config: &mut Config) {
    if let Some(path) = &args.policy {
        config.model.path = Some(path.clone());
    }
    for reward in &args.rewards {
        // How it is read stays as the file says.
        config.rewards.entry(reward.name.clone()).or_default().path.clone_from(&reward.path);
    }
    if let Some(first) = args.rewards.first() {
        config.reward.default = Some(first.name.clone());
    }
    for adapter in &args.adapters {
        config.adapters.insert(adapter.name.clone(), AdapterSection { path: adapter.path.clone() });
    }
    if let Some(dtype) = args.dtype {
        config.model.precision = Some(dtype.into());
    }
    if let Some(crate::cli::Quantization::Int8) = args.quantize {
        config.model.quantize = Some(Quantization::Int8);
    }
    config.scheduler.threads = args.threads.or(config.scheduler.threads);
    config.cache.memory = args.kv_cache_memory.or(config.cache.memory);
    config.model.max_model_len = args.max_model_len.or(config.model.max_model_len);
    if let Some(data_dir) = &args.data_dir {
        config.server.data_dir.clone_from(data_dir);
    }
}

impl From<crate::cli::Dtype> for Precision {
    fn from(dtype: crate::cli::Dtype) -> Self {
        match dtype {
            crate::cli::Dtype::Float32 => Self::Float32,
            crate::cli::Dtype::Bfloat16 => Self::Bfloat16,
        }
    }
}

impl From<Precision> for Dtype {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Float32 => Self::Float32,
            Precision::Bfloat16 => Self::Bfloat16,
        }
    }
}

/// Loads the models, downloads those that are ids of the hub's, and starts the engine.
///
/// # Errors
/// [`EngineError`] naming the file, id or option that does not fit.
pub fn start(config: &Config, progress: ProgressMode) -> Result<Booted, EngineError> {
    let scheduler = &config.scheduler;
    let engine = EngineConfig {
        max_num_seqs: scheduler.max_num_seqs,
        max_num_batched_tokens: scheduler.max_num_batched_tokens.max(scheduler.max_num_seqs),
        max_waiting: scheduler.max_waiting,
        step_target_ms: scheduler.step_target_ms,
        prefix_caching: config.cache.prefix_caching,
        ..EngineConfig::default()
    };
    let models = models_of(config, &Hub::from_env(progress))?;
    let (source, weights) = (models.policies[0].source.clone(), models.policies[0].weights.clone());
    let (engine, models) = assemble::start(engine, models)?;
    let own = &models.generation;
    let own = Generation {
        temperature: own.temperature,
        top_p: own.top_p,
        top_k: own.top_k,
        min_p: own.min_p,
        repetition_penalty: own.repetition_penalty,
        do_sample: own.do_sample,
        max_tokens: own.max_new_tokens,
    };
    Ok(Booted { generation: config.generation.or(own), engine, models, source, weights })
}

fn models_of(config: &Config, hub: &Hub) -> Result<ModelsConfig, EngineError> {
    let is_demo = config.model.path.is_none();
    let located = config.model.path.as_deref().map(|path| hub.locate(path, Wanted::Model)).transpose()?;
    // A snapshot's folder is called by its commit.
    let (policy, own_name) = located
        .map_or_else(|| (demo::policy(), None), |policy| (ModelSource::Folder(policy.path), policy.id));
    let named = |(name, path): (&String, &PathBuf), wanted| {
        hub.locate(path, wanted).map(|located| (name.clone(), ModelSource::Folder(located.path)))
    };
    let rewards = config.rewards.iter().map(|(name, section)| named((name, &section.path), Wanted::Either));
    let mut rewards = rewards.collect::<Result<Vec<_>, _>>()?;
    if is_demo && !config.rewards.contains_key(demo::REWARD) {
        rewards.push((demo::REWARD.into(), demo::reward()));
    }
    if let Some(default) = &config.reward.default {
        // The engine's default is its first.
        let Some(at) = rewards.iter().position(|(name, _)| name == default) else {
            let known = crate::names(rewards.iter().map(|(name, _)| name));
            let message = format!("`reward.default` is `{default}`, which is not among `rewards`: {known}");
            return Err(EngineError::invalid("reward.default", message));
        };
        rewards[..=at].rotate_right(1);
    }
    let adapters =
        config.adapters.iter().map(|(name, section)| named((name, &section.path), Wanted::Adapter));
    let policy = PolicyConfig {
        name: config.model.served_names.first().cloned().or(own_name),
        adapters: adapters.collect::<Result<_, _>>()?,
        quantize: config.model.quantize.map(|Quantization::Int8| assemble::Quantization::Int8),
        max_model_len: config.model.max_model_len,
        ..PolicyConfig::new(policy)
    };
    let defaults = ModelsConfig::of(policy);
    let memory = config.cache.memory.or(is_demo.then_some(DEMO_KV_MEMORY));
    let bytes = |size: Option<ByteSize>, default: usize| {
        size.map_or(default, |size| usize::try_from(size.0).unwrap_or(usize::MAX))
    };
    Ok(ModelsConfig {
        rewards,
        readings: config.rewards.iter().map(|(name, section)| (name.clone(), section.reading())).collect(),
        dtype: config.model.precision.map(Into::into),
        kv_dtype: config.cache.dtype.map(Into::into),
        kv_memory: bytes(memory, defaults.kv_memory),
        reward_kv_memory: bytes(config.cache.reward_memory, defaults.reward_kv_memory),
        block_size: config.cache.block_size,
        threads: config.scheduler.threads,
        ..defaults
    })
}

/// The policy's tokenizer and chat template, and the grammars over its tokens once one is asked for.
struct PolicyText {
    models: ServedModels,
    grammars: OnceLock<Result<Grammars, EngineError>>,
}

impl TextModel for PolicyText {
    fn encode_text(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, EngineError> {
        let tokenizer = &self.models.tokenizer;
        if add_special_tokens { tokenizer.encode_whole(text) } else { tokenizer.encode(text, false) }
    }

    fn encode_chat(&self, chat: &Chat) -> Result<ChatPrompt, EngineError> {
        let template = self.models.chat_template.as_ref();
        let knows_tools = template.is_some_and(|template| template.tool_format().is_some());
        let described = match &chat.tools {
            Some(tools) if !knows_tools => Some(plain::describe(&chat.messages, tools)),
            None if !knows_tools => Some(chat.messages.iter().map(plain::plain).collect()),
            _ => None,
        };
        let (text, tokens) = self.models.render_chat(&TemplateInput {
            messages: described.as_ref().unwrap_or(&chat.messages),
            tools: chat.tools.as_ref().filter(|_| knows_tools),
            documents: None,
            add_generation_prompt: chat.add_generation_prompt,
            variables: Some(&chat.variables),
        })?;
        Ok(ChatPrompt { tokens, opens_reasoning: reasoning::is_open_after(&text) })
    }

    fn style(&self) -> ChatStyle {
        let template = self.models.chat_template.as_ref();
        ChatStyle {
            tools: template.and_then(|template| template.tool_format()).unwrap_or(ToolFormat::Hermes),
            marks_reasoning: template.is_some_and(|template| template.marks_reasoning()),
        }
    }

    fn special_token(&self, name: &str) -> Option<u32> {
        let tokenizer = &self.models.tokenizer;
        tokenizer.token_to_id(name).filter(|&token| tokenizer.is_special(token))
    }

    fn decode(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String, EngineError> {
        self.models.tokenizer.decode(tokens, skip_special_tokens)
    }

    fn token_bytes(&self, token: u32) -> Vec<u8> {
        self.models.tokenizer.bytes(token).to_vec()
    }

    fn grammar(&self, spec: &GrammarSpec) -> Result<Arc<Grammar>, String> {
        let grammars = self.grammars.get_or_init(|| {
            let tokenizer = &self.models.tokenizer;
            let spelling =
                |token| Spelling { bytes: tokenizer.bytes(token), is_special: tokenizer.is_special(token) };
            Grammars::new(tokenizer.vocab_size(), &self.models.generation.eos_token_ids, spelling)
        });
        grammars.as_ref().map_err(ToString::to_string)?.compile(spec)
    }

    fn vocab_size(&self) -> usize {
        self.models.config.vocab_size
    }
}

/// Shares the policy's text side without copying it.
pub fn text_model(models: &ServedModels) -> Arc<dyn TextModel> {
    Arc::new(PolicyText { models: models.clone(), grammars: OnceLock::new() })
}
