//! The table of answers: writing, reading, taking the text out, and letting the old ones go.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::sql::{Statement, from_json, to_json};
use super::{CandidateRecord, CompletionRecord, Deleted, FeedbackKind, Millis, NewEvent, Store, StoreError};
use crate::Message;

const COLUMNS: &str = "SELECT id, created_at, model, policy_version, policy, arm, user_id, reward_model, strategy, gold, \
     body FROM completions WHERE ";
/// Rows asked for at once by their ids, and rows deleted in one transaction: votes wait between two of them.
const CHUNK: usize = 256;

/// What only its readers look into.
#[derive(Serialize, Deserialize)]
struct Body {
    messages: Vec<Message>,
    #[serde(default)]
    sampling: Value,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    metadata: Map<String, Value>,
    candidates: Vec<CandidateRecord>,
}

/// Writes a record; one that is there already stays as it is. Answers whether it was new.
pub(super) async fn insert(
    connection: &mut AnyConnection,
    record: &CompletionRecord,
) -> Result<bool, StoreError> {
    let choices: Vec<(u32, u32)> =
        record.candidates.iter().filter_map(|candidate| Some((candidate.choice?, candidate.index))).collect();
    let gold = record.gold.as_ref().map(to_json).transpose()?;
    let done = sqlx::query(
        "INSERT INTO completions (id, created_at, model, policy_version, arm, user_id, reward_model, strategy, \
         num_candidates, choices, gold, body, policy) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(record.id.as_str())
    .bind(record.created_at)
    .bind(record.model.as_str())
    .bind(record.policy_version.as_str())
    .bind(record.arm.as_deref())
    .bind(record.user.as_deref())
    .bind(record.reward_model.as_deref())
    .bind(record.strategy.as_deref())
    .bind(i64::try_from(record.candidates.len()).unwrap_or(i64::MAX))
    .bind(to_json(&choices)?)
    .bind(gold)
    .bind(body(record)?)
    .bind(record.policy.as_deref())
    .execute(connection)
    .await
    .map_err(StoreError::database("write a completion"))?;
    Ok(done.rows_affected() > 0)
}

fn body(record: &CompletionRecord) -> Result<String, StoreError> {
    // By reference: texts are long.
    to_json(&json!({
        "messages": &record.messages, "sampling": &record.sampling,
        "metadata": &record.metadata, "candidates": &record.candidates,
    }))
}

fn read(row: &AnyRow) -> Result<CompletionRecord, StoreError> {
    let failed = StoreError::database("read a completion");
    let text = |column: &str| row.try_get::<String, _>(column).map_err(&failed);
    let optional = |column: &str| row.try_get::<Option<String>, _>(column).map_err(&failed);
    let id = text("id")?;
    let body: Body = from_json("completions", &id, &text("body")?)?;
    let gold: Option<FeedbackKind> =
        optional("gold")?.map(|gold| from_json("completions", &id, &gold)).transpose()?;
    Ok(CompletionRecord {
        created_at: row.try_get("created_at").map_err(&failed)?,
        model: text("model")?,
        policy_version: text("policy_version")?,
        policy: optional("policy")?,
        arm: optional("arm")?,
        user: optional("user_id")?,
        messages: body.messages,
        sampling: body.sampling,
        metadata: body.metadata,
        reward_model: optional("reward_model")?,
        strategy: optional("strategy")?,
        candidates: body.candidates,
        gold,
        id,
    })
}

impl Store {
    /// The record of an answer.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn completion(&self, id: &str) -> Result<Option<CompletionRecord>, StoreError> {
        let mut statement = Statement::new(COLUMNS);
        statement.push("id = ").bind(id)?;
        let row = statement.query().fetch_optional(&self.pool).await;
        row.map_err(StoreError::database("read a completion"))?.as_ref().map(read).transpose()
    }

    /// Completions since `after` (a time and an id), oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn completions(
        &self,
        after: Option<(Millis, &str)>,
        limit: u32,
    ) -> Result<Vec<CompletionRecord>, StoreError> {
        let mut statement = Statement::new(COLUMNS);
        let (time, id) = after.unwrap_or((Millis::MIN, ""));
        statement.push("(created_at, id) > (").bind(time)?.push(", ").bind(id)?;
        statement.push(") ORDER BY created_at, id LIMIT ").bind(i64::from(limit))?;
        let rows = statement.query().fetch_all(&self.pool).await;
        rows.map_err(StoreError::database("read completions"))?.iter().map(read).collect()
    }

    /// The records of these answers, by id.
    pub(super) async fn completions_of(
        &self,
        ids: &[&str],
    ) -> Result<HashMap<String, Arc<CompletionRecord>>, StoreError> {
        let mut found = HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(CHUNK) {
            let mut statement = Statement::new(COLUMNS);
            statement.push("id IN ").bind_list(chunk.iter().copied())?;
            let rows = statement.query().fetch_all(&self.pool).await;
            for row in rows.map_err(StoreError::database("read completions"))? {
                let record = read(&row)?;
                found.insert(record.id.clone(), Arc::new(record));
            }
        }
        Ok(found)
    }

    /// Deletes everything `user` said, and takes text and person out of the answers they got. Both are counted, and
    /// the audit log says that it was done, not whom it was about.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing is deleted.
    pub async fn delete_user(&self, user: &str) -> Result<Deleted, StoreError> {
        let failed = StoreError::database("delete a person's data");
        let mut write = self.write().await?;
        let votes = sqlx::query("DELETE FROM feedback WHERE user_id = $1")
            .bind(user)
            .execute(write.connection())
            .await
            .map_err(&failed)?;
        let mut statement = Statement::new(COLUMNS);
        statement.push("user_id = ").bind(user)?;
        let rows = statement.query().fetch_all(write.connection()).await.map_err(&failed)?;
        for row in &rows {
            let mut record = read(row)?;
            record.strip_text();
            sqlx::query("UPDATE completions SET user_id = NULL, body = $1 WHERE id = $2")
                .bind(body(&record)?)
                .bind(record.id.as_str())
                .execute(write.connection())
                .await
                .map_err(&failed)?;
        }
        let deleted = Deleted { votes: votes.rows_affected(), completions: rows.len() as u64 };
        if deleted != Deleted::default() {
            let event = NewEvent::new("person_deleted", "feedback", json!(deleted));
            super::events::append(write.connection(), &[event]).await?;
        }
        write.commit().await?;
        self.forget_pages().await?;
        Ok(deleted)
    }

    /// Lets go of completions (with their votes), votes and idempotency keys from before `before`. Gold questions stay.
    ///
    /// # Errors
    /// [`StoreError`]; what was deleted until then stays deleted.
    pub async fn retain(&self, before: Millis) -> Result<Deleted, StoreError> {
        let mut deleted = Deleted::default();
        loop {
            let failed = StoreError::database("delete old records");
            let mut write = self.write().await?;
            let mut ids = Statement::new("SELECT id FROM completions WHERE gold IS NULL AND created_at < ");
            ids.bind(before)?.push(" ORDER BY created_at LIMIT ").bind(CHUNK as i64)?;
            let rows = ids.query().fetch_all(write.connection()).await.map_err(&failed)?;
            let ids: Vec<String> =
                rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(&failed)?;
            if !ids.is_empty() {
                for (text, count) in [
                    ("DELETE FROM feedback WHERE completion_id IN ", &mut deleted.votes),
                    ("DELETE FROM completions WHERE id IN ", &mut deleted.completions),
                ] {
                    let mut statement = Statement::new(text);
                    statement.bind_list(ids.iter().map(String::as_str))?;
                    let done = statement.query().execute(write.connection()).await.map_err(&failed)?;
                    *count += done.rows_affected();
                }
            } else {
                // Votes on gold questions, which stay themselves.
                let done = sqlx::query("DELETE FROM feedback WHERE created_at < $1")
                    .bind(before)
                    .execute(write.connection())
                    .await
                    .map_err(&failed)?;
                deleted.votes += done.rows_affected();
                sqlx::query("DELETE FROM idempotency WHERE at < $1")
                    .bind(before)
                    .execute(write.connection())
                    .await
                    .map_err(&failed)?;
            }
            write.commit().await?;
            if ids.is_empty() {
                return Ok(deleted);
            }
        }
    }
}
