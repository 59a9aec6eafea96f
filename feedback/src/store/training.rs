//! Training runs and the serving pointer, changed together with the audit log in one transaction. Leaves which change
//! may follow which to the state machine that makes them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::sql::{Statement, from_json, to_json};
use super::{Millis, NewEvent, Store, StoreError, events, now};

const RUN: &str = "SELECT id, state, started_by, algorithm, adapter, base_version, version, snapshot, folder, detail, error, \
     created_at, updated_at, revision FROM training_runs ";

/// One run of the shadow trainer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingRun {
    /// Its id.
    pub id: String,
    /// A state of the machine.
    pub state: String,
    /// What started it.
    pub trigger: String,
    /// As `kto`.
    pub algorithm: String,
    /// The adapter it makes a version of.
    pub adapter: String,
    /// What it starts from.
    pub base_version: String,
    /// The version it has made.
    pub version: Option<String>,
    /// The hash of its data.
    pub snapshot: Option<String>,
    /// Where its files are, below the runs of whichever process works on it.
    pub folder: String,
    /// What the states need to know.
    pub detail: Value,
    /// Why it failed.
    pub error: Option<String>,
    /// When it began; set by the store.
    pub created_at: Millis,
    /// When it last changed; set by the store.
    pub updated_at: Millis,
    /// How often it was written; 0 before the first time.
    pub revision: i64,
}

/// Which version of an adapter answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServingPointer {
    /// The adapter.
    pub name: String,
    /// The active version; none for the base.
    pub version: Option<String>,
    /// The one before, for a rollback.
    pub previous: Option<String>,
    /// The version on probation.
    pub canary: Option<String>,
    /// Its share of new requests, 0 to 1.
    pub share: f64,
    /// Since when.
    pub since: Millis,
}

/// What changes at once, or not at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transition<'a> {
    /// The run's new contents. Its `revision` is the one that was read; the store must still be there.
    pub run: Option<&'a TrainingRun>,
    /// The new pointer.
    pub serving: Option<&'a ServingPointer>,
    /// The pointer's `since` as it was read; the store must still be there. 0 if there was none.
    pub serving_was: Option<Millis>,
    /// What the audit log says of it.
    pub events: &'a [NewEvent],
}

impl Store {
    /// Makes a change whole, or not at all. The run as it now is, its revision one higher.
    ///
    /// # Errors
    /// [`StoreError::Stale`] if the run or the pointer has changed since it was read; nothing is written then.
    pub async fn commit(&self, transition: Transition<'_>) -> Result<Option<TrainingRun>, StoreError> {
        let mut write = self.write().await?;
        let run = match transition.run {
            Some(run) => Some(put_run(write.connection(), run).await?),
            None => None,
        };
        if let Some(pointer) = transition.serving {
            put_pointer(write.connection(), pointer, transition.serving_was).await?;
        }
        events::append(write.connection(), transition.events).await?;
        write.commit().await?;
        Ok(run)
    }

    /// The run of this id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn run(&self, id: &str) -> Result<Option<TrainingRun>, StoreError> {
        let mut statement = Statement::new(RUN);
        statement.push("WHERE id = ").bind(id)?;
        let row = statement.query().fetch_optional(&self.pool).await;
        row.map_err(StoreError::database("read a training run"))?.as_ref().map(read_run).transpose()
    }

    /// The newest runs, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn runs(&self, limit: u32) -> Result<Vec<TrainingRun>, StoreError> {
        let mut statement = Statement::new(RUN);
        statement.push("ORDER BY created_at DESC, id DESC LIMIT ").bind(i64::from(limit))?;
        let rows = statement.query().fetch_all(&self.pool).await;
        rows.map_err(StoreError::database("read training runs"))?.iter().map(read_run).collect()
    }

    /// The pointer of an adapter, if it ever had one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn serving(&self, name: &str) -> Result<Option<ServingPointer>, StoreError> {
        let failed = StoreError::database("read the serving pointer");
        let row = sqlx::query(
            "SELECT name, version, previous_version, canary, share, since FROM serving WHERE name = $1",
        )
        .bind(name)
        .fetch_optional(&self.pool)
        .await
        .map_err(&failed)?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(ServingPointer {
            name: row.try_get(0).map_err(&failed)?,
            version: row.try_get(1).map_err(&failed)?,
            previous: row.try_get(2).map_err(&failed)?,
            canary: row.try_get(3).map_err(&failed)?,
            share: row.try_get(4).map_err(&failed)?,
            since: row.try_get(5).map_err(&failed)?,
        }))
    }
}

