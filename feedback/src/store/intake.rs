//! Taking a vote in: is there such an answer, has this person voted, was this request seen before. Leaves writing the
//! row to `votes` and waiting for the commit to the writer.

use std::sync::atomic::{AtomicU16, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use sqlx::{AnyConnection, Row};

use super::sql::{from_json, to_json};
use super::votes::insert;
use super::{FeedbackKind, FeedbackRecord, Millis, StoreError, now};

/// A vote as it arrives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NewFeedback {
    /// Of which answer.
    pub completion_id: String,
    /// Of which of its choices.
    pub choice: u32,
    /// What is said; a comparison names choices.
    pub kind: FeedbackKind,
    /// A comparison names candidates by index instead, as a labelling page that shows all of them does.
    pub of_candidates: bool,
    /// By whom.
    pub user: Option<String>,
    /// In words.
    pub comment: Option<String>,
    /// What the client says besides.
    pub tags: Map<String, Value>,
    /// Change an earlier vote of the same person.
    pub replace: bool,
    /// A repeat under the same key is answered as the first request was.
    #[serde(skip)]
    pub idempotency_key: Option<String>,
}

impl NewFeedback {
    /// A vote that says `kind` of the first choice, and nothing else.
    pub fn new(completion_id: impl Into<String>, kind: FeedbackKind) -> Self {
        Self {
            completion_id: completion_id.into(),
            choice: 0,
            kind,
            of_candidates: false,
            user: None,
            comment: None,
            tags: Map::new(),
            replace: false,
            idempotency_key: None,
        }
    }
}

/// A vote that is in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The record.
    pub feedback: FeedbackRecord,
    /// It was stored for an earlier request with the same idempotency key.
    pub repeated: bool,
}

/// Why a vote was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VoteError {
    /// There is no such answer.
    #[error(
        "there is no completion `{0}` on this server; `completion_id` must be the `id` of an answer it gave"
    )]
    NoCompletion(String),
    /// The answer has no such choice.
    #[error("{0}")]
    NoChoice(String),
    /// The same person has voted already.
    #[error(
        "this person has already given a {kind} on this answer (`{previous}`); set `replace` to true to change it"
    )]
    AlreadyVoted {
        /// What they had given.
        kind: &'static str,
        /// The vote in force.
        previous: String,
    },
    /// The key came with another vote before.
    #[error("the Idempotency-Key was used for another vote before; use a new one for each vote")]
    KeyReused,
    /// An edit, where no text is kept.
    #[error("this server keeps no text (`feedback.store_text` is false), and an edit is nothing else")]
    NoText,
    /// The queue is full.
    #[error("too many votes wait to be stored; try again in a moment")]
    Busy,
    /// The store is closing.
    #[error("the server is shutting down; try another replica")]
    Closed,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is remembered for an idempotency key.
#[derive(Serialize, Deserialize)]
enum Answer {
    Stored(Box<FeedbackRecord>),
    NoCompletion,
    NoChoice(String),
    AlreadyVoted { previous: String },
}

