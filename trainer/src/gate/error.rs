//! Why the gate could not judge, each a sentence that names the file, key or model. A candidate that is not good enough is
//! no error: that is a verdict.

use rectify_engine::EngineError;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// A suite that cannot be used.
    #[error("{origin}: {message}")]
    Suite {
        /// The file.
        origin: String,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// A check that needs what is not loaded.
    #[error("the check `{check}` cannot run: {reason}")]
    Check {
        /// Its name.
        check: String,
        /// What is missing, and what would be right.
        reason: String,
    },
    /// The caller asked to stop.
    #[error("the evaluation was stopped after {done} of {total} checks")]
    Stopped {
        /// Checks that were done.
        done: usize,
        /// All of them.
        total: usize,
    },
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
