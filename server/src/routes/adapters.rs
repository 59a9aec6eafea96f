//! `POST /v1/load_lora_adapter`, `POST /v1/unload_lora_adapter` and `GET /v1/adapters`. Leaves the wire types to
//! `api::adapters` and loading to the engine.

use axum::Json;
use axum::extract::State;
use rectify_engine::EngineError;

use crate::api::adapters::{AdapterEntry, AdapterList, LoadAdapterRequest, UnloadAdapterRequest};
use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::extract::{ApiJson, Ignored};

/// Load a PEFT folder on the server's machine as a model.
#[utoipa::path(
    post,
    path = "/v1/load_lora_adapter",
    tag = "adapters",
    request_body = LoadAdapterRequest,
    responses(
        (status = 200, description = "Loaded", body = AdapterEntry),
        (status = 400, description = "The name is taken, or the folder cannot be used; nothing changed", body = ErrorBody),
    )
)]
pub(super) async fn load(
    State(app): State<App>,
    ApiJson(request, ignored): ApiJson<LoadAdapterRequest>,
) -> Result<(Ignored, Json<AdapterEntry>), ApiError> {
    let LoadAdapterRequest { lora_name, lora_path, load_inplace } = request;
    if lora_name.is_empty() || lora_name.contains(char::is_whitespace) {
        return Err(ApiError::invalid("lora_name", "lora_name must be a word without spaces"));
    }
    if lora_path.is_empty() {
        return Err(ApiError::invalid(
            "lora_path",
            "lora_path is empty, but must be a PEFT folder on this machine",
        ));
    }
    if app.is_taken(&lora_name)? {
        let message = format!(
            "lora_name `{lora_name}` already names the policy, one of its profiles or versions; use another"
        );
        return Err(ApiError::invalid("lora_name", message));
    }
    let loaded = app.engine.load_adapter(lora_name, lora_path.into(), load_inplace.unwrap_or(false)).await;
    let info = loaded.map_err(|error| match error {
        error @ EngineError::Load { .. } => ApiError::from(error).at("lora_path"),
        error => error.into(),
    })?;
    tracing::info!(adapter = %info.name, version = %info.version, "loaded an adapter");
    Ok((ignored, Json(info.into())))
}

/// Forget an adapter; running answers keep it to their end.
#[utoipa::path(
    post,
    path = "/v1/unload_lora_adapter",
    tag = "adapters",
    request_body = UnloadAdapterRequest,
    responses(
        (status = 200, description = "Forgotten; the adapters that are left", body = AdapterList),
        (status = 404, description = "No such adapter", body = ErrorBody),
    )
)]
pub(super) async fn unload(
    State(app): State<App>,
    ApiJson(request, ignored): ApiJson<UnloadAdapterRequest>,
) -> Result<(Ignored, Json<AdapterList>), ApiError> {
    let name = request.lora_name;
    app.engine.unload_adapter(name.clone()).await.map_err(|error| ApiError::from(error).at("lora_name"))?;
    tracing::info!(adapter = name, "unloaded an adapter");
    Ok((ignored, Json(adapters(&app).await?)))
}

/// List the loaded adapters.
#[utoipa::path(
    get,
    path = "/v1/adapters",
    tag = "adapters",
    responses((status = 200, description = "The loaded adapters", body = AdapterList))
)]
pub(super) async fn list(State(app): State<App>) -> Result<Json<AdapterList>, ApiError> {
    adapters(&app).await.map(Json)
}

async fn adapters(app: &App) -> Result<AdapterList, ApiError> {
    let mut data: Vec<AdapterEntry> = app.engine.adapters().await?.into_iter().map(Into::into).collect();
    data.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(AdapterList { object: "list".into(), data })
}
