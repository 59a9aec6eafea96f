//! From folders to a running engine: loads the policies, reward models and adapters of one process. Leaves serving to
//! the engine and settings to `server`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use rectify_kernels::{KvDtype, Pool, WeightDtype};
use serde::{Deserialize, Serialize};

use super::backend::Result;
use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use super::generation_config::GenerationConfig;
use super::kv_budget;
use super::load_policy::Opened;
pub use super::load_policy::PolicyConfig;
use super::load_reward::load_reward;
use super::reading::RewardReading;
use super::source::ModelSource;
use crate::engine;
use crate::parts::EngineParts;
use crate::request::Message;
use crate::text::{ChatTemplate, TemplateInput, Tokenizer};
use crate::{EngineConfig, EngineError, EngineHandle};

/// How numbers are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Single precision.
    Float32,
    /// bfloat16: half the memory, and faster where the machine knows it.
    Bfloat16,
    /// Half precision: faster than bfloat16 where the machine multiplies in it. Keys and values are kept in bfloat16.
    Float16,
}

impl Dtype {
    /// As in the `config.json` of a model.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::Float16 => "float16",
        }
    }

    /// As packed weights have it.
    pub fn weights(self) -> WeightDtype {
        match self {
            Self::Float32 => WeightDtype::F32,
            Self::Bfloat16 => WeightDtype::Bf16,
            Self::Float16 => WeightDtype::F16,
        }
    }

    /// What a tensor is stored in; blocks of few bits count as bfloat16.
    pub(super) fn as_stored(checkpoint: &Checkpoint, name: &str) -> Self {
        match checkpoint.weight_dtype(name) {
            WeightDtype::F32 => Self::Float32,
            WeightDtype::F16 => Self::Float16,
            _ => Self::Bfloat16,
        }
    }

    pub(super) fn kv(self) -> KvDtype {
        match self {
            Self::Float32 => KvDtype::F32,
            Self::Bfloat16 | Self::Float16 => KvDtype::Bf16,
        }
    }
}

impl std::str::FromStr for Dtype {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "float32" | "f32" | "float" => Ok(Self::Float32),
            "bfloat16" | "bf16" => Ok(Self::Bfloat16),
            "float16" | "f16" | "half" => Ok(Self::Float16),
            other => Err(format!("dtype is \"{other}\", but must be float32, bfloat16 or float16")),
        }
    }
}

/// Weights in fewer bits: blocks of weights that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    /// Eight bits, and as many for activations where they meet them.
    Int8,
}

/// What one process serves.
#[derive(Clone, Debug)]
pub struct ModelsConfig {
    /// Policies; the first is the default.
    pub policies: Vec<PolicyConfig>,
    /// Reward models by name: folders with weights of their own, or PEFT folders with a score head for a policy's
    /// base. The first is the default.
    pub rewards: Vec<(String, ModelSource)>,
    /// How reward models are read, by name; those that are not named as their folders say.
    pub readings: BTreeMap<String, RewardReading>,
    /// The policy on whose base a reward model is, by the names of both; the first for those that are not named.
    pub reward_policies: BTreeMap<String, String>,
    /// Weights; `None` is as each model is stored, a GGUF file's blocks too.
    pub dtype: Option<Dtype>,
    /// Keys and values; `None` is as the weights.
    pub kv_dtype: Option<Dtype>,
    /// Bytes for keys and values of all policies together.
    pub kv_memory: usize,
    /// Bytes for keys and values of each reward model with weights of its own.
    pub reward_kv_memory: usize,
    /// Tokens per KV block.
    pub block_size: usize,
    /// Threads; `None` is one per core.
    pub threads: Option<usize>,
}

impl ModelsConfig {
    /// A policy alone, with the defaults of everything else.
    pub fn new(policy: ModelSource) -> Self {
        Self::of(PolicyConfig::new(policy))
    }

