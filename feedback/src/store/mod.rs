//! The feedback store: completions, votes, training runs, the serving pointer and the audit log in SQLite (a file) or
//! PostgreSQL (by URL). Owns opening, transactions and the integrity check; each table has its file.
//!
//! One set of statements serves both databases. SQLite runs in WAL mode with full synchronisation: what is committed is
//! there after a crash of the process and after a power cut.

mod completions;
mod error;
mod events;
mod intake;
mod kind;
mod labeling;
mod lease;
mod open;
mod records;
mod sql;
#[cfg(test)]
mod tests;
mod training;
mod votes;
mod writer;

use std::sync::Arc;

use sqlx::{Any, AnyPool, Transaction};
use tokio::sync::{Mutex, OwnedMutexGuard};

pub use error::StoreError;
pub use events::{Event, NewEvent};
pub use intake::{NewFeedback, Stored, VoteError};
pub use kind::{FeedbackKind, KINDS, Margin, Signal};
pub use labeling::Task;
pub use open::Dialect;
pub use records::{
    CandidateRecord, CompletionRecord, Deleted, FeedbackRecord, Millis, Vote, VoteFilter, now,
};
pub use training::{ServingPointer, TrainingRun, Transition};
pub use writer::{Writer, WriterConfig};

/// An open store. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    pool: AnyPool,
    dialect: Dialect,
    // SQLite has one writer at a time: waiting here is fair, waiting there is polling.
    turn: Arc<Mutex<()>>,
}

/// A transaction that writes. Dropping it undoes what it did.
pub(crate) struct Write {
    transaction: Transaction<'static, Any>,
    _turn: OwnedMutexGuard<()>,
}

impl Store {
    /// Whether this is SQLite or PostgreSQL.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(crate) async fn write(&self) -> Result<Write, StoreError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let begin = match self.dialect {
            // Takes the write lock at once: one taken later can fail where waiting would have done.
            Dialect::Sqlite => "BEGIN IMMEDIATE",
            Dialect::Postgres => "BEGIN",
        };
        let transaction =
            self.pool.begin_with(begin).await.map_err(StoreError::database("begin to write"))?;
        Ok(Write { transaction, _turn: turn })
    }

    /// Checks that the database is sound, that every vote has its completion, and that the audit log is whole.
    ///
    /// # Errors
    /// [`StoreError::Damaged`].
    pub async fn check(&self) -> Result<(), StoreError> {
        self.check_database(open::Thoroughness::Full).await?;
        let lost: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM feedback WHERE completion_id NOT IN (SELECT id FROM completions)",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::database("look for votes without a completion"))?;
        if lost > 0 {
            return Err(StoreError::Damaged(format!(
                "{lost} votes are about completions that are not there"
            )));
        }
        self.verify_events().await.map(|_| ())
    }

    /// Writes records from elsewhere, in one transaction: completions first, then votes on them. What is there already
    /// stays as it is. Answers how many of each were new.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing is written.
    pub async fn import(
        &self,
        completions: &[CompletionRecord],
        feedback: &[FeedbackRecord],
    ) -> Result<(u64, u64), StoreError> {
        let mut write = self.write().await?;
        let mut new = (0, 0);
        for record in completions {
            new.0 += u64::from(completions::insert(write.connection(), record).await?);
        }
        for record in feedback {
            new.1 += u64::from(votes::import(write.connection(), record).await?);
        }
        write.commit().await?;
        Ok(new)
    }

    /// After a deletion: takes what was deleted out of SQLite's write-ahead log as well.
    async fn forget_pages(&self) -> Result<(), StoreError> {
        if self.dialect == Dialect::Sqlite {
            sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
                .execute(&self.pool)
                .await
                .map_err(StoreError::database("write the log back"))?;
        }
        Ok(())
    }

    /// Waits for running statements and closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl Write {
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        self.transaction.commit().await.map_err(StoreError::database("commit"))
    }

    pub(crate) fn connection(&mut self) -> &mut sqlx::AnyConnection {
        &mut self.transaction
    }
}
