//! `/v1/adapters/{name}/…`: the versions of the policy in the registry, and which of them answers. Leaves the wire types to
//! `api::training`, adapters that are loaded by hand to `adapters`.

use axum::Json;
use axum::extract::State;
use rectify_trainer::registry::{GATE_REPORT, MODEL_CARD};
use rectify_trainer::shadow::{ShadowError, ops};

use crate::api::training::{ChangeRequest, PointerEntry, VersionEntry};
use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::extract::{ApiJson, ApiPath, Ignored};

/// Describe a version of the policy: its manifest, the gate's report, its model card.
#[utoipa::path(
    get,
    path = "/v1/adapters/{name}/{version}",
    tag = "learning",
    params(("name" = String, Path, description = "The policy's name"), ("version" = u64, Path, description = "A number")),
    responses(
        (status = 200, description = "The version", body = VersionEntry),
        (status = 404, description = "No such version", body = ErrorBody),
    )
)]
pub(super) async fn retrieve(
    State(app): State<App>,
    ApiPath((name, version)): ApiPath<(String, u64)>,
) -> Result<Json<VersionEntry>, ApiError> {
    let learning = app.learning()?;
    let registry = &learning.registry;
    let read = async |file| registry.get(&name, version, file).await.map_err(ShadowError::from);
    let manifest = registry.manifest(&name, version).await.map_err(ShadowError::from)?;
    let gate_report = read(GATE_REPORT).await?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let model_card = read(MODEL_CARD).await?.and_then(|bytes| String::from_utf8(bytes).ok());
    let pointer = ops::pointer(&learning.store, &name).await?;
    let number = Some(version.to_string());
    let serving = match () {
        () if pointer.version == number => Some("active".to_owned()),
        () if pointer.canary == number => Some("canary".to_owned()),
        () => None,
    };
    let manifest = serde_json::to_value(manifest).unwrap_or_default();
    Ok(Json(VersionEntry { name, version, manifest, gate_report, model_card, serving }))
}

/// Say which version answers.
#[utoipa::path(
    get,
    path = "/v1/adapters/{name}",
    tag = "learning",
    params(("name" = String, Path, description = "The policy's name")),
    responses((status = 200, description = "The serving pointer", body = PointerEntry))
)]
pub(super) async fn pointer(
    State(app): State<App>,
    ApiPath(name): ApiPath<String>,
) -> Result<Json<PointerEntry>, ApiError> {
    let policy = app.policy_or_default(Some(&name))?;
    Ok(Json(ops::pointer(&app.learning()?.store, policy.name()).await?.into()))
}

/// Make a version of the registry, or `base`, the active one: new requests run under it, running ones keep theirs.
#[utoipa::path(
    post,
    path = "/v1/adapters/{name}/{version}/promote",
    tag = "learning",
    params(("name" = String, Path, description = "The policy's name"), ("version" = String, Path, description = "A number, or `base`")),
    request_body = ChangeRequest,
    responses(
        (status = 200, description = "The serving pointer", body = PointerEntry),
        (status = 404, description = "No such version", body = ErrorBody),
        (status = 409, description = "It is the active version already", body = ErrorBody),
    )
)]
pub(super) async fn promote(
    State(app): State<App>,
    ApiPath((name, version)): ApiPath<(String, String)>,
    ApiJson(request, ignored): ApiJson<ChangeRequest>,
) -> Result<(Ignored, Json<PointerEntry>), ApiError> {
    let name = app.policy_or_default(Some(&name))?.name();
    let learning = app.learning()?;
    let pointer = ops::promote(&learning.store, &learning.registry, name, &version, request.by()).await?;
    learning.changed.notify_one();
    Ok((ignored, Json(pointer.into())))
}

/// Take the candidate on probation back; without one, make the version before the active one again.
#[utoipa::path(
    post,
    path = "/v1/adapters/{name}/rollback",
    tag = "learning",
    params(("name" = String, Path, description = "The policy's name")),
    request_body = ChangeRequest,
    responses(
        (status = 200, description = "The serving pointer", body = PointerEntry),
        (status = 409, description = "There is nothing to go back to", body = ErrorBody),
    )
)]
pub(super) async fn rollback(
    State(app): State<App>,
    ApiPath(name): ApiPath<String>,
    ApiJson(request, ignored): ApiJson<ChangeRequest>,
) -> Result<(Ignored, Json<PointerEntry>), ApiError> {
    let policy = app.policy_or_default(Some(&name))?;
    let learning = app.learning()?;
    let pointer = ops::roll_back(&learning.store, policy.name(), request.by()).await?;
    learning.changed.notify_one();
    Ok((ignored, Json(pointer.into())))
}
