//! `/v1/training/runs` and `/v1/events`: what the learning loop does, did, and is asked to do. Leaves the wire types to
//! `api::training` and the loop to the trainer.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rectify_trainer::registry::RegistryError;
use rectify_trainer::shadow::{Algorithm, ShadowError, ops};

use crate::api::training::{ChangeRequest, EventList, EventQuery, RunEntry, RunList, StartRunRequest};
use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::extract::{ApiJson, ApiPath, ApiQuery, Ignored};

/// Runs of one answer.
const RUNS: u32 = 100;
/// Events of one answer, if the request does not say.
const EVENTS: u32 = 100;
/// Events of one answer at most.
const MAX_EVENTS: u32 = 1000;

impl From<ShadowError> for ApiError {
    fn from(error: ShadowError) -> Self {
        let message = error.to_string();
        match error {
            ShadowError::Refused(_) | ShadowError::Stale(_) => {
                Self::new(StatusCode::CONFLICT, message).code("conflict")
            }
            ShadowError::NotFound(_)
            | ShadowError::Registry(RegistryError::NotFound { .. } | RegistryError::Name { .. }) => {
                Self::new(StatusCode::NOT_FOUND, message).code("not_found")
            }
            ShadowError::Engine(error) => error.into(),
            other => {
                tracing::error!(error = %other, "the learning loop could not answer");
                let message = "the store or the registry did not answer; the server's log has the cause";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("unavailable")
            }
        }
    }
}

/// List the shadow trainer's runs, newest first.
#[utoipa::path(
    get,
    path = "/v1/training/runs",
    tag = "learning",
    responses((status = 200, description = "The newest runs", body = RunList))
)]
pub(super) async fn list(State(app): State<App>) -> Result<Json<RunList>, ApiError> {
    let runs = app.learning()?.store.runs(RUNS).await.map_err(ShadowError::from)?;
    Ok(Json(RunList { object: "list".into(), data: runs.into_iter().map(Into::into).collect() }))
}

/// Start a run now.
#[utoipa::path(
    post,
    path = "/v1/training/runs",
    tag = "learning",
    request_body = StartRunRequest,
    responses(
        (status = 200, description = "The run; the shadow trainer takes it up within a second", body = RunEntry),
        (status = 409, description = "Another run has not ended, or nobody would take it up", body = ErrorBody),
    )
)]
pub(super) async fn start(
    State(app): State<App>,
    ApiJson(request, ignored): ApiJson<StartRunRequest>,
) -> Result<(Ignored, Json<RunEntry>), ApiError> {
    let learning = app.learning()?;
    let algorithm = match &request.algorithm {
        None => None,
        Some(name) => Some(Algorithm::named(name).ok_or_else(|| {
            let message =
                format!("algorithm is `{name}`, but must be auto, dpo, kto, sft, ppo, grpo or reward");
            ApiError::invalid("algorithm", message)
        })?),
    };
    let by = ChangeRequest { by: request.by };
    let run = ops::start(&learning.store, &learning.policy, (by.by(), algorithm)).await?;
    learning.wake.notify_one();
    Ok((ignored, Json(run.into())))
}

/// Describe a run.
#[utoipa::path(
    get,
    path = "/v1/training/runs/{id}",
    tag = "learning",
    params(("id" = String, Path, description = "A run's id")),
    responses(
        (status = 200, description = "The run", body = RunEntry),
        (status = 404, description = "No such run", body = ErrorBody),
    )
)]
pub(super) async fn retrieve(
    State(app): State<App>,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<RunEntry>, ApiError> {
    let run = app.learning()?.store.run(&id).await.map_err(ShadowError::from)?;
    let missing = || ShadowError::NotFound(format!("there is no training run `{id}`"));
    Ok(Json(run.ok_or_else(missing)?.into()))
}

/// Stop a run; what is served stays as it is.
#[utoipa::path(
    post,
    path = "/v1/training/runs/{id}/cancel",
    tag = "learning",
    params(("id" = String, Path, description = "A run's id")),
    request_body = ChangeRequest,
    responses(
        (status = 200, description = "The run, which has ended", body = RunEntry),
        (status = 404, description = "No such run", body = ErrorBody),
        (status = 409, description = "It has ended, or its version is on probation", body = ErrorBody),
    )
)]
pub(super) async fn cancel(
    State(app): State<App>,
    ApiPath(id): ApiPath<String>,
    ApiJson(request, ignored): ApiJson<ChangeRequest>,
) -> Result<(Ignored, Json<RunEntry>), ApiError> {
    let learning = app.learning()?;
    let run = ops::cancel(&learning.store, &id, request.by()).await?;
    learning.wake.notify_one();
    Ok((ignored, Json(run.into())))
}

/// Publish a version that the gate has passed and that waits for a person.
#[utoipa::path(
    post,
    path = "/v1/training/runs/{id}/approve",
    tag = "learning",
    params(("id" = String, Path, description = "A run's id")),
    request_body = ChangeRequest,
    responses(
        (status = 200, description = "The run, whose version is on probation", body = RunEntry),
        (status = 404, description = "No such run", body = ErrorBody),
        (status = 409, description = "It does not wait for approval", body = ErrorBody),
    )
)]
pub(super) async fn approve(
    State(app): State<App>,
    ApiPath(id): ApiPath<String>,
    ApiJson(request, ignored): ApiJson<ChangeRequest>,
) -> Result<(Ignored, Json<RunEntry>), ApiError> {
    let learning = app.learning()?;
    let run = ops::approve(&learning.store, &id, request.by(), learning.share).await?;
    learning.wake.notify_one();
    learning.changed.notify_one();
    Ok((ignored, Json(run.into())))
}

/// Read the audit log.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "learning",
    params(EventQuery),
    responses((status = 200, description = "Events in order", body = EventList))
)]
pub(super) async fn events(
    State(app): State<App>,
    ApiQuery(query): ApiQuery<EventQuery>,
) -> Result<Json<EventList>, ApiError> {
    let limit = query.limit.unwrap_or(EVENTS).clamp(1, MAX_EVENTS);
    let events = app.learning()?.store.events(query.after.unwrap_or(0), limit).await;
    let events = events.map_err(ShadowError::from)?;
    Ok(Json(EventList { object: "list".into(), data: events.into_iter().map(Into::into).collect() }))
}
