//! The configuration: one YAML file, one struct; unknown keys are refused with a suggestion, and `RECTIFY_SECTION__KEY`
//! overrides. Leaves what the sections mean to their users.

mod auth;
mod card;
mod engine;
mod gate;
mod log;
mod model;
mod probation;
mod quality;
mod registry;
mod reward;
mod reward_model;
mod shadow;
mod size;
mod store;
mod webhooks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_yaml_ng::Value;

pub use auth::{AuthSection, Secret};
pub use card::CardSection;
pub use engine::{CacheSection, SchedulerSection};
pub use gate::GateSection;
pub use log::{LogFormat, LogSection};
pub use model::{AdapterSection, ModelSection, NamedPolicy, Precision, Quantization};
pub use probation::ProbationSection;
pub use quality::QualitySection;
pub use registry::{IfDamaged, RegistrySection};
pub use reward::RewardSection;
pub use reward_model::RewardModelSection;
pub use shadow::{Approval, MethodSection, Reference, ShadowSection, Start};
pub use size::{ByteSize, Period};
pub use store::{FeedbackSection, StoreSection};
pub use webhooks::Webhook;

use crate::api::alignment::AlignmentRequest;

/// Prefix of environment variables that override the file, as `RECTIFY_CACHE__MEMORY=4GiB`.
pub const ENV_PREFIX: &str = "RECTIFY_";

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The policy.
    pub model: ModelSection,
    /// Further policies by name. What they leave open of precision, bits and length is as `model` says; without a path there,
    /// they are all the policies.
    pub models: BTreeMap<String, ModelSection>,
    /// The policy of requests that name none, by name: `model`'s if unset, else the first of `models`.
    pub default_model: Option<String>,
    /// Reward models by name.
    pub rewards: BTreeMap<String, RewardModelSection>,
    /// How rewards are used.
    pub reward: RewardSection,
    /// Adapters by name, loaded at start: requests name them as their `model`.
    pub adapters: BTreeMap<String, AdapterSection>,
    /// Alignment profiles: a request selects one as a suffix of the model's name, as `policy:best-of-16`.
    pub profiles: BTreeMap<String, AlignmentRequest>,
    /// Sampling when the request does not say.
    pub generation: Generation,
    /// The KV cache.
    pub cache: CacheSection,
    /// Batching.
    pub scheduler: SchedulerSection,
    /// When the learning loop trains, and how.
    pub shadow: ShadowSection,
    /// Keys of `rectify train dpo` for the loop.
    pub dpo: MethodSection,
    /// Keys of `rectify train kto` for the loop.
    pub kto: MethodSection,
    /// Keys of `rectify train sft` for the loop.
    pub sft: MethodSection,
    /// Keys of `rectify train ppo` for the loop.
    pub ppo: MethodSection,
    /// Keys of `rectify train grpo` for the loop.
    pub grpo: MethodSection,
    /// Keys of `rectify train reward` for the loop.
    pub reward_model: MethodSection,
    /// What a candidate must pass before it may serve.
    pub gate: GateSection,
    /// How a published candidate is compared before it is kept.
    pub probation: ProbationSection,
    /// Who is told of the loop's events.
    pub webhooks: Vec<Webhook>,
    /// Where adapter versions are kept.
    pub registry: RegistrySection,
    /// What model cards say that only people know.
    pub card: CardSection,
    /// Where answers and votes are kept.
    pub store: StoreSection,
    /// What is kept of them.
    pub feedback: FeedbackSection,
    /// The HTTP server.
    pub server: ServerSection,
    /// Who may use the API.
    pub auth: AuthSection,
    /// Logs.
    pub log: LogSection,
    /// Which votes may be trained on.
    pub quality: QualitySection,
}

/// Sampling when the request does not say; unset keys fall back to the model's `generation_config.json`, then to
/// OpenAI's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Generation {
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Nucleus sampling.
    pub top_p: Option<f32>,
    /// 0 keeps all.
    pub top_k: Option<usize>,
    /// 0 keeps all.
    pub min_p: Option<f32>,
    /// 1 is off.
    pub repetition_penalty: Option<f32>,
    /// `false` is greedy.
    pub do_sample: Option<bool>,
    /// Most tokens of a chat answer; what the context has room for if unset.
    pub max_tokens: Option<usize>,
}

impl Generation {
    /// The keys set here, else `other`'s.
    pub fn or(self, other: Self) -> Self {
        // A temperature set here also outweighs `do_sample: false` there.
        let do_sample = self.do_sample.or(self.temperature.map(|t| t > 0.0)).or(other.do_sample);
        Self {
            temperature: self.temperature.or(other.temperature),
            top_p: self.top_p.or(other.top_p),
            top_k: self.top_k.or(other.top_k),
            min_p: self.min_p.or(other.min_p),
            repetition_penalty: self.repetition_penalty.or(other.repetition_penalty),
            do_sample,
            max_tokens: self.max_tokens.or(other.max_tokens),
        }
    }
}

