//! The two shapes every text of a record may have: a plain string, or turns of a conversation.

use serde::{Deserialize, Serialize};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A string ("standard" in TRL's documentation) or turns ("conversational").
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// Taken as it is: no chat template applies.
    Plain(String),
    /// Turns of a conversation, for the model's chat template.
    Chat(Vec<Message>),
}

impl Text {
    /// As a conversation; a plain text becomes one turn of `role`.
    pub fn to_messages(&self, role: &str) -> Vec<Message> {
        match self {
            Self::Plain(text) => vec![Message::new(role, text.as_str())],
            Self::Chat(turns) => turns.clone(),
        }
    }

    /// Has neither a character nor a turn.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Plain(text) => text.is_empty(),
            Self::Chat(turns) => turns.is_empty(),
        }
    }
}
