//! Votes on the wire: our body and TensorZero's, checked once, and how stored votes are shown. Leaves whether a vote is
//! taken to the store, and stored answers to `stored`.

use axum::http::StatusCode;
use rectify_feedback::store::{FeedbackKind, FeedbackRecord, NewFeedback, VoteError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use crate::error::ApiError;

/// Longest name of a person, and longest id.
const MAX_NAME: usize = 256;
/// Longest comment, and most bytes of tags.
const MAX_WORDS: usize = 64 << 10;
/// Most votes of a page.
const MAX_PAGE: u32 = 1000;

/// What a person says of an answer. `metric_name`, `inference_id` and `value` are TensorZero's names for the same.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub struct FeedbackRequest {
    /// The `id` of an answer of this server.
    #[serde(default)]
    pub completion_id: Option<String>,
    /// Which of its choices; the first if unset.
    #[serde(default)]
    pub choice: Option<u32>,
    /// `thumb`, `rating`, `comparison`, `edit`, `implicit` or `comment`.
    #[serde(default)]
    pub kind: Option<String>,
    /// Of a thumb 1 or -1, of a rating 1 to 5, of a comparison `{"better": 0, "worse": 1, "margin": "slightly"}`, of an edit
    /// the better answer, of an implicit signal `copied`, `regenerated` or `abandoned`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub value: Option<Value>,
    /// Who says it; the person who had asked if unset.
    #[serde(default)]
    pub user: Option<String>,
    /// In words.
    #[serde(default)]
    pub comment: Option<String>,
    /// The client's own labels.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub tags: Option<Map<String, Value>>,
    /// Change an earlier vote of the same person.
    #[serde(default)]
    pub replace: Option<bool>,
    /// TensorZero: a metric of true or false, `demonstration`, or `comment`.
    #[serde(default)]
    pub metric_name: Option<String>,
    /// TensorZero: the `id` of an answer of this server.
    #[serde(default)]
    pub inference_id: Option<String>,
    /// TensorZero: not available here.
    #[serde(default)]
    pub dryrun: Option<bool>,
}

impl FeedbackRequest {
    /// Checks the fields.
    ///
    /// # Errors
    /// 400 naming the first field at fault.
    pub fn into_new(mut self, idempotency_key: Option<String>) -> Result<NewFeedback, ApiError> {
        self.take_tensorzero()?;
        let Some(completion_id) = self.completion_id.filter(|id| !id.is_empty() && id.len() <= MAX_NAME)
        else {
            let message = "completion_id is missing, but must be the `id` of an answer of this server";
            return Err(ApiError::invalid("completion_id", message));
        };
        let Some(kind) = self.kind else {
            let known = rectify_feedback::store::KINDS.join(", ");
            return Err(ApiError::invalid("kind", format!("kind is missing, but must be one of {known}")));
        };
        let kind = FeedbackKind::read(&kind, self.value.unwrap_or(Value::Null)).map_err(|error| {
            let field = if error.0.starts_with("`kind`") { "kind" } else { "value" };
            ApiError::invalid(field, error.0)
        })?;
        let comment = self.comment.filter(|comment| !comment.trim().is_empty());
        if comment.as_ref().is_some_and(|comment| comment.len() > MAX_WORDS) {
            return Err(ApiError::invalid("comment", "comment is longer than 64 KiB"));
        }
        if kind == FeedbackKind::Comment && comment.is_none() {
            let message = "comment is empty, but a vote of the kind `comment` is nothing else";
            return Err(ApiError::invalid("comment", message));
        }
        let tags = self.tags.unwrap_or_default();
        if serde_json::to_string(&tags).is_ok_and(|tags| tags.len() > MAX_WORDS) {
            return Err(ApiError::invalid("tags", "tags are longer than 64 KiB"));
        }
        let user = self.user.map(|user| person("user", user)).transpose()?;
        if idempotency_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > MAX_NAME) {
            let message = "the header Idempotency-Key must have 1 to 256 characters";
            return Err(ApiError::invalid("Idempotency-Key", message));
        }
        Ok(NewFeedback {
            choice: self.choice.unwrap_or(0),
            user,
            comment,
            tags,
            replace: self.replace.unwrap_or(false),
            idempotency_key,
            ..NewFeedback::new(completion_id, kind)
        })
    }

    /// Puts TensorZero's names in the place of ours.
    fn take_tensorzero(&mut self) -> Result<(), ApiError> {
        if self.dryrun == Some(true) {
            return Err(ApiError::invalid("dryrun", "dryrun is not available; leave it out"));
        }
        let Some(metric) = self.metric_name.take() else {
            self.completion_id = self.completion_id.take().or(self.inference_id.take());
            return Ok(());
        };
        if self.kind.is_some() {
            let message = "metric_name and kind say the same in two ways; keep one of them";
            return Err(ApiError::invalid("metric_name", message));
        }
        self.completion_id = self.inference_id.take().or(self.completion_id.take());
        let (kind, value) = match (metric.as_str(), self.value.take()) {
            ("comment", Some(Value::String(words))) => {
                self.comment = Some(words);
                ("comment", None)
            }
            ("demonstration", Some(Value::String(answer))) => ("edit", Some(Value::String(answer))),
            (_, Some(Value::Bool(up))) => ("thumb", Some(json!(up))),
            (name, value) if rectify_feedback::store::KINDS.contains(&name) => {
                self.kind = Some(metric.clone());
                self.value = value;
                return Ok(());
            }
            _ => {
                let message = format!(
                    "value of the metric `{metric}` must be true or false; `demonstration` and `comment` take a string"
                );
                return Err(ApiError::invalid("value", message));
            }
        };
        self.kind = Some(kind.to_owned());
        self.value = value;
        self.tags.get_or_insert_default().insert("metric_name".to_owned(), json!(metric));
        Ok(())
    }
}

