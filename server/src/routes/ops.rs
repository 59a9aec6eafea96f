//! `GET /health`, `/ready` and `/metrics`: what those who run the server look at. Leaves recording to the engine and
//! the router.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::app::App;
use crate::error::{ApiError, ErrorBody};

/// A step of a large model may take this long; silence beyond it says nothing about the engine's health.
const PATIENCE: Duration = Duration::from_secs(2);

/// How the server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Status {
    /// `ok` or `ready`.
    status: String,
    /// The version of this program.
    version: String,
}

impl Status {
    fn new(status: &str) -> Json<Self> {
        Json(Self { status: status.into(), version: env!("CARGO_PKG_VERSION").into() })
    }
}

/// Is the server alive? 503 when its engine has ended and a restart is due.
#[utoipa::path(
    get,
    path = "/health",
    tag = "operations",
    responses(
        (status = 200, description = "Alive", body = Status),
        (status = 503, description = "The engine has ended", body = ErrorBody),
    )
)]
pub(super) async fn health(State(app): State<App>) -> Result<Json<Status>, ApiError> {
    match timeout(PATIENCE, app.policy.engine.stats()).await {
        Ok(Err(_)) => {
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the engine has ended; restart the server"))
        }
        Ok(Ok(_)) | Err(_) => Ok(Status::new("ok")),
    }
}

/// Does the server take requests? 503 while it is stopping.
#[utoipa::path(
    get,
    path = "/ready",
    tag = "operations",
    responses(
        (status = 200, description = "Takes requests", body = Status),
        (status = 503, description = "Is stopping, or the engine has ended", body = ErrorBody),
    )
)]
pub(super) async fn ready(state: State<App>) -> Result<Json<Status>, ApiError> {
    if state.is_draining() {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"));
    }
    health(state).await.map(|_| Status::new("ready"))
}

/// Prometheus metrics.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    responses((status = 200, description = "Prometheus text format", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let text = app.metrics.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