async fn put_run(connection: &mut AnyConnection, run: &TrainingRun) -> Result<TrainingRun, StoreError> {
    let now = now();
    let is_new = run.revision == 0;
    let new = TrainingRun {
        created_at: if is_new { now } else { run.created_at },
        updated_at: now,
        revision: run.revision + 1,
        ..run.clone()
    };
    let statement = if is_new {
        "INSERT INTO training_runs (state, started_by, algorithm, adapter, base_version, version, snapshot, folder, \
         detail, error, created_at, updated_at, revision, id) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (id) DO NOTHING"
    } else {
        "UPDATE training_runs SET state = $1, started_by = $2, algorithm = $3, adapter = $4, base_version = $5, \
         version = $6, snapshot = $7, folder = $8, detail = $9, error = $10, created_at = $11, updated_at = $12, \
         revision = $13 WHERE id = $14 AND revision = $13 - 1"
    };
    let done = sqlx::query(statement)
        .bind(new.state.as_str())
        .bind(new.trigger.as_str())
        .bind(new.algorithm.as_str())
        .bind(new.adapter.as_str())
        .bind(new.base_version.as_str())
        .bind(new.version.as_deref())
        .bind(new.snapshot.as_deref())
        .bind(new.folder.as_str())
        .bind(to_json(&new.detail)?)
        .bind(new.error.as_deref())
        .bind(new.created_at)
        .bind(new.updated_at)
        .bind(new.revision)
        .bind(new.id.as_str())
        .execute(connection)
        .await
        .map_err(StoreError::database("write a training run"))?;
    if done.rows_affected() == 0 {
        return Err(StoreError::Stale { id: run.id.clone(), revision: run.revision });
    }
    Ok(new)
}

async fn put_pointer(
    connection: &mut AnyConnection,
    pointer: &ServingPointer,
    was: Option<Millis>,
) -> Result<(), StoreError> {
    let done = sqlx::query(
        "INSERT INTO serving (name, version, previous_version, canary, share, since) VALUES ($1, $2, $3, $4, $5, $6) \
         ON CONFLICT (name) DO UPDATE SET version = excluded.version, previous_version = excluded.previous_version, \
         canary = excluded.canary, share = excluded.share, since = excluded.since \
         WHERE $7 < 0 OR serving.since = $7",
    )
    .bind(pointer.name.as_str())
    .bind(pointer.version.as_deref())
    .bind(pointer.previous.as_deref())
    .bind(pointer.canary.as_deref())
    .bind(pointer.share)
    .bind(pointer.since)
    // Below zero: whatever was there.
    .bind(was.unwrap_or(-1))
    .execute(connection)
    .await
    .map_err(StoreError::database("write the serving pointer"))?;
    match done.rows_affected() {
        0 => Err(StoreError::Stale { id: pointer.name.clone(), revision: was.unwrap_or(-1) }),
        _ => Ok(()),
    }
}

fn read_run(row: &AnyRow) -> Result<TrainingRun, StoreError> {
    let failed = StoreError::database("read a training run");
    let text = |column: &str| row.try_get::<String, _>(column).map_err(&failed);
    let optional = |column: &str| row.try_get::<Option<String>, _>(column).map_err(&failed);
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(&failed);
    let id = text("id")?;
    Ok(TrainingRun {
        state: text("state")?,
        trigger: text("started_by")?,
        algorithm: text("algorithm")?,
        adapter: text("adapter")?,
        base_version: text("base_version")?,
        version: optional("version")?,
        snapshot: optional("snapshot")?,
        folder: text("folder")?,
        detail: from_json("training_runs", &id, &text("detail")?)?,
        error: optional("error")?,
        created_at: number("created_at")?,
        updated_at: number("updated_at")?,
        revision: number("revision")?,
        id,
    })
}