    /// A policy alone, held as it says.
    pub fn of(policy: PolicyConfig) -> Self {
        Self {
            policies: vec![policy],
            rewards: Vec::new(),
            readings: BTreeMap::new(),
            reward_policies: BTreeMap::new(),
            dtype: None,
            kv_dtype: None,
            kv_memory: 1 << 30,
            reward_kv_memory: 512 << 20,
            block_size: 16,
            threads: None,
        }
    }
}

/// What the front of a server must know of a policy behind the engine, and of the reward models.
#[derive(Clone, Debug)]
pub struct ServedModels {
    /// What requests call the policy.
    pub policy_name: Arc<str>,
    /// Its shape.
    pub config: ModelConfig,
    /// Its sampling defaults and end-of-text tokens.
    pub generation: GenerationConfig,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template, if it has one.
    pub chat_template: Option<Arc<ChatTemplate>>,
    /// Longest sequence.
    pub max_model_len: usize,
    /// How numbers are held: its embedding and heads, and its keys and values unless something else was asked for.
    pub dtype: Dtype,
    /// How its projections are held.
    pub weight_dtype: WeightDtype,
    /// Memory of its packed matrices.
    pub weight_bytes: usize,
    /// Names of the reward models; the first is the default.
    pub rewards: Vec<Arc<str>>,
    /// Of those, the ones that compare answers: they have no reward for an answer alone.
    pub comparing: Vec<Arc<str>>,
}

impl ServedModels {
    /// A conversation as token ids: the chat template with the opening of the assistant's turn.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if there is no template, or it refuses the conversation.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.render_chat(&TemplateInput::new(messages, true)).map(|(_, tokens)| tokens)
    }

    /// A conversation as the template writes it, and its token ids.
    ///
    /// # Errors
    /// As [`ServedModels::encode_chat`].
    pub fn render_chat<M: Serialize>(&self, input: &TemplateInput<'_, M>) -> Result<(String, Vec<u32>)> {
        let Some(template) = &self.chat_template else {
            let message = format!(
                "the policy `{}` has no chat template: use /v1/completions, or add chat_template.jinja to its folder",
                self.policy_name
            );
            return Err(EngineError::invalid("messages", message));
        };
        let text = template.render(input)?;
        // The template writes its own special tokens: adding the tokenizer's would double the first.
        let tokens = self.tokenizer.encode(&text, false)?;
        if tokens.is_empty() {
            let message =
                "the chat template makes nothing of this conversation, but a prompt has at least one token";
            return Err(EngineError::invalid("messages", message));
        }
        Ok((text, tokens))
    }
}

/// Loads everything and starts the engine on a thread of its own. The handle, and what is known, are those of the first
/// policy.
///
/// # Errors
/// [`EngineError::Load`] naming the file that is wrong, [`EngineError::InvalidRequest`] naming the option.
pub fn start(engine: EngineConfig, models: ModelsConfig) -> Result<(EngineHandle, ServedModels)> {
    start_all(engine, models)?.into_iter().next().ok_or(EngineError::Shutdown)
}

/// As [`start`]; for each policy its handle and what is known of it.
///
/// # Errors
/// As [`start`].
pub fn start_all(engine: EngineConfig, models: ModelsConfig) -> Result<Vec<(EngineHandle, ServedModels)>> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let handle = engine::start(engine, move || {
        let (parts, served) = assemble(&models)?;
        sender.send(served).map_err(|_| EngineError::Shutdown)?;
        Ok(parts)
    })?;
    let served = receiver.recv().map_err(|_| EngineError::Shutdown)?;
    Ok((0..).map_while(|policy| handle.of(policy)).zip(served).collect())
}

