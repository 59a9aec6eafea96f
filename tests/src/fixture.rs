//! What `fixtures/make.py` wrote: tiny models and what PyTorch computes with them. Leaves running them to `harness`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rectify_engine::request::Message;
use serde::Deserialize;

/// The families with a policy, adapters and reward models.
pub const FAMILIES: [&str; 4] = ["llama", "qwen2", "qwen3", "llama-bias"];
/// The families that also have a reward model with its own weights.
pub const REWARD_FAMILIES: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// One folder below `fixtures/models`.
#[derive(Debug)]
pub struct Fixture {
    /// The folder.
    pub folder: PathBuf,
    /// What PyTorch says.
    pub expected: Expected,
    rows: Vec<u8>,
}

/// `expected.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Expected {
    /// The bare policy.
    pub policy: Language,
    /// Under the adapter `lora`: every linear layer.
    pub lora: Language,
    /// Under the adapter `lora-ranks`: some layers, ranks and alphas by pattern, rank-stabilised.
    pub lora_ranks: Language,
    /// The adapter with a score head on the policy's base.
    pub reward_adapter: Reward,
    /// The reward model with its own weights, if the family has one.
    pub reward: Option<Reward>,
}

/// What a language model says.
#[derive(Debug, Deserialize)]
pub struct Language {
    /// Ragged prompts.
    pub prompts: Vec<Prompt>,
    /// Greedy continuations that rounding cannot change.
    pub greedy: Vec<Greedy>,
}

/// Log-probabilities of one prompt.
#[derive(Debug, Deserialize)]
pub struct Prompt {
    /// `[length]`.
    pub ids: Vec<u32>,
    /// Of each token given those before it, from the second on, `[length - 1]`, in nats.
    pub logprobs: Vec<f64>,
    /// Positions whose whole row is stored.
    pub rows: Vec<usize>,
}

/// One greedy continuation.
#[derive(Debug, Deserialize)]
pub struct Greedy {
    /// The prompt.
    pub ids: Vec<u32>,
    /// The continuation, end-of-text ignored.
    pub tokens: Vec<u32>,
    /// The continuation as text, special tokens left out.
    pub text: String,
    /// The smallest difference between the two best logits on the way.
    pub min_gap: f64,
}

/// What a reward model says.
#[derive(Debug, Deserialize)]
pub struct Reward {
    /// Conversations with an answer, through its own template.
    pub conversations: Vec<Conversation>,
    /// Random ids.
    pub random: Vec<Scored>,
}

/// A scored conversation.
#[derive(Debug, Deserialize)]
pub struct Conversation {
    /// The turns before the answer.
    pub messages: Vec<Message>,
    /// The answer.
    pub answer: String,
    /// All of it through the template.
    pub text: String,
    /// The text's ids.
    pub ids: Vec<u32>,
    /// The raw score.
    pub score: f64,
    /// The raw score of `text` as a plain text: the tokenizer's beginning of text in front, if the template left it out.
    pub score_of_text: f64,
}

/// Scored ids.
#[derive(Debug, Deserialize)]
pub struct Scored {
    /// The ids.
    pub ids: Vec<u32>,
    /// The raw score.
    pub score: f64,
}

/// `fixtures/`.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// One folder below `fixtures/models`, whatever of it there is: a policy, one adapter, perhaps a reward model.
#[derive(Debug)]
pub struct Expectation {
    folder: PathBuf,
    languages: BTreeMap<String, Language>,
    reward: Option<Reward>,
    rows: Vec<u8>,
}

/// Reads a file of `folder`.
fn read(folder: &Path, file: &str) -> Vec<u8> {
    let path = folder.join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Expectation {
    /// Reads `fixtures/models/<name>`.
    pub fn load(name: &str) -> Self {
        let folder = fixtures().join("models").join(name);
        let mut expected: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&read(&folder, "expected.json")).unwrap();
        let mut languages = BTreeMap::new();
        for label in ["policy", "lora"] {
            let language = serde_json::from_value(expected.remove(label).unwrap()).unwrap();
            languages.insert(label.to_owned(), language);
        }
        let reward = expected.remove("reward").map(|reward| serde_json::from_value(reward).unwrap());
        let rows = read(&folder, "rows.safetensors");
        Self { folder, languages, reward, rows }
    }

    /// A file or folder of the fixture.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What `label` (`policy`, `lora`) says.
    pub fn language(&self, label: &str) -> &Language {
        &self.languages[label]
    }

    /// What the reward model with its own weights says.
    pub fn reward(&self) -> Option<&Reward> {
        self.reward.as_ref()
    }

    /// Whole rows of log-probabilities by prompt index, in the order of [`Prompt::rows`].
    pub fn rows(&self, label: &str) -> BTreeMap<usize, Vec<Vec<f32>>> {
        rows(&self.rows, label)
    }
}

/// Whole rows of log-probabilities of `label` in `rows.safetensors`.
fn rows(bytes: &[u8], label: &str) -> BTreeMap<usize, Vec<Vec<f32>>> {
    let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let mut rows = BTreeMap::new();
    for (name, tensor) in tensors.tensors() {
        let Some(index) = name.strip_prefix(&format!("{label}.")) else { continue };
        let width = tensor.shape()[1];
        let values: Vec<f32> =
            tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        rows.insert(index.parse().unwrap(), values.chunks_exact(width).map(<[f32]>::to_vec).collect());
    }
    rows
}

impl Fixture {
    /// Reads `fixtures/models/<name>`.
    pub fn load(name: &str) -> Self {
        let folder = fixtures().join("models").join(name);
        let expected = serde_json::from_slice(&read(&folder, "expected.json")).unwrap();
        let rows = read(&folder, "rows.safetensors");
        Self { folder, expected, rows }
    }

    /// A file or folder of the fixture.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What `label` (`policy`, `lora`, `lora-ranks`) says.
    pub fn language(&self, label: &str) -> &Language {
        match label {
            "policy" => &self.expected.policy,
            "lora" => &self.expected.lora,
            "lora-ranks" => &self.expected.lora_ranks,
            _ => panic!("the fixtures have no language model `{label}`"),
        }
    }

    /// What `label` (`reward`, `reward-adapter`) says.
    pub fn reward(&self, label: &str) -> &Reward {
        match label {
            "reward" => self.expected.reward.as_ref().expect("this family has no reward model of its own"),
            "reward-adapter" => &self.expected.reward_adapter,
            _ => panic!("the fixtures have no reward model `{label}`"),
        }
    }

    /// Whole rows of log-probabilities by prompt index, in the order of [`Prompt::rows`].
    pub fn rows(&self, label: &str) -> BTreeMap<usize, Vec<Vec<f32>>> {
        rows(&self.rows, label)
    }
}
