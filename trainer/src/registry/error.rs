//! What can go wrong with the registry, each a sentence that names the object, file or version. Leaves presentation to the
//! caller.

use std::path::{Path as FilePath, PathBuf};

use object_store::path::Path;

/// Why the registry could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// An address that cannot be opened.
    #[error("the registry `{url}` {reason}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A name that cannot be one.
    #[error("the {what} name `{name}` cannot be used: {reason}")]
    Name {
        /// `adapter` or `file`.
        what: &'static str,
        /// As given.
        name: String,
        /// What would be right.
        reason: String,
    },
    /// No such version.
    #[error("{name}@{version} is not in the registry {url}; {known}")]
    NotFound {
        /// The adapter.
        name: String,
        /// The number asked for.
        version: u64,
        /// The registry.
        url: String,
        /// The versions there are.
        known: String,
    },
    /// What is stored is not what was written.
    #[error("{object} is damaged: it {reason}; restore it from a copy, or publish another version")]
    Damaged {
        /// Its place in the registry.
        object: String,
        /// How it shows.
        reason: String,
    },
    /// The storage refused or did not answer.
    #[error("{object} cannot be reached: {source}")]
    Storage {
        /// Its place in the registry.
        object: String,
        /// The storage's word.
        source: Box<object_store::Error>,
    },
    /// A local file that cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// A model whose files cannot be read.
    #[error(transparent)]
    Model(#[from] rectify_engine::EngineError),
}

impl RegistryError {
    pub(super) fn not_found(name: &str, version: u64, known: &[u64], url: &str) -> Self {
        let numbers: Vec<String> = known.iter().map(ToString::to_string).collect();
        let known = match numbers.is_empty() {
            true => "it has no version of that name".to_owned(),
            false => format!("its versions are {}", numbers.join(", ")),
        };
        Self::NotFound { name: name.to_owned(), version, url: url.to_owned(), known }
    }

    pub(super) fn damaged(object: &Path, reason: String) -> Self {
        Self::Damaged { object: object.to_string(), reason }
    }

    pub(super) fn file(path: &FilePath, error: &std::io::Error) -> Self {
        let source = std::io::Error::new(error.kind(), error.to_string());
        Self::File { path: path.to_owned(), source }
    }
}

/// An error of the storage at an object.
pub(super) fn at(object: &Path, source: object_store::Error) -> RegistryError {
    RegistryError::Storage { object: object.to_string(), source: Box::new(source) }
}