/// Loads everything an engine is made of, and what is known of each policy.
///
/// # Errors
/// As [`start`].
pub fn assemble(models: &ModelsConfig) -> Result<(EngineParts, Vec<ServedModels>)> {
    check_names(models)?;
    let threads =
        models.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let pool = Pool::new(threads).map_err(|error| EngineError::invalid("threads", error.to_string()))?;
    let pool = Arc::new(pool);
    let opened =
        models.policies.iter().map(|policy| Opened::new(policy, models)).collect::<Result<Vec<_>>>()?;
    let claims = opened.iter().map(|opened| opened.claim(models.block_size)).collect::<Result<Vec<_>>>()?;
    let kv_memory = kv_budget::shares(models.kv_memory, &claims)?;
    let mut policies = Vec::with_capacity(opened.len());
    let mut served = Vec::with_capacity(opened.len());
    for (opened, kv_memory) in opened.into_iter().zip(kv_memory) {
        let (parts, models) = opened.load(models, kv_memory, &pool)?;
        policies.push(parts);
        served.push(models);
    }
    let mut rewards = Vec::with_capacity(models.rewards.len());
    for (name, source) in &models.rewards {
        let policy = policy_of(name, models)?;
        rewards.push(load_reward(name, source, models, (policy, &served[policy]), &pool)?);
    }
    let comparing = rewards.iter().filter(|reward| reward.spec.compares());
    let comparing: Vec<Arc<str>> = comparing.map(|reward| Arc::clone(&reward.name)).collect();
    served.iter_mut().for_each(|served: &mut ServedModels| served.comparing.clone_from(&comparing));
    Ok((EngineParts { policies, pool, rewards }, served))
}

/// The place of the policy on whose base a reward model is, if it is an adapter.
fn policy_of(reward: &str, models: &ModelsConfig) -> Result<usize> {
    let Some(policy) = models.reward_policies.get(reward) else { return Ok(0) };
    let names: Vec<_> = models.policies.iter().map(PolicyConfig::name).collect();
    names.iter().position(|name| name == policy).ok_or_else(|| {
        let known = names.join(", ");
        let message =
            format!("`rewards.{reward}.policy` is `{policy}`, which is not among the policies: {known}");
        EngineError::invalid("rewards", message)
    })
}

