//! What can be wrong with a call. Leaves messages about models and requests to `engine`.

/// A call that could not be made: its shapes disagree, or the machine refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// A slice has the wrong length.
    #[error("{what} holds {actual} values but {expected} are needed")]
    Length {
        /// The argument.
        what: &'static str,
        /// Values needed.
        expected: usize,
        /// Values given.
        actual: usize,
    },
    /// An argument is outside what the operation is defined for.
    #[error("{0}")]
    Invalid(String),
    /// What was to be packed cannot be read.
    #[error("{0}")]
    Read(String),
    /// The operating system gave no thread.
    #[error("cannot start a worker thread: {0}")]
    Thread(String),
}

/// `actual` must be `expected`.
pub(crate) fn check_len(what: &'static str, actual: usize, expected: usize) -> Result<(), KernelError> {
    if actual == expected { Ok(()) } else { Err(KernelError::Length { what, expected, actual }) }
}

/// `condition`, or else the sentence of `message`.
pub(crate) fn ensure(condition: bool, message: impl FnOnce() -> String) -> Result<(), KernelError> {
    if condition { Ok(()) } else { Err(KernelError::Invalid(message())) }
}
