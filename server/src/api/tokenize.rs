//! `/tokenize` and `/detokenize`, in vLLM's shapes. Leaves tokens to the policy's tokenizer.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::messages::ChatMessage;
use super::tools::Tool;

/// A text or a conversation to tokenise: exactly one of `prompt` and `messages`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub struct TokenizeRequest {
    /// The policy or one of its adapters.
    #[serde(default)]
    pub model: Option<String>,
    /// A text.
    #[serde(default)]
    pub prompt: Option<String>,
    /// A conversation, which goes through the chat template.
    #[serde(default)]
    pub messages: Option<Vec<ChatMessage>>,
    /// With `prompt`: add the special tokens that a prompt of `/v1/completions` gets; true unless set.
    #[serde(default)]
    pub add_special_tokens: Option<bool>,
    /// With `messages`: end with the opening of the assistant's turn; true unless set.
    #[serde(default)]
    pub add_generation_prompt: Option<bool>,
    /// With `messages`: functions that the template describes.
    #[serde(default)]
    pub tools: Option<Vec<Tool>>,
    /// With `messages`: variables of the template.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Report each token's text, too.
    #[serde(default)]
    pub return_token_strs: Option<bool>,
}

/// The tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenizeResponse {
    /// How many.
    pub count: usize,
    /// Tokens of the longest sequence that the model takes.
    pub max_model_len: usize,
    /// Their ids.
    pub tokens: Vec<u32>,
    /// Their texts, if asked for; a token that is a part of a character is shown as a replacement character.
    pub token_strs: Option<Vec<String>>,
}

/// Tokens to put together.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub struct DetokenizeRequest {
    /// The policy or one of its adapters.
    #[serde(default)]
    pub model: Option<String>,
    /// Their ids.
    pub tokens: Vec<u32>,
}

/// The text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DetokenizeResponse {
    /// With the names of special tokens.
    pub prompt: String,
}
