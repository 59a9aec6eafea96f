//! Every route and every error through the router, over the fake engine of `testing`; streams also over a real socket.

mod adapters;
mod alignment;
mod chat;
mod completions;
mod feedback;
mod keys;
mod labeling;
mod models;
mod operations;
mod scoring;
mod several;
mod streaming;
mod tools;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::auth::ApiKeys;
use crate::feedback::Feedback;
use crate::testing::{Seen, app, app_for, app_of_two, app_with};

/// A router over a fake engine.
pub(super) struct Server {
    router: axum::Router,
    pub(super) app: crate::App,
    pub(super) seen: Seen,
}

/// One response, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    /// The body of a success.
    pub(super) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        serde_json::from_str(&self.text).unwrap()
    }

    /// The error of a refusal, as `(message, param, code)`.
    pub(super) fn refused(&self, status: u16) -> (String, Value, Value) {
        assert_eq!(self.status, status, "{}", self.text);
        let error = serde_json::from_str::<Value>(&self.text).unwrap()["error"].take();
        assert!(error["type"].is_string(), "{error}");
        let message = error["message"].as_str().unwrap().to_owned();
        assert_eq!(message.lines().count(), 1, "{message}");
        (message, error["param"].clone(), error["code"].clone())
    }

    /// The body of something that was made.
    pub(super) fn created(&self) -> Value {
        assert_eq!(self.status, 201, "{}", self.text);
        serde_json::from_str(&self.text).unwrap()
    }

    /// The JSON of a stream's `data:` lines; the last one must be `[DONE]`.
    pub(super) fn events(&self) -> Vec<Value> {
        let mut data: Vec<&str> = self.text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{}", self.text);
        data.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    /// A stream's comments.
    pub(super) fn comments(&self) -> Vec<&str> {
        self.text.lines().filter_map(|line| line.strip_prefix(": ")).collect()
    }
}

impl Server {
    pub(super) fn new() -> Self {
        let (app, seen) = app();
        Self { router: crate::router(app.clone()), app, seen }
    }

    /// One with a second policy.
    pub(super) fn of_two() -> Self {
        let (app, seen) = app_of_two();
        Self { router: crate::router(app.clone()), app, seen }
    }

    /// One for whoever has one of the keys.
    pub(super) fn with_keys(keys: &[&str]) -> Self {
        let (app, seen) = app_for(ApiKeys::new(keys), None);
        Self { router: crate::router(app.clone()), app, seen }
    }

    /// One that keeps answers and votes, in a store configured by `yaml`, in a folder that lives as long as the first part.
    pub(super) async fn keeping(yaml: &str) -> (tempfile::TempDir, Self) {
        let folder = tempfile::tempdir().unwrap();
        let mut config = crate::config::Config::from_yaml(yaml).unwrap();
        config.server.data_dir = folder.path().to_owned();
        let (app, seen) = app_with(Feedback::open(&config).await.unwrap());
        (folder, Self { router: crate::router(app.clone()), app, seen })
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        Answer { status, headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path).body(Body::empty()).unwrap()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, body.to_string()).await
    }

    pub(super) async fn post_text(&self, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::post(path).header("content-type", "application/json; charset=utf-8");
        self.send(request.body(body.into()).unwrap()).await
    }

    /// The chat answer to one message with further fields.
    pub(super) async fn chat(&self, content: &str, fields: Value) -> Answer {
        self.post("/v1/chat/completions", &with(question(content), fields)).await
    }

    /// The completion of a prompt with further fields.
    pub(super) async fn complete(&self, fields: Value) -> Answer {
        self.post("/v1/completions", &with(json!({"model": "demo", "prompt": "Hi"}), fields)).await
    }
}

pub(super) fn question(content: &str) -> Value {
    json!({"model": "demo", "messages": [{"role": "user", "content": content}]})
}

pub(super) fn with(mut body: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    body.as_object_mut().unwrap().extend(fields);
    body
}

/// All paths that take a body.
const POSTS: [&str; 9] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/score",
    "/classify",
    "/pooling",
    "/get_reward",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/v1/feedback",
];

#[tokio::test]
async fn every_body_that_is_no_request_is_refused_the_same_way() {
    let server = Server::new();
    for path in POSTS {
        for body in ["", "{", "{\"model\": \"demo\",}", "\u{1}", "nul"] {
            let (message, _, code) = server.post_text(path, body).await.refused(400);
            assert_eq!(code, "invalid_json", "{path} {body}: {message}");
            assert!(message.contains("line 1"), "{path} {body}: {message}");
        }
        for body in ["7", "\"text\"", "null"] {
            assert_eq!(server.post_text(path, body).await.refused(400).2, "invalid_type", "{path} {body}");
        }
        let (message, ..) = server.post_text(path, "[1]").await.refused(400);
        assert!(message.contains("must be a JSON object"), "{path}: {message}");
        let form = Request::post(path).header("content-type", "text/plain").body(Body::from("{}")).unwrap();
        let (message, ..) = server.send(form).await.refused(415);
        assert!(message.contains("application/json"), "{message}");
        let put = Request::put(path).body(Body::empty()).unwrap();
        let (message, ..) = server.send(put).await.refused(405);
        assert!(message.contains(path), "{message}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_on_every_path() {
    let server = Server::new();
    for path in POSTS {
        let body = format!("{{\"user\": \"{}\"}}", "a".repeat(1 << 20));
        let (message, _, code) = server.post_text(path, body).await.refused(413);
        assert_eq!(code, "body_too_large");
        assert!(message.contains("server.max_body"), "{message}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_json_errors() {
    let server = Server::new();
    let (message, _, code) = server.get("/v1/nothing").await.refused(404);
    assert_eq!(code, "unknown_url");
    assert!(message.contains("GET /v1/nothing"), "{message}");
    let delete = Request::builder().method(Method::DELETE).uri("/v1/models").body(Body::empty()).unwrap();
    let answer = server.send(delete).await;
    assert_eq!(answer.refused(405).2, "method_not_allowed");
    assert_eq!(answer.headers["allow"], "GET,HEAD");
}

#[tokio::test]
async fn requests_are_numbered() {
    let server = Server::new();
    let id = |answer: Answer| answer.headers["x-request-id"].to_str().unwrap().to_owned();
    let (a, b) = (id(server.get("/health").await), id(server.get("/health").await));
    assert!(a.starts_with("req_") && a != b);
}

#[tokio::test]
async fn a_server_that_stops_refuses_new_work_and_says_so() {
    let server = Server::new();
    server.app.draining.store(true, std::sync::atomic::Ordering::Relaxed);
    let answer = server.chat("hello", json!({})).await;
    assert_eq!(answer.refused(503).2, "shutting_down");
    assert_eq!(answer.headers["retry-after"], "1");
    server.get("/ready").await.refused(503);
    assert_eq!(server.get("/health").await.status, StatusCode::OK);
}
