//! The queue before the store: what a server writes while it serves goes through one bounded queue, in order, and is
//! committed in groups of what waits. Nobody who answers requests ever waits for the database.
//!
//! Completions are dropped and counted when the queue is full; a vote waits for the commit of its group, or is refused at
//! once. One queue keeps the order: a vote never overtakes the record of the answer it is about.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};
use tokio::sync::{mpsc, oneshot};

use super::{
    CompletionRecord, FeedbackKind, NewFeedback, Store, StoreError, Stored, VoteError, completions, intake,
};

/// Most entries of one transaction: votes wait for all of their group.
const MAX_GROUP: usize = 512;
/// Pause before a completion that the database would not take is tried again, and how often that is done.
const PAUSE: Duration = Duration::from_millis(200);
const MAX_ATTEMPTS: u32 = 3;

/// How much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterConfig {
    /// Entries. The last quarter is for votes alone.
    pub queue: usize,
    /// Bytes of text in the completions that wait.
    pub bytes: usize,
    /// Whether completions keep their text.
    pub store_text: bool,
}

impl Default for WriterConfig {
    fn default() -> Self {
        Self { queue: 4096, bytes: 64 << 20, store_text: true }
    }
}

/// The end of the queue that requests hold. Clones share it.
#[derive(Clone, Debug)]
pub struct Writer {
    queue: mpsc::Sender<Entry>,
    bytes: Arc<AtomicUsize>,
    config: WriterConfig,
}

type Answer = oneshot::Sender<Result<Stored, VoteError>>;

#[derive(Debug)]
enum Entry {
    Completion { record: Box<CompletionRecord>, size: usize },
    Vote { new: Box<NewFeedback>, answer: Answer },
    Flush(oneshot::Sender<()>),
    Close(oneshot::Sender<()>),
}

impl Writer {
    /// Starts writing to `store` on the current runtime.
    pub fn start(store: Store, config: WriterConfig) -> Self {
        let (queue, entries) = mpsc::channel(config.queue.max(4));
        let bytes = Arc::<AtomicUsize>::default();
        tokio::spawn(run(store, entries, Arc::clone(&bytes)));
        Self { queue, bytes, config }
    }

    /// Hands over the record of an answer. Never waits: the record is dropped and counted if the queue is full.
    pub fn completion(&self, mut record: CompletionRecord) {
        if !self.config.store_text {
            record.strip_text();
        }
        let size = record.size();
        let is_full = self.queue.capacity() <= self.queue.max_capacity() / 4
            || self.bytes.load(Ordering::Relaxed) + size > self.config.bytes;
        if !is_full {
            self.bytes.fetch_add(size, Ordering::Relaxed);
            if self.send(Entry::Completion { record: Box::new(record), size }).is_ok() {
                return;
            }
            self.bytes.fetch_sub(size, Ordering::Relaxed);
        }
        dropped("queue_full", 1);
    }

    /// Stores a vote; answers when it is committed.
    ///
    /// # Errors
    /// [`VoteError`]; [`VoteError::Busy`] at once if the queue is full.
    pub async fn feedback(&self, mut new: NewFeedback) -> Result<Stored, VoteError> {
        if !self.config.store_text {
            if matches!(new.kind, FeedbackKind::Edit { .. }) {
                return Err(VoteError::NoText);
            }
            new.comment = None;
        }
        let (answer, answered) = oneshot::channel();
        self.send(Entry::Vote { new: Box::new(new), answer }).inspect_err(|_| {
            counter!("rectify_feedback_votes_total", "outcome" => "busy").increment(1);
        })?;
        answered.await.unwrap_or(Err(VoteError::Closed))
    }

    /// Waits until everything handed over before is committed (or was refused).
    pub async fn flush(&self) {
        let (done, is_done) = oneshot::channel();
        if self.queue.send(Entry::Flush(done)).await.is_ok() {
            let _ = is_done.await;
        }
    }

    /// Takes nothing more, and waits until everything handed over before is committed.
    pub async fn close(&self) {
        let (done, is_done) = oneshot::channel();
        if self.queue.send(Entry::Close(done)).await.is_ok() {
            let _ = is_done.await;
        }
    }

    fn send(&self, entry: Entry) -> Result<(), VoteError> {
        self.queue.try_send(entry).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => VoteError::Busy,
            mpsc::error::TrySendError::Closed(_) => VoteError::Closed,
        })?;
        let waiting = self.queue.max_capacity() - self.queue.capacity();
        gauge!("rectify_feedback_queue_length").set(waiting as f64);
        Ok(())
    }
}

