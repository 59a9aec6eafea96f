//! The content of a message: a text, or parts of which only texts are read. Leaves messages to `chat`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ApiError;

/// A message's text, whole or in parts.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a string or a list of parts such as {\"type\": \"text\", \"text\": \"...\"}"
)]
pub enum Content {
    /// The whole text.
    Text(String),
    /// Its parts, in order.
    Parts(Vec<ContentPart>),
}

/// A part of a message.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct ContentPart {
    /// `text`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its text.
    #[serde(default)]
    pub text: Option<String>,
}

impl ContentPart {
    /// Its text; `message` and `index` say where it stands.
    ///
    /// # Errors
    /// 400 naming the place.
    pub fn read(&self, message: usize, index: usize) -> Result<&str, ApiError> {
        match (self.kind.as_str(), &self.text) {
            ("text", Some(text)) => Ok(text),
            ("text", None) => Err(ApiError::invalid(
                format!("messages[{message}].content[{index}]"),
                "a part of type `text` must have a `text`",
            )),
            (kind, _) => Err(ApiError::invalid(
                format!("messages[{message}].content[{index}]"),
                format!("parts of type `{kind}` are not read by this server; use `text`"),
            )),
        }
    }
}
