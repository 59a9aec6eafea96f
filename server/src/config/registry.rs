//! The `registry` section: where adapter versions are kept. Leaves what a version is to the trainer's registry.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where adapter versions are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrySection {
    /// `file://FOLDER` or `s3://BUCKET/PREFIX`; `adapters` in the data folder if unset. Keys, region and endpoint of S3 come
    /// from the variables of the AWS tools, as `AWS_ACCESS_KEY_ID` and `AWS_ENDPOINT_URL`.
    pub url: Option<String>,
    /// What a server does at its start if the active version is not whole.
    pub if_damaged: IfDamaged,
}

/// What a server does at its start if the active version is not whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IfDamaged {
    /// It does not start: nobody shall be served by another policy than the one that was approved.
    #[default]
    Refuse,
    /// It serves the policy without an adapter, and says so in the log, until the version is back.
    ServeBase,
}
