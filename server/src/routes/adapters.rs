//! `POST /v1/load_lora_adapter`, `POST /v1/unload_lora_adapter` and `GET /v1/adapters`. Leaves the wire types to
//! `api::adapters` and loading to the engine.

use std::sync::Arc;

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
        (status = 404, description = "No such policy; nothing changed", body = ErrorBody),
    )
)]
pub(super) async fn load(
    State(app): State<App>,
    ApiJson(request, ignored): ApiJson<LoadAdapterRequest>,
) -> Result<(Ignored, Json<AdapterEntry>), ApiError> {
    let LoadAdapterRequest { lora_name, lora_path, base_model_name, load_inplace } = request;
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
            "lora_name `{lora_name}` already names a policy, one of its profiles or versions; use another"
        );
        return Err(ApiError::invalid("lora_name", message));
    }
    let policy = app.policy_or_default(base_model_name.as_deref());
    let policy = policy.map_err(|error| error.at("base_model_name"))?;
    let _changing = app.adapters.changing.lock().await;
    if let Some(owner) = app.adapters.of(&lora_name).filter(|owner| !Arc::ptr_eq(owner, policy)) {
        let message = format!(
            "lora_name `{lora_name}` already names an adapter of the policy `{}`; use another",
            owner.name()
        );
        return Err(ApiError::invalid("lora_name", message));
    }
    let replace = load_inplace.unwrap_or(false);
    let loaded = policy.engine.load_adapter(lora_name, lora_path.into(), replace).await;
    let info = loaded.map_err(|error| match error {
        error @ EngineError::Load { .. } => ApiError::from(error).at("lora_path"),
        error => error.into(),
    })?;
    app.adapters.insert(&info.name, policy);
    tracing::info!(adapter = %info.name, version = %info.version, policy = policy.name(), "loaded an adapter");
    Ok((ignored, Json(AdapterEntry::new(info, policy.name()))))
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
    let _changing = app.adapters.changing.lock().await;
    let Some(policy) = app.adapters.of(&name) else {
        let known = crate::names(app.adapters.names());
        let message = format!("the adapter `{name}` does not exist; available: {known}");
        return Err(ApiError::model_not_found(message).at("lora_name"));
    };
    policy
        .engine
        .unload_adapter(name.clone())
        .await
        .map_err(|error| ApiError::from(error).at("lora_name"))?;
    app.adapters.remove(&name);
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
    let mut data = Vec::new();
    for policy in app.policies() {
        let adapters = policy.engine.adapters().await?.into_iter();
        data.extend(adapters.map(|info| AdapterEntry::new(info, policy.name())));
    }
    data.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(AdapterList { object: "list".into(), data })
}
