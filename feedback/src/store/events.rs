//! The audit log: events are only ever appended, and each holds the hash of the one before, so that a change or a gap
//! shows. Leaves what is worth an event to its writers.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::sql::{from_json, to_json};
use super::{Millis, Store, StoreError, now};

const PAGE: u32 = 1000;

/// Something that is to be remembered.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// A word for what happened, as `published`.
    pub kind: String,
    /// To what: a run, an adapter.
    pub subject: String,
    /// The rest.
    pub body: Value,
}

impl NewEvent {
    /// `kind` happened to `subject`.
    pub fn new(kind: impl Into<String>, subject: impl Into<String>, body: Value) -> Self {
        Self { kind: kind.into(), subject: subject.into(), body }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counted from 1, without gaps.
    pub seq: i64,
    /// When.
    pub at: Millis,
    /// A word for what happened.
    pub kind: String,
    /// To what.
    pub subject: String,
    /// The rest.
    pub body: Value,
    /// The hash of the event before; empty for the first.
    pub prev_hash: String,
    /// SHA-256 of all of the above.
    pub hash: String,
}

/// SHA-256 of the JSON list of everything before it.
fn digest(
    seq: i64,
    at: Millis,
    kind: &str,
    subject: &str,
    body: &str,
    prev_hash: &str,
) -> Result<String, StoreError> {
    let text = to_json(&(seq, at, kind, subject, body, prev_hash))?;
    Ok(format!("{:x}", Sha256::digest(text)))
}

pub(super) async fn append(connection: &mut AnyConnection, events: &[NewEvent]) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    let failed = StoreError::database("write an event");
    // Takes the row's lock first, so that two writers never continue the same event.
    let head = sqlx::query("UPDATE event_head SET seq = seq WHERE one = 1 RETURNING seq, hash")
        .fetch_one(&mut *connection)
        .await
        .map_err(&failed)?;
    let mut seq: i64 = head.try_get(0).map_err(&failed)?;
    let mut hash: String = head.try_get(1).map_err(&failed)?;
    for event in events {
        seq += 1;
        let (at, body) = (now(), to_json(&event.body)?);
        let next = digest(seq, at, &event.kind, &event.subject, &body, &hash)?;
        sqlx::query(
            "INSERT INTO events (seq, at, kind, subject, body, prev_hash, hash) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(seq)
        .bind(at)
        .bind(event.kind.as_str())
        .bind(event.subject.as_str())
        .bind(body)
        .bind(hash)
        .bind(next.as_str())
        .execute(&mut *connection)
        .await
        .map_err(&failed)?;
        hash = next;
    }
    sqlx::query("UPDATE event_head SET seq = $1, hash = $2 WHERE one = 1")
        .bind(seq)
        .bind(hash)
        .execute(&mut *connection)
        .await
        .map_err(&failed)?;
    Ok(())
}

/// An event and its body as it was hashed.
fn read(row: &AnyRow) -> Result<(Event, String), StoreError> {
    let failed = StoreError::database("read an event");
    let text = |column: &str| row.try_get::<String, _>(column).map_err(&failed);
    let seq = row.try_get("seq").map_err(&failed)?;
    let body = text("body")?;
    let event = Event {
        seq,
        at: row.try_get("at").map_err(&failed)?,
        kind: text("kind")?,
        subject: text("subject")?,
        body: from_json("events", &format!("{seq}"), &body)?,
        prev_hash: text("prev_hash")?,
        hash: text("hash")?,
    };
    Ok((event, body))
}

impl Store {
    /// Events behind number `after` (0 for all), in order, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn events(&self, after: i64, limit: u32) -> Result<Vec<Event>, StoreError> {
        Ok(self.event_rows(after, limit).await?.into_iter().map(|(event, _)| event).collect())
    }

    async fn event_rows(&self, after: i64, limit: u32) -> Result<Vec<(Event, String)>, StoreError> {
        let rows = sqlx::query(
            "SELECT seq, at, kind, subject, body, prev_hash, hash FROM events WHERE seq > $1 ORDER BY seq LIMIT $2",
        )
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(StoreError::database("read events"))?;
        rows.iter().map(read).collect()
    }

    /// Appends events by themselves.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn append_events(&self, events: &[NewEvent]) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        append(write.connection(), events).await?;
        write.commit().await
    }

    /// Checks the whole chain; answers how many events there are.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] naming the first event that does not fit.
    pub async fn verify_events(&self) -> Result<i64, StoreError> {
        let (mut seq, mut hash) = (0, String::new());
        loop {
            let page = self.event_rows(seq, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for (event, body) in page {
                let expected = digest(event.seq, event.at, &event.kind, &event.subject, &body, &hash)?;
                if event.seq != seq + 1 || event.prev_hash != hash || event.hash != expected {
                    return Err(StoreError::Damaged(format!(
                        "event {} of the audit log does not follow from the one before",
                        event.seq
                    )));
                }
                (seq, hash) = (event.seq, event.hash);
            }
        }
        let failed = StoreError::database("read the end of the audit log");
        let head =
            sqlx::query("SELECT seq, hash FROM event_head").fetch_one(&self.pool).await.map_err(&failed)?;
        let end: (i64, String) = (head.try_get(0).map_err(&failed)?, head.try_get(1).map_err(&failed)?);
        if end == (seq, hash) {
            return Ok(seq);
        }
        Err(StoreError::Damaged(format!(
            "the audit log ends at event {seq}, but event {} was written",
            end.0
        )))
    }
}