/// Commits what waits, group by group, until the queue is closed and empty.
async fn run(store: Store, mut entries: mpsc::Receiver<Entry>, bytes: Arc<AtomicUsize>) {
    let mut group = Vec::with_capacity(MAX_GROUP);
    let mut closing = Vec::new();
    while entries.recv_many(&mut group, MAX_GROUP).await > 0 {
        if group.iter().any(|entry| matches!(entry, Entry::Close(_))) {
            entries.close();
        }
        gauge!("rectify_feedback_queue_length").set(entries.len() as f64);
        let size: usize = group.iter().map(Entry::size).sum();
        commit(&store, &mut group, &mut closing).await;
        bytes.fetch_sub(size, Ordering::Relaxed);
    }
    closing.into_iter().for_each(tell);
}

impl Entry {
    fn size(&self) -> usize {
        match self {
            Self::Completion { size, .. } => *size,
            _ => 0,
        }
    }
}

/// Commits a group and answers its votes. An entry the database refuses takes no other with it. If it takes nothing at
/// all, votes are refused and completions tried again.
async fn commit(store: &Store, group: &mut Vec<Entry>, closing: &mut Vec<oneshot::Sender<()>>) {
    let mut attempt = 1;
    while !group.is_empty() {
        let start = Instant::now();
        match write(store, group).await {
            Ok(outcomes) => {
                histogram!("rectify_feedback_commit_seconds").record(start.elapsed());
                let settled = group.drain(..).zip(outcomes);
                settled.for_each(|(entry, outcome)| settle(entry, outcome, closing));
            }
            Err(Failure { entry: Some(index), error }) => {
                tracing::error!(%error, "a record could not be stored");
                settle(group.remove(index), Outcome::Failed(error), closing);
            }
            Err(Failure { entry: None, error }) => {
                tracing::error!(%error, attempt, "the feedback store takes nothing");
                let is_kept =
                    |entry: &mut Entry| matches!(entry, Entry::Completion { .. }) && attempt < MAX_ATTEMPTS;
                for entry in group.extract_if(.., |entry| !is_kept(entry)) {
                    settle(entry, Outcome::Failed(error.clone()), closing);
                }
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Why a group was not written, and which entry was the cause, if one was.
struct Failure {
    entry: Option<usize>,
    error: StoreError,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { entry: None, error }
    }
}

enum Outcome {
    Vote(Box<Result<Stored, VoteError>>),
    Nothing,
    Failed(StoreError),
}

/// One transaction. After a failure nothing of it is written.
async fn write(store: &Store, group: &[Entry]) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes = Vec::with_capacity(group.len());
    if group.iter().all(|entry| matches!(entry, Entry::Flush(_) | Entry::Close(_))) {
        outcomes.extend(group.iter().map(|_| Outcome::Nothing));
        return Ok(outcomes);
    }
    let mut write = store.write().await?;
    for (index, entry) in group.iter().enumerate() {
        let outcome = match entry {
            Entry::Completion { record, .. } => {
                completions::insert(write.connection(), record).await.map(|_| Outcome::Nothing)
            }
            Entry::Vote { new, .. } => {
                intake::cast(write.connection(), new).await.map(|outcome| Outcome::Vote(Box::new(outcome)))
            }
            Entry::Flush(_) | Entry::Close(_) => Ok(Outcome::Nothing),
        };
        outcomes.push(outcome.map_err(|error| Failure { entry: Some(index), error })?);
    }
    write.commit().await?;
    Ok(outcomes)
}

fn settle(entry: Entry, outcome: Outcome, closing: &mut Vec<oneshot::Sender<()>>) {
    match (entry, outcome) {
        (Entry::Completion { .. }, Outcome::Failed(_)) => dropped("store_failed", 1),
        (Entry::Completion { .. }, _) => counter!("rectify_feedback_records_total").increment(1),
        (Entry::Vote { answer, .. }, outcome) => {
            let outcome = match outcome {
                Outcome::Vote(outcome) => *outcome,
                Outcome::Failed(error) => Err(VoteError::Store(error)),
                _ => Err(VoteError::Closed),
            };
            let label = match &outcome {
                Ok(stored) if stored.repeated => "repeated",
                Ok(_) => "stored",
                Err(VoteError::Store(_)) => "failed",
                Err(_) => "refused",
            };
            counter!("rectify_feedback_votes_total", "outcome" => label).increment(1);
            let _ = answer.send(outcome);
        }
        (Entry::Flush(done), _) => tell(done),
        // Told at the end: entries behind it still count.
        (Entry::Close(done), _) => closing.push(done),
    }
}

/// Whoever waited may have gone.
fn tell(done: oneshot::Sender<()>) {
    let _ = done.send(());
}

fn dropped(reason: &'static str, number: u64) {
    counter!("rectify_feedback_records_dropped_total", "reason" => reason).increment(number);
}
