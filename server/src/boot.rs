//! From the configuration to a running engine: which models, how they are held, and the policy's text side. Shared by
//! `serve` and the commands that work without a server. Leaves loading to the engine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rectify_engine::grammar::Spelling;
use rectify_engine::model::assemble::{self, Dtype, ModelsConfig, PolicyConfig, ServedModels};
use rectify_engine::model::source::ModelSource;
use rectify_engine::model::weights::WeightStore;
use rectify_engine::text::tools::{ToolFormat, plain};
use rectify_engine::text::{TemplateInput, reasoning};
use rectify_engine::{EngineConfig, EngineError, EngineHandle, Grammar, GrammarSpec, Grammars};

use crate::app::POLICY_ALIAS;
use crate::cli::{ModelArgs, ProgressMode};
use crate::config::{
    AdapterSection, ByteSize, Config, ConfigError, Generation, NamedPolicy, Precision, Quantization,
};
use crate::demo;
use crate::hub::{Hub, Wanted};
use crate::text::{Chat, ChatPrompt, ChatStyle, TextModel};

/// KV memory of the demo, whose sequences are short.
const DEMO_KV_MEMORY: ByteSize = ByteSize(256 << 20);

/// A policy of a running engine and what is known of it.
#[derive(Clone, Debug)]
pub struct Booted {
    /// Its names; the first is the main one.
    pub names: Vec<String>,
    /// The engine, as far as it is this policy's.
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
        config
            .adapters
            .insert(adapter.name.clone(), AdapterSection { path: adapter.path.clone(), policy: None });
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
            crate::cli::Dtype::Float16 => Self::Float16,
        }
    }
}

impl From<Precision> for Dtype {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Float32 => Self::Float32,
            Precision::Bfloat16 => Self::Bfloat16,
            Precision::Float16 => Self::Float16,
        }
    }
}

/// Loads the models, downloads those that are ids of the hub's, and starts the engine. What is known of each policy, the
/// default one first.
///
/// # Errors
/// [`EngineError`] naming the file, id or option that does not fit.
pub fn start(config: &Config, progress: ProgressMode) -> Result<Vec<Booted>, EngineError> {
    let scheduler = &config.scheduler;
    let engine = EngineConfig {
        max_num_seqs: scheduler.max_num_seqs,
        max_num_batched_tokens: scheduler.max_num_batched_tokens.max(scheduler.max_num_seqs),
        max_waiting: scheduler.max_waiting,
        step_target_ms: scheduler.step_target_ms,
        prefix_caching: config.cache.prefix_caching,
        ..EngineConfig::default()
    };
    let (policies, models) = models_of(config, &Hub::from_env(progress))?;
    let held = models.policies.iter().map(|policy| (policy.source.clone(), policy.weights.clone()));
    let held: Vec<_> = held.collect();
    let started = assemble::start_all(engine, models)?;
    let booted = started.into_iter().zip(policies).zip(held);
    Ok(booted.map(|((running, names), held)| booted_of(config, running, names, held)).collect())
}

/// As [`start`], with the default policy alone, or the one called `name`: for what works with one.
///
/// # Errors
/// As [`start`]; [`EngineError::NotFound`] for a policy that is not configured.
pub fn start_one(config: &Config, name: Option<&str>, progress: ProgressMode) -> Result<Booted, EngineError> {
    let config = config.only(name)?;
    let missing = || EngineError::Execution("no policy was started".to_owned());
    start(&config, progress)?.into_iter().next().ok_or_else(missing)
}

fn booted_of(
    config: &Config,
    (engine, models): (EngineHandle, ServedModels),
    names: Vec<String>,
    (source, weights): (ModelSource, WeightStore),
) -> Booted {
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
    Booted { names, generation: config.generation.or(own), engine, models, source, weights }
}

