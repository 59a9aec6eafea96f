//! The router: every path, and what surrounds all of them (limits, metrics, panics, unknown paths). Leaves each path
//! to its file.

mod adapters;
mod chat;
mod completions;
mod feedback;
mod labeling;
mod models;
pub mod openapi;
mod ops;
mod page;
mod responses;
mod score;
mod sse;
#[cfg(test)]
mod tests;
mod tokenize;
mod training;
mod versions;

use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use metrics::{counter, histogram};
use tower_http::catch_panic::CatchPanicLayer;

use crate::app::App;
use crate::error::ApiError;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The whole API over `app`.
pub fn router(app: App) -> Router {
    let max_body = app.max_body;
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/completions/{id}", get(feedback::completion))
        .route("/v1/feedback", post(feedback::create).get(feedback::list).delete(feedback::delete))
        .route("/v1/labeling/next", get(labeling::next))
        .route("/v1/labeling/{id}", post(labeling::answer))
        .route("/v1/models", get(models::list))
        // A name may hold slashes, as `org/model`.
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/v1/responses", post(responses::create))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/v1/score", post(score::score))
        .route("/classify", post(score::classify))
        .route("/pooling", post(score::pooling))
        .route("/get_reward", post(score::get_reward))
        .route("/v1/load_lora_adapter", post(adapters::load))
        .route("/v1/unload_lora_adapter", post(adapters::unload))
        .route("/v1/adapters", get(adapters::list))
        .route("/v1/adapters/{name}", get(versions::pointer))
        .route("/v1/adapters/{name}/rollback", post(versions::rollback))
        .route("/v1/adapters/{name}/{version}", get(versions::retrieve))
        .route("/v1/adapters/{name}/{version}/promote", post(versions::promote))
        .route("/v1/training/runs", get(training::list).post(training::start))
        .route("/v1/training/runs/{id}", get(training::retrieve))
        .route("/v1/training/runs/{id}/cancel", post(training::cancel))
        .route("/v1/training/runs/{id}/approve", post(training::approve))
        .route("/v1/events", get(training::events))
        // Those above ask for a key where there are keys; those below tell nothing of requests, or must answer machines.
        .route_layer(axum::middleware::from_fn_with_state(app.clone(), require_key))
        .route("/health", get(ops::health))
        .route("/ready", get(ops::ready))
        .route("/metrics", get(ops::metrics))
        .route("/openapi.json", get(openapi::document))
        .merge(page::router())
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(max_body))
        .layer(axum::middleware::from_fn_with_state(app.clone(), observe))
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(app)
}

async fn require_key(State(app): State<App>, request: Request, next: Next) -> Response {
    match app.keys.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

async fn unknown_path(method: Method, uri: Uri) -> ApiError {
    let message = format!("there is no {method} {}; see /openapi.json for what there is", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, message).code("unknown_url")
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}; see /openapi.json for what it takes", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).code("method_not_allowed")
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    // The panic hook has logged what and where.
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "an internal error occurred; the server's log has the cause",
    )
    .code("internal_error")
    .into_response()
}

/// Counts, times and names every request.
async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    // The pattern, not the path: a label must not take any value a client sends.
    let path = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let id = format!("req_{}", uuid::Uuid::new_v4().simple());
    let method = request.method().clone();
    let mut response = if app.is_draining() && method == Method::POST {
        ApiError::from(rectify_engine::EngineError::Shutdown).into_response()
    } else {
        next.run(request).await
    };
    let status = response.status().as_u16();
    tracing::debug!(%method, path, status, id, elapsed = ?start.elapsed(), "answered");
    histogram!("rectify_http_request_duration_seconds", "path" => path.clone()).record(start.elapsed());
    counter!("rectify_http_requests_total", "path" => path, "status" => status.to_string()).increment(1);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}
