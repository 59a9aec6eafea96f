//! What can be wrong with preference data, as sentences that name the file, the line and the field.

use std::path::PathBuf;

/// Everything that can go wrong with a file of records.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FeedbackError {
    /// A file cannot be opened, read or written.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// One sentence.
        message: String,
    },
    /// A line, or a record of a file without lines, is not of the wanted kind.
    #[error("{}:{line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// One sentence: what is wrong and what would be right.
        message: String,
    },
}

impl FeedbackError {
    pub(crate) fn file(path: &std::path::Path, message: String) -> Self {
        Self::File { path: path.to_owned(), message }
    }
}

/// What is wrong with one record, without the place: one sentence that names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RecordError(pub String);

impl RecordError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}