/// Takes a vote in, inside the caller's transaction. The inner result is the vote's own: an error there has written
/// nothing but the answer for its key.
pub(super) async fn cast(
    connection: &mut AnyConnection,
    new: &NewFeedback,
) -> Result<Result<Stored, VoteError>, StoreError> {
    let Some(key) = &new.idempotency_key else {
        let answer = decide(connection, new).await?;
        return Ok(result(answer, new, false));
    };
    let request_hash = format!("{:x}", Sha256::digest(to_json(new)?));
    let failed = StoreError::database("look up an idempotency key");
    let seen = sqlx::query("SELECT request_hash, body FROM idempotency WHERE idempotency_key = $1")
        .bind(key.as_str())
        .fetch_optional(&mut *connection)
        .await
        .map_err(&failed)?;
    if let Some(row) = seen {
        let (hash, body): (String, String) =
            (row.try_get(0).map_err(&failed)?, row.try_get(1).map_err(&failed)?);
        if hash != request_hash {
            return Ok(Err(VoteError::KeyReused));
        }
        return Ok(result(from_json("idempotency", key, &body)?, new, true));
    }
    let answer = decide(connection, new).await?;
    let feedback_id = match &answer {
        Answer::Stored(record) => Some(record.id.as_str()),
        _ => None,
    };
    sqlx::query(
        "INSERT INTO idempotency (idempotency_key, at, request_hash, feedback_id, body) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(key.as_str())
    .bind(now())
    .bind(request_hash)
    .bind(feedback_id)
    .bind(to_json(&answer)?)
    .execute(&mut *connection)
    .await
    .map_err(StoreError::database("remember an idempotency key"))?;
    Ok(result(answer, new, false))
}

fn result(answer: Answer, new: &NewFeedback, repeated: bool) -> Result<Stored, VoteError> {
    match answer {
        Answer::Stored(feedback) => Ok(Stored { feedback: *feedback, repeated }),
        Answer::NoCompletion => Err(VoteError::NoCompletion(new.completion_id.clone())),
        Answer::NoChoice(message) => Err(VoteError::NoChoice(message)),
        Answer::AlreadyVoted { previous } => Err(VoteError::AlreadyVoted { kind: new.kind.name(), previous }),
    }
}

async fn decide(connection: &mut AnyConnection, new: &NewFeedback) -> Result<Answer, StoreError> {
    let Some(place) = place(connection, new).await? else { return Ok(Answer::NoCompletion) };
    let kind = match place.resolve(new) {
        Ok(kind) => kind,
        Err(message) => return Ok(Answer::NoChoice(message)),
    };
    let user = new.user.clone().or(place.user);
    let slot = slot(&place.id, new.choice, &kind, user.as_deref())?;
    let created_at = now();
    let mut record = FeedbackRecord {
        id: new_id(created_at),
        created_at,
        completion_id: place.id,
        choice: new.choice,
        kind,
        user,
        comment: new.comment.clone(),
        tags: new.tags.clone(),
        policy_version: place.policy_version,
        replaces: None,
        superseded: false,
        quarantined: None,
    };
    if insert(connection, &record, slot.as_deref()).await? {
        return Ok(Answer::Stored(Box::new(record)));
    }
    let failed = StoreError::database("find the vote in force");
    let row = if new.replace {
        sqlx::query("UPDATE feedback SET superseded = 1, slot = NULL WHERE slot = $1 RETURNING id")
    } else {
        sqlx::query("SELECT id FROM feedback WHERE slot = $1")
    };
    let row = row.bind(slot.as_deref()).fetch_one(&mut *connection).await.map_err(&failed)?;
    let previous: String = row.try_get(0).map_err(&failed)?;
    if !new.replace {
        return Ok(Answer::AlreadyVoted { previous });
    }
    record.replaces = Some(previous);
    insert(connection, &record, slot.as_deref()).await?;
    Ok(Answer::Stored(Box::new(record)))
}

/// An id in whose order votes were taken, also within one millisecond of one process.
fn new_id(at: Millis) -> String {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let number = TAKEN.fetch_add(1, Ordering::Relaxed);
    format!("fb_{at:012x}{number:04x}{:016x}", uuid::Uuid::new_v4().as_u64_pair().0)
}

/// The record that a vote is about.
struct Place {
    id: String,
    policy_version: String,
    user: Option<String>,
    /// `(choice, candidate)`.
    choices: Vec<(u32, u32)>,
    num_candidates: u32,
}

/// Finds the record. A request with several prompts has several, and its choices are numbered through all of them.
async fn place(connection: &mut AnyConnection, new: &NewFeedback) -> Result<Option<Place>, StoreError> {
    let Some(first) = place_of(connection, &new.completion_id).await? else { return Ok(None) };
    let num_choices = u32::try_from(first.choices.len()).unwrap_or(u32::MAX);
    let choice = match new.kind {
        FeedbackKind::Comparison { better, .. } if !new.of_candidates => better,
        _ => new.choice,
    };
    let prompt = choice.checked_div(num_choices).unwrap_or(0);
    if prompt == 0 {
        return Ok(Some(first));
    }
    let other = place_of(connection, &format!("{}#{prompt}", new.completion_id)).await?;
    Ok(Some(other.unwrap_or(first)))
}

async fn place_of(connection: &mut AnyConnection, id: &str) -> Result<Option<Place>, StoreError> {
    let failed = StoreError::database("find the completion of a vote");
    let row =
        sqlx::query("SELECT policy_version, user_id, choices, num_candidates FROM completions WHERE id = $1")
            .bind(id)
            .fetch_optional(connection)
            .await
            .map_err(&failed)?;
    let Some(row) = row else { return Ok(None) };
    let choices: String = row.try_get(2).map_err(&failed)?;
    Ok(Some(Place {
        id: id.to_owned(),
        policy_version: row.try_get(0).map_err(&failed)?,
        user: row.try_get(1).map_err(&failed)?,
        choices: from_json("completions", id, &choices)?,
        num_candidates: row.try_get::<i64, _>(3).map_err(&failed)?.try_into().unwrap_or(u32::MAX),
    }))
}

impl Place {
    /// What is said, with candidates in the place of choices; or what is wrong with the choice.
    fn resolve(&self, new: &NewFeedback) -> Result<FeedbackKind, String> {
        let candidate = |choice: u32| {
            self.choices.iter().find(|(number, _)| *number == choice).map(|&(_, index)| index).ok_or_else(
                || format!("the completion has no choice {choice}; it has {} choices", self.choices.len()),
            )
        };
        match new.kind {
            FeedbackKind::Comparison { better, worse, .. } if new.of_candidates => {
                match [better, worse].into_iter().find(|index| *index >= self.num_candidates) {
                    None => Ok(new.kind.clone()),
                    Some(index) => Err(format!(
                        "the completion has no candidate {index}; it has {} candidates",
                        self.num_candidates
                    )),
                }
            }
            FeedbackKind::Comparison { better, worse, margin } => {
                Ok(FeedbackKind::Comparison { better: candidate(better)?, worse: candidate(worse)?, margin })
            }
            _ => candidate(new.choice).map(|_| new.kind.clone()),
        }
    }
}

/// What only one vote in force may hold: the same person's word of the same kind on the same answer. Whoever is not named
/// is one person per answer. Comments are not votes: there may be many.
pub(super) fn slot(
    completion_id: &str,
    choice: u32,
    kind: &FeedbackKind,
    user: Option<&str>,
) -> Result<Option<String>, StoreError> {
    let about = match kind {
        FeedbackKind::Comment => return Ok(None),
        FeedbackKind::Comparison { better, worse, .. } => json!([better.min(worse), better.max(worse)]),
        FeedbackKind::Implicit(signal) => json!([choice, signal]),
        _ => json!(choice),
    };
    to_json(&(completion_id, kind.name(), about, user)).map(Some)
}
