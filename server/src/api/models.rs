//! `/v1/models`: what this server answers to. Leaves choosing among them to `app`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// All models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    pub object: String,
    /// Each policy under each of its names and with each profile, reward models, adapters.
    pub data: Vec<Model>,
}

/// One model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// The name requests use.
    pub id: String,
    /// `model`.
    pub object: String,
    /// Seconds since 1970: when the server started.
    pub created: u64,
    /// `rectify`.
    pub owned_by: String,
    /// What it is for.
    pub kind: ModelKind,
    /// The policy of an adapter or a profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The version that serves now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The longest sequence in tokens, for what generates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<usize>,
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// Generates.
    Policy,
    /// Generates: a policy with an adapter.
    Adapter,
    /// Generates: a policy with an alignment profile.
    Profile,
    /// Scores.
    Reward,
}
