//! Adapters over HTTP: vLLM's load and unload bodies, and the list. Leaves loading to the engine.

use rectify_engine::model::adapter::AdapterInfo;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An adapter to load.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct LoadAdapterRequest {
    /// The name requests will use as `model`.
    pub lora_name: String,
    /// A PEFT folder on the server's machine.
    pub lora_path: String,
    /// The policy it is for, by name; the default one if unset.
    #[serde(default)]
    pub base_model_name: Option<String>,
    /// Take the place of an adapter of the same name; running answers keep the old one to their end.
    #[serde(default)]
    pub load_inplace: Option<bool>,
}

/// An adapter to forget.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct UnloadAdapterRequest {
    /// Its name.
    pub lora_name: String,
}

/// The loaded adapters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdapterList {
    /// `list`.
    pub object: String,
    /// By name.
    pub data: Vec<AdapterEntry>,
}

/// A loaded adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdapterEntry {
    /// The name requests use as `model`.
    pub name: String,
    /// The policy it is for.
    pub base_model_name: String,
    /// First digits of the SHA-256 of its content.
    pub version: String,
    /// LoRA rank, the largest if modules differ.
    pub rank: usize,
    /// It scores: a reward model on the policy's base.
    pub has_score_head: bool,
}

impl AdapterEntry {
    /// The entry of an adapter of a policy.
    pub fn new(info: AdapterInfo, policy: &str) -> Self {
        let AdapterInfo { name, version, rank, has_score_head, .. } = info;
        let base_model_name = policy.to_owned();
        Self { name: name.to_string(), base_model_name, version: version.to_string(), rank, has_score_head }
    }
}
