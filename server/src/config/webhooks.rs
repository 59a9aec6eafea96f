//! The `webhooks` section: who is told of the loop's events. Leaves telling to `learning`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Someone who is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where events are posted.
    pub url: String,
    /// Kinds of events, as `candidate`, `rejected`, `published`, `kept`, `promoted`, `rolled_back`; all if empty.
    #[serde(default)]
    pub events: Vec<String>,
    /// Signs each body: `x-rectify-signature: sha256=…` is its HMAC-SHA256.
    #[serde(default)]
    pub secret: Option<String>,
}
