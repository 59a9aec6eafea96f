//! `GET /openapi.json`, generated from the handlers and their types; `openapi/openapi.json` in the repository is the
//! same document. Leaves each path's description to its handler.

use axum::Json;
use utoipa::OpenApi;

/// The API's description.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "rectify",
        description = "An inference-time alignment serving engine behind OpenAI's API: N candidates share the prompt's KV, a reward model in the same process scores them, the best comes back."
    ),
    paths(
        super::chat::create,
        super::completions::create,
        super::feedback::create,
        super::feedback::list,
        super::feedback::delete,
        super::feedback::completion,
        super::labeling::next,
        super::labeling::answer,
        super::models::list,
        super::models::retrieve,
        super::score::score,
        super::score::classify,
        super::score::pooling,
        super::score::get_reward,
        super::adapters::load,
        super::adapters::unload,
        super::adapters::list,
        super::versions::pointer,
        super::versions::retrieve,
        super::versions::promote,
        super::versions::rollback,
        super::training::list,
        super::training::start,
        super::training::retrieve,
        super::training::cancel,
        super::training::approve,
        super::training::events,
        super::ops::health,
        super::ops::ready,
        super::ops::metrics,
        document,
    ),
    components(schemas(crate::api::chat::ChatChunk)),
    tags(
        (name = "generation", description = "Chat and completions, with best-of-N"),
        (name = "feedback", description = "Votes on answers, and questions for people who label"),
        (name = "models", description = "What the server answers to"),
        (name = "rewards", description = "Scoring by reward models"),
        (name = "adapters", description = "LoRA adapters"),
        (name = "learning", description = "The loop from votes to a new version of the policy"),
        (name = "operations", description = "Health, metrics and this document"),
    )
)]
pub struct ApiDoc;

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "operations",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json"))
)]
pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(ApiDoc::openapi())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE_OPENAPI=1 cargo test` writes the file anew.
    #[test]
    fn the_checked_in_document_is_the_servers() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../openapi/openapi.json");
        let mut document = serde_json::to_string_pretty(&ApiDoc::openapi()).unwrap();
        document.push('\n');
        if std::env::var_os("UPDATE_OPENAPI").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &document).unwrap();
        }
        let checked_in = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(checked_in == document, "openapi/openapi.json is out of date: run with UPDATE_OPENAPI=1");
    }
}