/// The HTTP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSection {
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Largest request body.
    pub max_body: ByteSize,
    /// How long running answers may go on after SIGTERM, as `30s`.
    pub drain_timeout: Period,
    /// Folder for what the server keeps.
    pub data_dir: PathBuf,
}

impl Default for ServerSection {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8080,
            max_body: ByteSize(4 << 20),
            drain_timeout: Period(Duration::from_secs(30)),
            data_dir: "rectify-data".into(),
        }
    }
}

/// A configuration that cannot be used. The message is one sentence that names the file or variable and the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {message}")]
pub struct ConfigError {
    /// The file or variable, or `configuration` for the whole.
    pub origin: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl ConfigError {
    fn new(origin: impl Into<String>, message: impl Into<String>) -> Self {
        Self { origin: origin.into(), message: message.into() }
    }
}

impl Config {
    /// Reads the file, if there is one, then `env` over it, and checks the whole. Of the variables, only those named
    /// `RECTIFY_SECTION__KEY` count.
    ///
    /// # Errors
    /// [`ConfigError`] for an unreadable file, a syntax error, an unknown key, a wrong type or a value out of range.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut value = Value::Mapping(serde_yaml_ng::Mapping::new());
        let mut origin = "configuration".to_owned();
        if let Some(path) = file {
            origin = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|error| {
                ConfigError::new(&origin, format!("the configuration cannot be read: {error}"))
            })?;
            value = serde_yaml_ng::from_str(&text)
                .map_err(|error| ConfigError::new(&origin, format!("this is not YAML: {error}")))?;
            if value.is_null() {
                value = Value::Mapping(serde_yaml_ng::Mapping::new());
            }
        }
        Self::from_value(value.clone(), &origin)?;
        for (name, text) in env {
            let Some(path) = env_path(&name) else { continue };
            set(&mut value, &path, &text, &name)?;
            Self::from_value(value.clone(), &name)?;
        }
        let config = Self::from_value(value, &origin)?;
        config.validate().map_err(|message| ConfigError::new(origin, message))?;
        Ok(config)
    }

    /// Parses YAML text; for tests and examples.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        let value: Value = serde_yaml_ng::from_str(text)
            .map_err(|error| ConfigError::new("configuration", format!("this is not YAML: {error}")))?;
        let config = Self::from_value(value, "configuration")?;
        config.validate().map_err(|message| ConfigError::new("configuration", message))?;
        Ok(config)
    }

    fn from_value(value: Value, origin: &str) -> Result<Self, ConfigError> {
        rectify_trainer::unknown::check(&value, &Self::schema())
            .map_err(|message| ConfigError::new(origin, message))?;
        serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            ConfigError::new(origin, format!("`{path}`: {}", error.into_inner()))
        })
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// One sentence that names the key.
    pub fn validate(&self) -> Result<(), String> {
        let positive = [
            ("scheduler.max_num_seqs", self.scheduler.max_num_seqs),
            ("scheduler.max_num_batched_tokens", self.scheduler.max_num_batched_tokens),
            ("scheduler.max_waiting", self.scheduler.max_waiting),
            ("scheduler.max_candidates", self.scheduler.max_candidates),
            ("store.queue", self.store.queue),
            ("scheduler.threads", self.scheduler.threads.unwrap_or(1)),
            ("generation.max_tokens", self.generation.max_tokens.unwrap_or(1)),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("`{key}` is 0, but must be at least 1"));
        }
        self.validate_policies()?;
        self.reward.validate()?;
        self.quality.validate()?;
        self.probation.validate()?;
        let block_size = self.cache.block_size;
        if block_size == 0 || !block_size.is_multiple_of(16) {
            return Err(format!("`cache.block_size` is {block_size}, but must be a multiple of 16"));
        }
        for name in self.rewards.keys().chain(self.adapters.keys()) {
            model::check_name(name)?;
        }
        if let Some(default) = &self.reward.default
            && !self.rewards.contains_key(default)
            && !self.is_demo()
        {
            let known = crate::names(self.rewards.keys());
            return Err(format!("`reward.default` is `{default}`, which is not among `rewards`: {known}"));
        }
        let fields = crate::api::sampling::SamplingFields { max_tokens: 1, ..Default::default() };
        fields.into_params(&self.generation).map_err(|error| format!("`generation`: {}", error.message))?;
        Ok(())
    }

    /// The address of the feedback store: as set, else `feedback.db` in the data folder; none if nothing is kept.
    pub fn store_url(&self) -> Option<String> {
        self.store.url(&self.server.data_dir)
    }

    /// The address of the registry: as set, else `adapters` in the data folder.
    pub fn registry_url(&self) -> String {
        let default = || format!("file://{}", self.server.data_dir.join("adapters").display());
        self.registry.url.clone().unwrap_or_else(default)
    }

    /// The JSON schema of the file, for editors.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }

    /// The whole configuration as YAML, defaults included.
    ///
    /// # Errors
    /// [`ConfigError`] if it cannot be written, which does not happen for what was read.
    pub fn to_yaml(&self) -> Result<String, ConfigError> {
        serde_yaml_ng::to_string(self).map_err(|error| ConfigError::new("configuration", error.to_string()))
    }
}

