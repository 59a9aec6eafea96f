//! `/v1/labeling`: the next question for a person, and their answer. Leaves the wire types to `api::labeling`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::api::feedback::{FeedbackEntry, person};
use crate::api::labeling::{LabelRequest, LabelingQuery, LabelingTask};
use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::extract::{ApiJson, ApiPath, ApiQuery, Ignored};

/// The next question for a person: two answers to one prompt. Nobody is asked the same twice.
#[utoipa::path(
    get,
    path = "/v1/labeling/next",
    tag = "feedback",
    params(LabelingQuery),
    responses(
        (status = 200, description = "A question", body = LabelingTask),
        (status = 204, description = "Nothing is left to ask this person"),
        (status = 400, description = "The person is missing", body = ErrorBody),
    )
)]
pub(super) async fn next(
    State(app): State<App>,
    ApiQuery(query): ApiQuery<LabelingQuery>,
) -> Result<Response, ApiError> {
    let feedback = app.feedback()?;
    let user = person("user", query.user.unwrap_or_default())?;
    let task = feedback.store.next_task(&user, feedback.labeling_seed).await?;
    Ok(match task {
        Some(task) => Json(LabelingTask::from(task)).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Answer a question.
#[utoipa::path(
    post,
    path = "/v1/labeling/{id}",
    tag = "feedback",
    params(("id" = String, Path, description = "The `id` of the question")),
    request_body = LabelRequest,
    responses(
        (status = 201, description = "Stored", body = FeedbackEntry),
        (status = 400, description = "A field is wrong", body = ErrorBody),
        (status = 404, description = "No such question", body = ErrorBody),
        (status = 409, description = "This person has answered it already", body = ErrorBody),
    )
)]
pub(super) async fn answer(
    State(app): State<App>,
    ApiPath(id): ApiPath<String>,
    ApiJson(request, ignored): ApiJson<LabelRequest>,
) -> Result<(StatusCode, Ignored, Json<FeedbackEntry>), ApiError> {
    let stored = app.feedback()?.writer.feedback(request.into_new(&id)?).await?;
    Ok((StatusCode::CREATED, ignored, Json(stored.feedback.into())))
}
