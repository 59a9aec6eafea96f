//! `GET /v1/models` and `GET /v1/models/{id}`. Leaves what a name means to `app`.

use axum::Json;
use axum::extract::State;

use crate::api::models::{Model, ModelKind, ModelList};
use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::extract::ApiPath;

/// List the models: policies, their profiles and adapters, reward models.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "models",
    responses((status = 200, description = "All models", body = ModelList))
)]
pub(super) async fn list(State(app): State<App>) -> Result<Json<ModelList>, ApiError> {
    Ok(Json(ModelList { object: "list".into(), data: models(&app).await? }))
}

/// Describe one model.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    tag = "models",
    params(("id" = String, Path, description = "A model's name")),
    responses(
        (status = 200, description = "The model", body = Model),
        (status = 404, description = "No such model", body = ErrorBody),
    )
)]
pub(super) async fn retrieve(
    State(app): State<App>,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<Model>, ApiError> {
    let models = models(&app).await?;
    let names: Vec<&str> = models.iter().map(|model| model.id.as_str()).collect();
    let message = format!("the model `{id}` does not exist; available: {}", crate::names(&names));
    if let Some((base, suffix)) = id.rsplit_once(':')
        && app.profile(suffix).is_some()
        && let Some(base) = models.iter().find(|model| model.id == base && model.kind != ModelKind::Reward)
    {
        let parent = Some(base.id.clone());
        return Ok(Json(Model { id: id.clone(), kind: ModelKind::Profile, parent, ..base.clone() }));
    }
    models
        .into_iter()
        .find(|model| model.id == id)
        .map(Json)
        .ok_or_else(|| ApiError::model_not_found(message))
}

async fn models(app: &App) -> Result<Vec<Model>, ApiError> {
    let model = |id: &str, kind: ModelKind| Model {
        id: id.to_owned(),
        object: "model".into(),
        created: app.created,
        owned_by: "rectify".into(),
        kind,
        parent: None,
        version: None,
        max_model_len: None,
    };
    let mut models = Vec::new();
    for policy in app.policies() {
        let max_model_len = Some(policy.max_model_len);
        let of_policy = |id: &str, kind| Model { max_model_len, ..model(id, kind) };
        models.extend(policy.names.iter().map(|name| of_policy(name, ModelKind::Policy)));
        // Any N is understood; these are the ones people look for in a menu.
        let built_in = ["best-of-4", "best-of-16"].into_iter().filter(|_| !app.rewards.is_empty());
        let built_in = built_in.filter(|name| !app.profiles.contains_key(*name));
        for profile in app.profiles.keys().map(String::as_str).chain(built_in) {
            let parent = Some(policy.name().to_owned());
            let id = format!("{}:{profile}", policy.name());
            models.push(Model { parent, ..of_policy(&id, ModelKind::Profile) });
        }
    }
    models.extend(app.rewards.iter().map(|name| model(name, ModelKind::Reward)));
    for policy in app.policies() {
        for adapter in policy.engine.adapters().await? {
            // A reward model on a policy's base is an adapter too, and is listed already.
            if adapter.has_score_head || app.rewards.iter().any(|reward| **reward == *adapter.name) {
                continue;
            }
            models.push(Model {
                parent: Some(policy.name().to_owned()),
                version: Some(adapter.version.to_string()),
                max_model_len: Some(policy.max_model_len),
                ..model(&adapter.name, ModelKind::Adapter)
            });
        }
    }
    Ok(models)
}