/// `RECTIFY_CACHE__MEMORY` names `cache.memory`; a variable without `__` is none of ours.
fn env_path(name: &str) -> Option<Vec<String>> {
    let path = name.strip_prefix(ENV_PREFIX)?;
    path.contains("__").then(|| path.split("__").map(str::to_lowercase).collect())
}

fn set(value: &mut Value, path: &[String], text: &str, name: &str) -> Result<(), ConfigError> {
    let Some((key, rest)) = path.split_first() else {
        // A value reads as in the file; what is no YAML is a string.
        *value = serde_yaml_ng::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
        return Ok(());
    };
    if value.is_null() {
        *value = Value::Mapping(serde_yaml_ng::Mapping::new());
    }
    let Value::Mapping(mapping) = value else {
        return Err(ConfigError::new(name, format!("`{key}` lies inside a value that has no keys")));
    };
    set(mapping.entry(Value::String(key.clone())).or_insert(Value::Null), rest, text, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(yaml: &str) -> String {
        Config::from_yaml(yaml).unwrap_err().to_string()
    }

    #[test]
    fn the_documented_file_is_read() {
        let config = Config::from_yaml(
            "
model: {path: ./qwen, precision: bfloat16, quantize: int8}
rewards: {helpful: {path: ./rm-helpful}, safe: {path: ./rm-safe}}
reward: {combine: safety_gated, helpful: helpful, safety: safe, threshold: 0.15}
profiles: {best-of-16: {strategy: best_of_n, n: 16, reward: helpful}}
generation: {top_k: 0, top_p: 1.0, do_sample: true}
cache: {memory: 4GiB, block_size: 16, dtype: bfloat16}
server: {drain_timeout: 5s}
",
        )
        .unwrap();
        assert_eq!(config.cache.memory, Some(ByteSize(4 << 30)));
        assert_eq!(config.profiles["best-of-16"].n, Some(16));
        assert_eq!(config.reward.combined().unwrap().threshold, Some(0.15));
        assert_eq!(config.server.drain_timeout.0, Duration::from_secs(5));
        assert_eq!(config.server.port, 8080);
    }

    #[test]
    fn unknown_keys_are_refused_with_a_suggestion() {
        assert_eq!(
            refuse("cache: {memroy: 4GiB}"),
            "configuration: `cache.memroy` is unknown; did you mean `cache.memory`?"
        );
        assert!(refuse("modle: {}").ends_with("did you mean `model`?"));
        assert!(refuse("profiles: {fast: {m: 2}}").contains("`profiles.fast.m` is unknown"));
        let early = refuse("profiles: {fast: {early_stop: {alhpa: 0.5}}}");
        assert!(early.ends_with("did you mean `profiles.fast.early_stop.alpha`?"), "{early}");
        let reward = refuse("profiles: {fast: {reward: {combine: min, model: [a]}}}");
        assert!(reward.ends_with("did you mean `profiles.fast.reward.models`?"), "{reward}");
        let far = refuse("server: {xylophone: 1}");
        assert!(far.contains("known here: data_dir, drain_timeout, host"), "{far}");
    }

    #[test]
    fn wrong_values_name_their_key() {
        for (yaml, named) in [
            ("server: {port: eighty}", "`server.port`"),
            ("cache: {block_size: 20}", "`cache.block_size`"),
            ("cache: {memory: lots}", "`cache.memory`"),
            ("scheduler: {max_num_seqs: 0}", "`scheduler.max_num_seqs`"),
            ("generation: {top_p: 7}", "top_p"),
            ("model: {path: p}\nreward: {default: nobody}", "`reward.default`"),
            ("model: [", "not YAML"),
        ] {
            let error = refuse(yaml);
            assert!(error.contains(named), "{yaml}: {error}");
        }
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rectify.yaml");
        std::fs::write(&file, "cache: {memory: 1GiB}\nserver: {port: 1}\n").unwrap();
        let env = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
        };
        let ours = env(&[
            ("RECTIFY_CACHE__MEMORY", "2GiB"),
            ("RECTIFY_REWARDS__SAFE__PATH", "rm"),
            ("RECTIFY_X", "y"),
        ]);
        let config = Config::load(Some(&file), ours).unwrap();
        assert_eq!((config.cache.memory, config.server.port), (Some(ByteSize(2 << 30)), 1));
        assert_eq!(config.rewards["safe"].path, Path::new("rm"));
        let error = Config::load(None, env(&[("RECTIFY_CACHE__MEMROY", "1")])).unwrap_err().to_string();
        assert!(error.starts_with("RECTIFY_CACHE__MEMROY: `cache.memroy` is unknown"), "{error}");
        let error = Config::load(Some(Path::new("no/such.yaml")), []).unwrap_err().to_string();
        assert!(error.starts_with("no/such.yaml: the configuration cannot be read"), "{error}");
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let config = Config::from_yaml("rewards: {a: {path: x}}\nlog: {format: json}").unwrap();
        assert_eq!(Config::from_yaml(&config.to_yaml().unwrap()).unwrap(), config);
    }
}
