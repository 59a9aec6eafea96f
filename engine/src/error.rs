//! The engine's one error type. Each message is a sentence that names what is wrong and what would be right.

use std::path::PathBuf;

/// Everything that can go wrong in the engine.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The request asks for something impossible; `param` names the field.
    #[error("{message}")]
    InvalidRequest {
        /// The offending request field.
        param: &'static str,
        /// One sentence: what is wrong and what would be right.
        message: String,
    },
    /// No model, reward model or adapter of that name.
    #[error("the {kind} `{name}` does not exist; {known}")]
    NotFound {
        /// `model`, `reward model` or `adapter`.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// What there is, as a clause: "available: a, b".
        known: String,
    },
    /// Prompt and generation do not fit the context.
    #[error(
        "this model's context is {max_model_len} tokens, but the prompt has {prompt_len} and max_tokens asks for {max_tokens} more"
    )]
    ContextLength {
        /// Tokens in the prompt.
        prompt_len: usize,
        /// Tokens asked for.
        max_tokens: usize,
        /// Tokens the model takes.
        max_model_len: usize,
    },
    /// The waiting queue is full.
    #[error("the server is overloaded: {waiting} requests are waiting; try again later")]
    Overloaded {
        /// Requests waiting.
        waiting: usize,
    },
    /// A file of a model or adapter is missing, broken or does not fit.
    #[error("{}: {message}", path.display())]
    Load {
        /// The file or folder.
        path: PathBuf,
        /// One sentence: what is wrong and what would be right.
        message: String,
    },
    /// The model failed while running (a NaN, a kernel's refusal).
    #[error("the model failed: {0}")]
    Execution(String),
    /// The engine is stopping or its thread has ended.
    #[error("the engine is shutting down")]
    Shutdown,
}

impl EngineError {
    /// A [`EngineError::Load`] for `path`.
    pub fn load(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::Load { path: path.into(), message: message.into() }
    }

    /// A [`EngineError::InvalidRequest`] for the field `param`.
    pub fn invalid(param: &'static str, message: impl Into<String>) -> Self {
        Self::InvalidRequest { param, message: message.into() }
    }
}
