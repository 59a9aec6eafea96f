//! `/v1/feedback` and `GET /v1/completions/{id}`: votes in, votes and answers out, a person's words away. Leaves the wire
//! types to `api::feedback`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use rectify_feedback::store::VoteFilter;

use crate::api::feedback::{
    DeleteQuery, DeletedEntry, FeedbackEntry, FeedbackList, FeedbackQuery, FeedbackRequest, person,
};
use crate::api::stored::StoredCompletion;
use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::extract::{ApiJson, ApiPath, ApiQuery, Ignored};

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Say what an answer is worth. The answer comes when the vote is stored for good.
#[utoipa::path(
    post,
    path = "/v1/feedback",
    tag = "feedback",
    request_body = FeedbackRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeat under the same key is answered as the first request was")),
    responses(
        (status = 201, description = "Stored", body = FeedbackEntry),
        (status = 400, description = "A field is wrong", body = ErrorBody),
        (status = 404, description = "This server gave no such answer", body = ErrorBody),
        (status = 409, description = "The same person has voted already, and `replace` is not set", body = ErrorBody),
        (status = 422, description = "The key came with another vote before", body = ErrorBody),
        (status = 503, description = "Too many votes wait", body = ErrorBody),
    )
)]
pub(super) async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    ApiJson(request, ignored): ApiJson<FeedbackRequest>,
) -> Result<(StatusCode, Ignored, Json<FeedbackEntry>), ApiError> {
    let feedback = app.feedback()?;
    let key = headers.get(IDEMPOTENCY_KEY).map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned());
    let is_tensorzero = request.metric_name.is_some() || request.inference_id.is_some();
    let stored = feedback.writer.feedback(request.into_new(key)?).await?;
    let mut entry = FeedbackEntry::from(stored.feedback);
    entry.feedback_id = is_tensorzero.then(|| entry.id.clone());
    Ok((StatusCode::CREATED, ignored, Json(entry)))
}

/// List votes, newest first.
#[utoipa::path(
    get,
    path = "/v1/feedback",
    tag = "feedback",
    params(FeedbackQuery),
    responses(
        (status = 200, description = "A page of votes", body = FeedbackList),
        (status = 400, description = "A parameter is wrong", body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(app): State<App>,
    ApiQuery(query): ApiQuery<FeedbackQuery>,
) -> Result<Json<FeedbackList>, ApiError> {
    let store = &app.feedback()?.store;
    let (limit, newest_first) = (query.limit()?, query.newest_first()?);
    let after = match &query.after {
        None => None,
        Some(id) => match store.feedback_by_id(id).await? {
            Some(record) => Some((record.created_at, record.id)),
            None => {
                let message = format!("after is `{id}`, but must be the `last_id` of the page before");
                return Err(ApiError::invalid("after", message));
            }
        },
    };
    let filter = VoteFilter {
        user: query.user,
        completion_id: query.completion_id,
        kind: query.kind,
        policy_version: query.policy_version,
        policy: None,
        since: query.since,
        until: query.until,
        superseded: query.superseded.unwrap_or(false),
        trusted: false,
        newest_first,
        after,
        limit: Some(limit + 1),
    };
    let mut data: Vec<FeedbackEntry> = store.feedback(&filter).await?.into_iter().map(Into::into).collect();
    let has_more = data.len() > limit as usize;
    data.truncate(limit as usize);
    let last_id = data.last().map(|entry| entry.id.clone());
    Ok(Json(FeedbackList { object: "list".into(), data, last_id, has_more }))
}

/// Delete a person's votes, and the words of the answers they got.
#[utoipa::path(
    delete,
    path = "/v1/feedback",
    tag = "feedback",
    params(DeleteQuery),
    responses(
        (status = 200, description = "How much was deleted", body = DeletedEntry),
        (status = 400, description = "The person is missing", body = ErrorBody),
    )
)]
pub(super) async fn delete(
    State(app): State<App>,
    ApiQuery(query): ApiQuery<DeleteQuery>,
) -> Result<Json<DeletedEntry>, ApiError> {
    let feedback = app.feedback()?;
    let user = person("user", query.user.unwrap_or_default())?;
    // What still waits to be written is theirs too.
    feedback.writer.flush().await;
    let deleted = feedback.store.delete_user(&user).await?;
    let object = "feedback.deleted".into();
    Ok(Json(DeletedEntry { object, votes: deleted.votes, completions: deleted.completions }))
}

/// The record of an answer, with all its candidates.
#[utoipa::path(
    get,
    path = "/v1/completions/{id}",
    tag = "feedback",
    params(("id" = String, Path, description = "The `id` of an answer of this server")),
    responses(
        (status = 200, description = "The record", body = StoredCompletion),
        (status = 404, description = "This server gave no such answer", body = ErrorBody),
    )
)]
pub(super) async fn completion(
    State(app): State<App>,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<StoredCompletion>, ApiError> {
    let feedback = app.feedback()?;
    let mut record = feedback.store.completion(&id).await?;
    if record.is_none() {
        // It may be on its way.
        feedback.writer.flush().await;
        record = feedback.store.completion(&id).await?;
    }
    let missing = || rectify_feedback::store::VoteError::NoCompletion(id).into();
    record.map(|record| Json(record.into())).ok_or_else(missing)
}
