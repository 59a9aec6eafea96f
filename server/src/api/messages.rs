//! The messages of a conversation, as requests have them: their content is a text, or parts of which only texts are read.
//! Leaves requests to `chat`.

use rectify_engine::request::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::tools::ToolCall;
use crate::error::ApiError;

/// Roles a message may have; `developer` is read as `system`.
pub const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// One turn of the conversation.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Its text.
    #[serde(default)]
    pub content: Option<Content>,
    /// Who of the role speaks, for templates that tell them apart.
    #[serde(default)]
    pub name: Option<String>,
    /// Of an assistant's turn: the calls it made.
    #[serde(default)]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Of a tool's turn: the call that it answers.
    #[serde(default)]
    pub tool_call_id: Option<String>,
    /// Of an assistant's turn: its thoughts, for templates that want them back.
    #[serde(default)]
    pub reasoning_content: Option<String>,
}

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

impl ChatMessage {
    /// With the fields that the message has, in Hugging Face's names.
    pub fn for_template(&self, turn: &Message) -> Value {
        let mut fields = Map::new();
        fields.insert("role".to_owned(), turn.role.as_str().into());
        fields.insert("content".to_owned(), turn.content.as_str().into());
        let texts = [
            ("name", &self.name),
            ("tool_call_id", &self.tool_call_id),
            ("reasoning_content", &self.reasoning_content),
        ];
        for (field, text) in texts {
            if let Some(text) = text {
                fields.insert(field.to_owned(), text.as_str().into());
            }
        }
        if let Some(calls) = self.tool_calls.as_ref().filter(|calls| !calls.is_empty()) {
            fields.insert("tool_calls".to_owned(), calls.iter().map(ToolCall::for_template).collect());
        }
        Value::Object(fields)
    }

    /// As reward models and records have it; `index` says which message it is.
    ///
    /// # Errors
    /// 400 naming the message.
    pub fn read(&self, index: usize) -> Result<Message, ApiError> {
        let role = match self.role.as_str() {
            "developer" => "system",
            role if ROLES.contains(&role) => role,
            role => {
                let message = format!("the role `{role}` is unknown; use one of {}", ROLES.join(", "));
                return Err(ApiError::invalid(format!("messages[{index}].role"), message));
            }
        };
        let content = match &self.content {
            // OpenAI allows it for an assistant's turn that only called tools.
            None if role == "assistant" => String::new(),
            None => {
                let message =
                    format!("messages[{index}] has no content, but must have a string or a list of parts");
                return Err(ApiError::invalid(format!("messages[{index}].content"), message));
            }
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => {
                let texts: Result<Vec<&str>, ApiError> =
                    parts.iter().enumerate().map(|(i, part)| part.read(index, i)).collect();
                texts?.concat()
            }
        };
        Ok(Message { role: role.to_owned(), content })
    }
}
