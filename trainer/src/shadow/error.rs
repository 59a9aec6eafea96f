//! What can go wrong in the loop, each a sentence. Leaves presentation to the caller.

use rectify_feedback::store::StoreError;

use crate::TrainError;
use crate::gate::GateError;
use crate::registry::RegistryError;

/// Why the loop cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ShadowError {
    /// A setting that cannot work.
    #[error("{key}: {reason}")]
    Config {
        /// The key as users type it.
        key: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A state of a later release, or a damaged store.
    #[error("a training run is in the state `{0}`, which this release does not know")]
    State(String),
    /// What was asked does not fit the state of the run.
    #[error("{0}")]
    Refused(String),
    /// There is no such run or version.
    #[error("{0}")]
    NotFound(String),
    /// The run was changed by somebody else meanwhile.
    #[error("the training run {0} was changed meanwhile")]
    Stale(String),
    /// A file of the run.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// Which.
        path: std::path::PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// A part of the loop that cannot work at all.
    #[error("{0}")]
    Broken(String),
    /// The store.
    #[error(transparent)]
    Store(StoreError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The training.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The gate.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] rectify_engine::EngineError),
}

impl From<StoreError> for ShadowError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Stale { id, .. } => Self::Stale(id),
            other => Self::Store(other),
        }
    }
}

impl ShadowError {
    pub(crate) fn config(key: &'static str, reason: impl Into<String>) -> Self {
        Self::Config { key, reason: reason.into() }
    }

    pub(crate) fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// Whether trying again later may help: the store or the registry did not answer.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Registry(RegistryError::Storage { .. }))
    }
}
