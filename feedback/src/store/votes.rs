//! The table of votes: its rows, and reading them back beside their answers by filter and page. Leaves which votes are
//! taken to `intake`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::intake::slot;
use super::sql::{Statement, from_json, to_json};
use super::{FeedbackKind, FeedbackRecord, Millis, Store, StoreError, Vote, VoteFilter};

const COLUMNS: &str = "SELECT id, created_at, completion_id, choice, kind, user_id, policy_version, replaces, \
     superseded, quarantined, body FROM feedback WHERE 1 = 1";

/// What only its readers look into.
#[derive(Serialize, Deserialize)]
struct Body {
    #[serde(default, skip_serializing_if = "Value::is_null")]
    value: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    tags: Map<String, Value>,
}

/// Writes a record unless its slot is taken; answers whether it did.
pub(super) async fn insert(
    connection: &mut AnyConnection,
    record: &FeedbackRecord,
    slot: Option<&str>,
) -> Result<bool, StoreError> {
    let body =
        Body { value: record.kind.value(), comment: record.comment.clone(), tags: record.tags.clone() };
    let done = sqlx::query(
        "INSERT INTO feedback (id, created_at, completion_id, choice, kind, user_id, policy_version, replaces, \
         superseded, quarantined, slot, score, body) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING",
    )
    .bind(record.id.as_str())
    .bind(record.created_at)
    .bind(record.completion_id.as_str())
    .bind(i64::from(record.choice))
    .bind(record.kind.name())
    .bind(record.user.as_deref())
    .bind(record.policy_version.as_str())
    .bind(record.replaces.as_deref())
    .bind(i64::from(record.superseded))
    .bind(record.quarantined.as_deref())
    .bind(slot)
    .bind(record.kind.score())
    .bind(to_json(&body)?)
    .execute(connection)
    .await
    .map_err(StoreError::database("write a vote"))?;
    Ok(done.rows_affected() > 0)
}

/// Writes a record from elsewhere as it is; one that is there, or whose person has voted, is left out.
pub(super) async fn import(
    connection: &mut AnyConnection,
    record: &FeedbackRecord,
) -> Result<bool, StoreError> {
    let slot = if record.superseded {
        None
    } else {
        slot(&record.completion_id, record.choice, &record.kind, record.user.as_deref())?
    };
    insert(connection, record, slot.as_deref()).await
}

fn read(row: &AnyRow) -> Result<FeedbackRecord, StoreError> {
    let failed = StoreError::database("read a vote");
    let text = |column: &str| row.try_get::<String, _>(column).map_err(&failed);
    let optional = |column: &str| row.try_get::<Option<String>, _>(column).map_err(&failed);
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(&failed);
    let id = text("id")?;
    let body: Body = from_json("feedback", &id, &text("body")?)?;
    let kind = FeedbackKind::read(&text("kind")?, body.value).map_err(|error| {
        StoreError::Damaged(format!("the row `{id}` of feedback cannot be read: {error}"))
    })?;
    Ok(FeedbackRecord {
        created_at: number("created_at")?,
        completion_id: text("completion_id")?,
        choice: u32::try_from(number("choice")?).unwrap_or(0),
        kind,
        user: optional("user_id")?,
        comment: body.comment,
        tags: body.tags,
        policy_version: text("policy_version")?,
        replaces: optional("replaces")?,
        superseded: number("superseded")? != 0,
        quarantined: optional("quarantined")?,
        id,
    })
}

impl VoteFilter {
    fn statement(&self, columns: &'static str) -> Result<Statement, StoreError> {
        let mut statement = Statement::new(columns);
        statement
            .push_bind(" AND user_id = ", self.user.as_deref())?
            .push_bind(" AND completion_id = ", self.completion_id.as_deref())?
            .push_bind(" AND kind = ", self.kind.as_deref())?
            .push_bind(" AND policy_version = ", self.policy_version.as_deref())?
            .push_bind(" AND created_at >= ", self.since)?
            .push_bind(" AND created_at < ", self.until)?;
        if let Some(policy) = &self.policy {
            let of_another = " AND NOT EXISTS (SELECT 1 FROM completions WHERE completions.id = feedback.completion_id \
                 AND completions.policy <> ";
            statement.push(of_another).bind(policy.as_str())?.push(")");
        }
        if !self.superseded {
            statement.push(" AND superseded = 0");
        }
        if self.trusted {
            statement.push(" AND quarantined IS NULL");
        }
        Ok(statement)
    }

    fn ordered(&self) -> Result<Statement, StoreError> {
        let mut statement = self.statement(COLUMNS)?;
        if let Some((time, id)) = &self.after {
            let than =
                if self.newest_first { " AND (created_at, id) < (" } else { " AND (created_at, id) > (" };
            statement.push(than).bind::<Millis>(*time)?.push(", ").bind(id.as_str())?.push(")");
        }
        let order = if self.newest_first { "created_at DESC, id DESC" } else { "created_at, id" };
        statement.push(" ORDER BY ").push(order).push_bind(" LIMIT ", self.limit.map(i64::from))?;
        Ok(statement)
    }
}

impl Store {
    /// Votes without their answers, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn feedback(&self, filter: &VoteFilter) -> Result<Vec<FeedbackRecord>, StoreError> {
        let rows = filter.ordered()?.query().fetch_all(&self.pool).await;
        rows.map_err(StoreError::database("read votes"))?.iter().map(read).collect()
    }

    /// Votes beside their answers, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn votes(&self, filter: &VoteFilter) -> Result<Vec<Vote>, StoreError> {
        let feedback = self.feedback(filter).await?;
        let mut ids: Vec<&str> = feedback.iter().map(|record| record.completion_id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        let completions = self.completions_of(&ids).await?;
        // A completion that was let go between the two reads takes its votes along.
        let vote = |feedback: FeedbackRecord| {
            completions.get(&feedback.completion_id).cloned().map(|completion| Vote { feedback, completion })
        };
        Ok(feedback.into_iter().filter_map(vote).collect())
    }

    /// The vote of this id, in force or not.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn feedback_by_id(&self, id: &str) -> Result<Option<FeedbackRecord>, StoreError> {
        let mut statement = Statement::new(COLUMNS);
        statement.push(" AND id = ").bind(id)?;
        let row = statement.query().fetch_optional(&self.pool).await;
        row.map_err(StoreError::database("read a vote"))?.as_ref().map(read).transpose()
    }

    /// How many votes the filter lets through; its order and limit do not matter.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn num_votes(&self, filter: &VoteFilter) -> Result<u64, StoreError> {
        let failed = StoreError::database("count votes");
        let statement = filter.statement("SELECT COUNT(*) FROM feedback WHERE 1 = 1")?;
        let row = statement.query().fetch_one(&self.pool).await.map_err(&failed)?;
        Ok(row.try_get::<i64, _>(0).map_err(&failed)?.unsigned_abs())
    }

    /// Puts a vote into quarantine, with a reason, or takes it out.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn quarantine(&self, votes: &[(&str, Option<&str>)]) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        for (id, reason) in votes {
            sqlx::query("UPDATE feedback SET quarantined = $1 WHERE id = $2")
                .bind(*reason)
                .bind(*id)
                .execute(write.connection())
                .await
                .map_err(StoreError::database("put a vote into quarantine"))?;
        }
        write.commit().await
    }
}
