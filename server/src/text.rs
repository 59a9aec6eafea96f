//! What the API needs of the policy's tokenizer and chat template, so that tests can do without a model. Leaves both
//! to the engine's `text`.

use std::sync::Arc;

use rectify_engine::text::tools::ToolFormat;
use rectify_engine::{EngineError, Grammar, GrammarSpec};
use serde_json::{Map, Value};

/// A conversation for the chat template.
#[derive(Clone, Debug, Default)]
pub struct Chat {
    /// Messages as templates take them: maps with `role`, `content` and more.
    pub messages: Vec<Value>,
    /// Definitions of tools, a list, if there are any.
    pub tools: Option<Value>,
    /// The request's own variables.
    pub variables: Map<String, Value>,
    /// End with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
}

/// A conversation as a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatPrompt {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// It has opened the answer's thoughts.
    pub opens_reasoning: bool,
}

/// How the models of a chat template write what is no plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatStyle {
    /// Calls of tools.
    pub tools: ToolFormat,
    /// Thoughts between `<think>` and `</think>`.
    pub marks_reasoning: bool,
}

/// The text side of the served policy.
pub trait TextModel: Send + Sync {
    /// A bare prompt as token ids, with or without the special tokens the tokenizer adds.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if the text cannot be encoded.
    fn encode_text(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, EngineError>;

    /// A conversation as token ids by the chat template.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if the template refuses the conversation.
    fn encode_chat(&self, chat: &Chat) -> Result<ChatPrompt, EngineError>;

    /// How the template's models write what is no plain text.
    fn style(&self) -> ChatStyle;

    /// The special token of this name.
    fn special_token(&self, name: &str) -> Option<u32>;

    /// The text of token ids, with or without special tokens.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if an id is not in the vocabulary.
    fn decode(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String, EngineError>;

    /// The bytes a token stands for: it may be part of a character.
    fn token_bytes(&self, token: u32) -> Vec<u8>;

    /// A grammar over the policy's tokens. May take a while: not for threads that serve connections.
    ///
    /// # Errors
    /// What is wrong with it, as a clause.
    fn grammar(&self, spec: &GrammarSpec) -> Result<Arc<Grammar>, String>;

    /// Rows of the policy's embedding: token ids are below it.
    fn vocab_size(&self) -> usize;
}
