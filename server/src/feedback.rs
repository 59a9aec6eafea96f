//! The store of a running server: opened before the models are, kept in bounds while it serves, closed behind the last
//! answer. Leaves what is in it to the `feedback` crate.

use std::time::Duration;

use rectify_feedback::store::{Millis, Store, StoreError, Writer, WriterConfig, now};

use crate::cli::CliError;
use crate::config::Config;

/// How often old records are looked for.
const RETENTION_INTERVAL: Duration = Duration::from_secs(3600);
/// How long closing may take: what waits then is lost, and that is said.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(20);

/// Opens a store for a command that cannot do without one.
///
/// # Errors
/// [`CliError::Usage`] if the configuration says that nothing is kept, or the store cannot be opened.
pub async fn open_store(url: Option<&str>) -> Result<Store, CliError> {
    let url = url.ok_or_else(|| {
        CliError::Usage(
            "`store.url` is none, but this needs a store; take it out of the configuration".into(),
        )
    })?;
    Store::open(url).await.map_err(|error| CliError::Usage(error.to_string()))
}

/// Where answers and votes are kept. Clones share it.
#[derive(Clone, Debug)]
pub struct Feedback {
    /// For reading, and for changes that are no answers and no votes.
    pub store: Store,
    /// The queue of answers and votes.
    pub writer: Writer,
    /// Whether words are kept.
    pub store_text: bool,
    /// Shuffles the sides of questions.
    pub labeling_seed: u64,
}

impl Feedback {
    /// Opens the store that the configuration names, and starts letting old records go if it says so. None if nothing is
    /// to be kept.
    ///
    /// # Errors
    /// [`StoreError`], one sentence that names the URL.
    pub async fn open(config: &Config) -> Result<Option<Self>, StoreError> {
        let Some(url) = config.store_url() else { return Ok(None) };
        let store = Store::open(&url).await?;
        let store_text = config.feedback.store_text;
        let queue = WriterConfig { queue: config.store.queue, store_text, ..WriterConfig::default() };
        let writer = Writer::start(store.clone(), queue);
        if let Some(retention) = config.feedback.retention {
            tokio::spawn(retain(store.clone(), retention.0));
        }
        Ok(Some(Self { store, writer, store_text, labeling_seed: config.feedback.labeling_seed }))
    }

    /// Writes what waits and closes the store.
    pub async fn close(&self) {
        let closing = async {
            self.writer.close().await;
            self.store.close().await;
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, closing).await.is_err() {
            tracing::error!("the feedback store did not take in time what waited to be written");
        }
    }
}

/// Lets records older than `retention` go, now and every hour.
async fn retain(store: Store, retention: Duration) {
    let age = Millis::try_from(retention.as_millis()).unwrap_or(Millis::MAX);
    let mut ticks = tokio::time::interval(RETENTION_INTERVAL.min(retention.max(Duration::from_secs(1))));
    loop {
        ticks.tick().await;
        match store.retain(now().saturating_sub(age)).await {
            Ok(deleted) if deleted != Default::default() => {
                tracing::info!(
                    votes = deleted.votes,
                    completions = deleted.completions,
                    "old records are gone"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "old records could not be deleted"),
        }
    }
}
