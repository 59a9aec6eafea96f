//! `GET /openapi.json`, generated from the handlers and their types; `openapi/openapi.json` in the repository is the
//! same document. Leaves each path's description to its handler.

use axum::Json;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi as Document, Ref, ResponseBuilder};
use utoipa::{Modify, OpenApi};

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
        super::responses::create,
        super::tokenize::tokenize,
        super::tokenize::detokenize,
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
    modifiers(&Surroundings),
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

/// The name of the one security scheme.
const API_KEY: &str = "api_key";
/// Paths that never ask for a key.
const OPEN: [&str; 4] = ["/health", "/ready", "/metrics", "/openapi.json"];

/// What comes from what surrounds all handlers: API keys, and the errors of reading bodies and parameters, stopping and
/// panics.
struct Surroundings;

impl Modify for Surroundings {
    fn modify(&self, document: &mut Document) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        let bearer =
            bearer.description(Some("One of the server's keys, where it has any (`--api-key`)")).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(API_KEY, SecurityScheme::Http(bearer));
        for (path, item) in &mut document.paths.paths {
            let is_open = OPEN.contains(&path.as_str());
            let operations = [(&mut item.get, false), (&mut item.delete, false), (&mut item.post, true)];
            for (operation, is_post) in operations {
                let Some(operation) = operation else { continue };
                if !is_open {
                    // A server without keys asks for none.
                    let with_key = SecurityRequirement::new(API_KEY, [""; 0]);
                    operation.security = Some(vec![SecurityRequirement::default(), with_key]);
                }
                add_errors(operation, is_post, is_open);
            }
        }
    }
}

fn add_errors(operation: &mut Operation, is_post: bool, is_open: bool) {
    let parameters = operation.parameters.as_deref().unwrap_or_default();
    let is_named = parameters.iter().any(|parameter| parameter.parameter_in == ParameterIn::Path);
    let has_body = operation.request_body.is_some();
    let errors = [
        ("400", "A field or parameter is wrong", has_body || !parameters.is_empty()),
        ("401", "The server has API keys, and the request carries none of them", !is_open),
        ("404", "There is no such thing", is_named),
        ("413", "The body is larger than `server.max_body`", has_body),
        ("415", "The body is not declared as JSON", has_body),
        ("500", "A defect of the server; its log has the cause", true),
        ("503", "The server is shutting down, or what it needs is not there", is_post),
    ];
    for (status, description, _) in errors.into_iter().filter(|(_, _, applies)| *applies) {
        let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
        let response =
            ResponseBuilder::new().description(description).content("application/json", body).build();
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| response.into());
    }
}

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
