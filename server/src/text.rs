//! What the API needs of the policy's tokenizer and chat template, so that tests can do without a model. Leaves both
//! to the engine's `text`.

use std::sync::Arc;

use rectify_engine::request::Message;
use rectify_engine::{EngineError, Grammar, GrammarSpec};

/// The text side of the served policy.
pub trait TextModel: Send + Sync {
    /// A bare prompt as token ids, with the special tokens the tokenizer adds.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if the text cannot be encoded.
    fn encode_text(&self, text: &str) -> Result<Vec<u32>, EngineError>;

    /// A conversation as token ids: the chat template with the opening of the assistant's turn.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if the template refuses the conversation.
    fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, EngineError>;

    /// The text of token ids, special tokens left out.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if an id is not in the vocabulary.
    fn decode(&self, tokens: &[u32]) -> Result<String, EngineError>;

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
