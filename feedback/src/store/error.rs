//! What can go wrong with the store, as sentences for the person who runs the server. Leaves what can be wrong with a
//! vote to `votes`.

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error("the feedback store {url} {message}")]
    Open {
        /// Where, without a password.
        url: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The database refused a statement.
    #[error("the feedback store could not {action}: {cause}")]
    Database {
        /// What was to be done.
        action: &'static str,
        /// What the database says.
        cause: String,
    },
    /// What is stored contradicts itself.
    #[error("the feedback store is damaged: {0}; restore it from a backup")]
    Damaged(String),
    /// Somebody else changed the training run since it was read.
    #[error("the training run `{id}` is no longer at revision {revision}; read it again")]
    Stale {
        /// The run, or the adapter whose pointer it is.
        id: String,
        /// The revision that was expected, or the time since which the pointer stood.
        revision: i64,
    },
}

impl StoreError {
    /// Turns what the database says into a sentence.
    pub(crate) fn database(action: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |error| Self::Database { action, cause: plain(&error) }
    }
}

/// A database's words without the wrapping of the layers above it.
pub(crate) fn plain(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::PoolTimedOut => "no connection became free in time".into(),
        error => error.to_string(),
    }
}