/// What is served: the names of each policy, and the models.
fn models_of(config: &Config, hub: &Hub) -> Result<(Vec<Vec<String>>, ModelsConfig), EngineError> {
    let named = |(name, path): (&String, &PathBuf), wanted| {
        hub.locate(path, wanted).map(|located| (name.clone(), ModelSource::Folder(located.path)))
    };
    let policies = config.policies().into_iter().map(|policy| policy_of(policy, hub));
    let mut policies = policies.collect::<Result<Vec<_>, _>>()?;
    let rewards = config.rewards.iter().map(|(name, section)| named((name, &section.path), Wanted::Either));
    let mut rewards = rewards.collect::<Result<Vec<_>, _>>()?;
    if config.is_demo() && !config.rewards.contains_key(demo::REWARD) {
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
    check_names(policies.iter().map(|(names, _)| names), config)?;
    let mut reward_policies = BTreeMap::new();
    for (name, section) in &config.rewards {
        let at = place(section.policy.as_deref(), &policies, || format!("rewards.{name}.policy"))?;
        reward_policies.insert(name.clone(), policies[at].1.name().into_owned());
    }
    for (name, section) in &config.adapters {
        let at = place(section.policy.as_deref(), &policies, || format!("adapters.{name}.policy"))?;
        policies[at].1.adapters.push(named((name, &section.path), Wanted::Adapter)?);
    }
    let (names, policies): (Vec<_>, Vec<_>) = policies.into_iter().unzip();
    let defaults = ModelsConfig { policies, ..ModelsConfig::new(demo::policy()) };
    let memory = config.cache.memory.or(config.is_demo().then_some(DEMO_KV_MEMORY));
    let models = ModelsConfig {
        rewards,
        readings: config.rewards.iter().map(|(name, section)| (name.clone(), section.reading())).collect(),
        reward_policies,
        dtype: config.model.precision.map(Into::into),
        kv_dtype: config.cache.dtype.map(Into::into),
        kv_memory: memory.map_or(defaults.kv_memory, ByteSize::bytes),
        reward_kv_memory: config.cache.reward_memory.map_or(defaults.reward_kv_memory, ByteSize::bytes),
        block_size: config.cache.block_size,
        threads: config.scheduler.threads,
        ..defaults
    };
    Ok((names, models))
}

/// A policy's names, and where and how the engine finds it.
fn policy_of(policy: NamedPolicy, hub: &Hub) -> Result<(Vec<String>, PolicyConfig), EngineError> {
    let NamedPolicy { mut names, section } = policy;
    let located = section.path.as_deref().map(|path| hub.locate(path, Wanted::Model)).transpose()?;
    // A snapshot's folder is called by its commit.
    let (source, own_name) = located
        .map_or_else(|| (demo::policy(), None), |policy| (ModelSource::Folder(policy.path), policy.id));
    let config = PolicyConfig {
        name: names.first().cloned().or(own_name),
        dtype: section.precision.map(Into::into),
        quantize: section.quantize.map(|Quantization::Int8| assemble::Quantization::Int8),
        kv_memory: section.kv_memory.map(ByteSize::bytes),
        max_model_len: section.max_model_len,
        ..PolicyConfig::new(source)
    };
    if names.is_empty() {
        names.push(config.name().into_owned());
    }
    Ok((names, config))
}

/// The place of the policy called `name`, or of the default one.
fn place(
    name: Option<&str>,
    policies: &[(Vec<String>, PolicyConfig)],
    key: impl Fn() -> String,
) -> Result<usize, EngineError> {
    let Some(name) = name else { return Ok(0) };
    policies.iter().position(|(names, _)| names.iter().any(|other| other == name)).ok_or_else(|| {
        let known = crate::names(policies.iter().flat_map(|(names, _)| names));
        let key = key();
        EngineError::invalid(
            "policy",
            format!("`{key}` is `{name}`, which is not among the policies: {known}"),
        )
    })
}

/// Requests tell models apart by name alone, so no two may share one, and the word for the default policy is taken.
fn check_names<'a>(
    policies: impl Iterator<Item = &'a Vec<String>>,
    config: &'a Config,
) -> Result<(), EngineError> {
    let refuse = |message: String| Err(EngineError::invalid("model", message));
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    let policies =
        policies.enumerate().flat_map(|(at, names)| names.iter().map(move |name| (at, "a policy", name)));
    let others = config.rewards.keys().map(|name| (1, "a reward model", name));
    let others = others.chain(config.adapters.keys().map(|name| (1, "an adapter", name)));
    for (at, kind, name) in policies.chain(others) {
        if let Some(other) = taken.insert(name, kind) {
            return refuse(format!("`{name}` is the name of {other} and of {kind}; give each its own"));
        }
        if name == POLICY_ALIAS && at > 0 {
            return refuse(format!(
                "`{name}` is the name of {kind}, but always means the default policy; choose another"
            ));
        }
    }
    Ok(())
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