/// The name of a person, as requests may give it.
///
/// # Errors
/// 400 naming `field`.
pub fn person(field: &'static str, name: String) -> Result<String, ApiError> {
    if name.trim().is_empty() || name.len() > MAX_NAME || name.contains(char::is_control) {
        let message = format!("{field} must be a name of 1 to 256 characters, without line breaks");
        return Err(ApiError::invalid(field, message));
    }
    Ok(name)
}

impl From<VoteError> for ApiError {
    fn from(error: VoteError) -> Self {
        let message = error.to_string();
        match error {
            VoteError::NoCompletion(_) => {
                Self::new(StatusCode::NOT_FOUND, message).at("completion_id").code("completion_not_found")
            }
            VoteError::NoChoice(_) => Self::invalid("choice", message),
            VoteError::NoText => Self::invalid("kind", message),
            VoteError::AlreadyVoted { .. } => {
                Self::new(StatusCode::CONFLICT, message).at("replace").code("already_voted")
            }
            VoteError::KeyReused => Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
                .at("Idempotency-Key")
                .code("idempotency_key_reused"),
            VoteError::Busy => Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("overloaded"),
            VoteError::Closed => Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("shutting_down"),
            VoteError::Store(error) => error.into(),
        }
    }
}

impl From<rectify_feedback::StoreError> for ApiError {
    fn from(error: rectify_feedback::StoreError) -> Self {
        tracing::error!(%error, "the feedback store failed");
        let message = "the feedback store failed on this request; the server's log has the cause";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("store_failed")
    }
}

/// A stored vote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FeedbackEntry {
    /// `feedback`.
    pub object: String,
    /// Its id.
    pub id: String,
    /// TensorZero's name for the same; where its body was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback_id: Option<String>,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// Of which answer.
    pub completion_id: String,
    /// Of which of its choices.
    pub choice: u32,
    /// What kind of vote.
    pub kind: String,
    /// What was said. Comparisons hold indices of candidates, not choices.
    #[schema(value_type = Object)]
    pub value: Value,
    /// Who said it.
    pub user: Option<String>,
    /// In words.
    pub comment: Option<String>,
    /// The client's own labels.
    #[schema(value_type = Object)]
    pub tags: Map<String, Value>,
    /// The version that had answered.
    pub policy_version: String,
    /// The vote it changed.
    pub replaces: Option<String>,
    /// Whether a later vote changed it.
    pub superseded: bool,
    /// Why nothing is learnt from it.
    pub quarantined: Option<String>,
}

impl From<FeedbackRecord> for FeedbackEntry {
    fn from(record: FeedbackRecord) -> Self {
        Self {
            object: "feedback".into(),
            id: record.id,
            feedback_id: None,
            created_at: record.created_at,
            completion_id: record.completion_id,
            choice: record.choice,
            kind: record.kind.name().into(),
            value: record.kind.value(),
            user: record.user,
            comment: record.comment,
            tags: record.tags,
            policy_version: record.policy_version,
            replaces: record.replaces,
            superseded: record.superseded,
            quarantined: record.quarantined,
        }
    }
}

/// Which votes to list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FeedbackQuery {
    /// Of this person.
    pub user: Option<String>,
    /// Of this answer.
    pub completion_id: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
    /// On answers of this version.
    pub policy_version: Option<String>,
    /// Given at this time or later, in milliseconds since 1970.
    pub since: Option<i64>,
    /// Given before this time, in milliseconds since 1970.
    pub until: Option<i64>,
    /// Also those that were changed later.
    pub superseded: Option<bool>,
    /// `desc` (newest first) or `asc`.
    pub order: Option<String>,
    /// Only what follows the vote of this id.
    pub after: Option<String>,
    /// 1 to 1000; 20 if unset.
    pub limit: Option<u32>,
}

impl FeedbackQuery {
    /// How many are wanted.
    ///
    /// # Errors
    /// 400 if that is none or too many.
    pub fn limit(&self) -> Result<u32, ApiError> {
        match self.limit.unwrap_or(20) {
            limit @ 1..=MAX_PAGE => Ok(limit),
            limit => {
                let message = format!("limit is {limit}, but must be 1 to {MAX_PAGE}");
                Err(ApiError::invalid("limit", message))
            }
        }
    }

    /// Whether the newest come first.
    ///
    /// # Errors
    /// 400 for another order.
    pub fn newest_first(&self) -> Result<bool, ApiError> {
        match self.order.as_deref() {
            None | Some("desc") => Ok(true),
            Some("asc") => Ok(false),
            Some(other) => {
                Err(ApiError::invalid("order", format!("order is `{other}`, but must be asc or desc")))
            }
        }
    }
}

/// A page of votes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FeedbackList {
    /// `list`.
    pub object: String,
    /// The votes.
    pub data: Vec<FeedbackEntry>,
    /// The `after` of the next page.
    pub last_id: Option<String>,
    /// Whether there is a next page.
    pub has_more: bool,
}

/// Whose votes and words are to go.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteQuery {
    /// The person.
    pub user: Option<String>,
}

/// What was deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeletedEntry {
    /// `feedback.deleted`.
    pub object: String,
    /// Votes deleted.
    pub votes: u64,
    /// Answers that lost their words and their person.
    pub completions: u64,
}