/// Requests tell models apart by name alone, so no two of any kind may share one.
fn check_names(models: &ModelsConfig) -> Result<()> {
    let policies = models.policies.iter().map(|policy| ("policies", policy.name()));
    let named = |kind, (name, _): &'_ (String, ModelSource)| (kind, Cow::Owned(name.clone()));
    let rewards = models.rewards.iter().map(|reward| named("rewards", reward));
    let adapters = models.policies.iter().flat_map(|policy| &policy.adapters);
    let adapters = adapters.map(|adapter| named("adapters", adapter));
    let mut taken: Vec<(&str, Cow<'_, str>)> = Vec::new();
    for (kind, name) in policies.chain(rewards).chain(adapters) {
        if let Some((of, _)) = taken.iter().find(|(_, other)| *other == name) {
            let message = format!("{kind} has the name `{name}`, which is taken by {of}; choose another");
            return Err(EngineError::invalid(kind, message));
        }
        if name.is_empty() {
            return Err(EngineError::invalid(kind, format!("{kind} has an empty name; give each its own")));
        }
        taken.push((kind, name));
    }
    Ok(())
}

/// As the embedding is stored.
pub(super) fn stored_dtype(checkpoint: &Checkpoint, config: &ModelConfig) -> Dtype {
    Dtype::as_stored(checkpoint, &format!("{}.weight", config.family.names.embedding))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::backend::Values;
    use crate::model::save::{NamedTensor, save_safetensors};
    use crate::model::testing::{adapter_tensors, named, write_adapter, write_model};
    use crate::parts::RewardWeights;

    #[test]
    fn builds_a_policy_with_both_kinds_of_reward_models() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let classifier = json!({"architectures": ["LlamaForSequenceClassification"], "num_labels": 1});
        let models = ModelsConfig {
            rewards: vec![
                ("own".into(), write_model(&at("own"), &classifier)),
                ("shared".into(), write_adapter(&at("shared"), &adapter_tensors(true), &json!({}))),
            ],
            kv_memory: 1 << 20,
            reward_kv_memory: 1 << 20,
            threads: Some(1),
            ..ModelsConfig::of(PolicyConfig {
                adapters: vec![(
                    "polite".into(),
                    write_adapter(&at("polite"), &adapter_tensors(false), &json!({})),
                )],
                ..PolicyConfig::new(write_model(&at("tiny-policy"), &json!({})))
            })
        };
        let (parts, served) = assemble(&models).unwrap();
        let (policy, served) = (&parts.policies[0], &served[0]);
        assert_eq!(&*policy.name, "tiny-policy");
        assert_eq!((served.max_model_len, served.dtype), (128, Dtype::Float32));
        assert_eq!(policy.eos_token_ids, [257]);
        assert!(
            matches!(parts.rewards[0].weights, RewardWeights::Own(ref model) if model.spec().has_score_head)
        );
        assert!(
            matches!(parts.rewards[1].weights, RewardWeights::Adapter { policy: 0, ref adapter } if adapter.info.has_score_head)
        );
        let polite = &policy.adapters[0].info;
        assert_eq!((&*polite.name, polite.rank), ("polite", 2));
        let loaded = policy.adapter_loader.load("again", &at("polite")).unwrap();
        assert_eq!(loaded.info.version, polite.version);

        let twice =
            ModelsConfig { rewards: [&models.rewards[..1], &models.rewards[..1]].concat(), ..models.clone() };
        assert!(assemble(&twice).unwrap_err().to_string().contains("taken by rewards"));
        let source = models.policies[0].source.clone();
        let policies = vec![PolicyConfig::new(source.clone())];
        let headless =
            ModelsConfig { rewards: models.policies[0].adapters.clone(), policies, ..models.clone() };
        assert!(assemble(&headless).unwrap_err().to_string().contains("holds no score head"));
        let language = ModelsConfig { rewards: vec![("lm".into(), source)], ..models.clone() };
        assert!(assemble(&language).unwrap_err().to_string().contains("must be a ForSequenceClassification"));
        let policies = vec![PolicyConfig::new(models.rewards[0].1.clone())];
        let classifier = ModelsConfig { policies, rewards: Vec::new(), ..models };
        assert!(assemble(&classifier).unwrap_err().to_string().contains("must be a ForCausalLM"));
    }

    #[test]
    fn a_gguf_file_is_a_policy_in_eight_bits_and_a_value_head_a_reward_model() {
        let folder = tempfile::tempdir().unwrap();
        let critic = write_model(folder.path(), &json!({}));
        let config = ModelConfig::load(&critic).unwrap();
        let random = Checkpoint::random(&config, 1);
        let mut tensors = named(&random, &config);
        for (name, shape) in [("v_head.summary.weight", vec![1, 32]), ("v_head.summary.bias", vec![1])] {
            let values = Values::F32(vec![0.5; shape.iter().product()].into());
            tensors.push(NamedTensor { name: name.into(), shape, values });
        }
        save_safetensors(&folder.path().join("model.safetensors"), &tensors).unwrap();
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/gguf/llama2.gguf");
        let models = ModelsConfig {
            rewards: vec![("critic".into(), critic)],
            kv_memory: 1 << 20,
            reward_kv_memory: 1 << 20,
            threads: Some(1),
            ..ModelsConfig::of(PolicyConfig {
                quantize: Some(Quantization::Int8),
                ..PolicyConfig::new(ModelSource::Folder(file.into()))
            })
        };
        let (parts, served) = assemble(&models).unwrap();
        let served = &served[0];
        assert_eq!((&*served.policy_name, served.config.vocab_size), ("llama2", 384));
        assert_eq!((served.dtype, served.weight_dtype), (Dtype::Float32, WeightDtype::Int8));
        assert!(served.chat_template.is_some());
        assert!(
            matches!(parts.rewards[0].weights, RewardWeights::Own(ref model) if model.spec().has_score_head)
        );
    }

    #[test]
    fn a_vocabulary_larger_than_the_embedding_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let models = ModelsConfig::new(write_model(folder.path(), &json!({"vocab_size": 258})));
        let error = assemble(&models).unwrap_err().to_string();
        assert!(
            error.contains("tokenizer.json: has token ids up to 258, but the model's embedding has 258 rows"),
            "{error}"
        );
    }
}
