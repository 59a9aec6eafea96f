//! Adapters over HTTP.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Server;
use crate::serving::{Canary, Serving};
use crate::testing::adapter;

fn load(name: &str, path: &str) -> Value {
    json!({"lora_name": name, "lora_path": path})
}

#[tokio::test]
async fn an_adapter_is_loaded_used_listed_and_unloaded() {
    let server = Server::new();
    let loaded = server.post("/v1/load_lora_adapter", &load("tuned", "/adapters/tuned")).await.ok();
    let entry = json!({"name": "tuned", "base_model_name": "demo", "version": "abc123", "rank": 4, "has_score_head": false});
    assert_eq!(loaded, entry);
    assert_eq!(server.get("/v1/adapters").await.ok(), json!({"object": "list", "data": [entry]}));
    let model = server.get("/v1/models/tuned").await.ok();
    assert_eq!(
        (&model["kind"], &model["parent"], &model["version"]),
        (&json!("adapter"), &json!("demo"), &json!("abc123"))
    );
    let answer = server.chat("hello", json!({"model": "tuned"})).await.ok();
    assert_eq!((&answer["model"], &answer["system_fingerprint"]), (&json!("tuned"), &json!("tuned@abc123")));
    let answer = server.chat("hello", json!({"model": "tuned:best-of-2"})).await.ok();
    assert_eq!(answer["alignment"]["policy_version"], "tuned@abc123");
    let left = server.post("/v1/unload_lora_adapter", &json!({"lora_name": "tuned"})).await.ok();
    assert_eq!(left["data"], json!([]));
    let (message, ..) = server.chat("hello", json!({"model": "tuned"})).await.refused(404);
    assert!(message.contains("`tuned`"), "{message}");
}

#[tokio::test]
async fn names_are_replaced_only_on_request() {
    let server = Server::new();
    server.post("/v1/load_lora_adapter", &load("tuned", "/a")).await.ok();
    let (message, param, _) = server.post("/v1/load_lora_adapter", &load("tuned", "/b")).await.refused(400);
    assert_eq!(param, "lora_name", "{message}");
    let replace = json!({"lora_name": "tuned", "lora_path": "/b", "load_inplace": true});
    server.post("/v1/load_lora_adapter", &replace).await.ok();
}

#[tokio::test]
async fn wrong_requests_are_named() {
    let server = Server::new();
    for (body, param) in [
        (load("", "/a"), "lora_name"),
        (load("two words", "/a"), "lora_name"),
        (load("demo", "/a"), "lora_name"),
        (load("policy", "/a"), "lora_name"),
        (load("helpful", "/a"), "model"),
        (load("demo:best-of-4", "/a"), "lora_name"),
        (load("x", ""), "lora_path"),
        (load("x", "/adapters/missing"), "lora_path"),
        (json!({"lora_name": "x", "lora_path": 3}), "lora_path"),
    ] {
        let (message, found, _) = server.post("/v1/load_lora_adapter", &body).await.refused(400);
        assert_eq!(found, param, "{body}: {message}");
    }
    let (message, param, _) =
        server.post("/v1/unload_lora_adapter", &json!({"lora_name": "x"})).await.refused(404);
    assert_eq!(param, "lora_name", "{message}");
}

#[tokio::test]
async fn the_policys_name_leads_to_the_version_that_is_served() {
    let server = Server::new();
    let fingerprint = async |model: &str| {
        let answer = server.chat("hello", json!({"model": model, "user": "u-1"})).await;
        answer.ok()["system_fingerprint"].as_str().unwrap().to_owned()
    };
    assert_eq!(fingerprint("demo").await, "demo@base");
    let adapter = |version| Some(Arc::new(adapter("demo", version)));
    let canary = Some(Canary { adapter: adapter("4"), share: 1.0 });
    server.app.policy.serving.set(Serving { active: adapter("3"), canary });
    for (model, version) in [
        ("demo", "demo@4"),
        ("policy:best-of-2", "demo@4"),
        ("demo@3", "demo@3"),
        ("org/demo@4", "demo@4"),
        ("demo@base:best-of-2", "demo@base"),
    ] {
        assert_eq!(fingerprint(model).await, version, "{model}");
    }
    server.app.policy.serving.set(Serving { active: adapter("4"), canary: None });
    assert_eq!(fingerprint("").await, "demo@4");
    let (message, ..) = server.chat("hello", json!({"model": "demo@3"})).await.refused(404);
    assert_eq!(message, "the version `demo@3` is not in memory; these are: demo@4, demo@base");
    let (_, param, _) = server.post("/v1/load_lora_adapter", &load("demo@4", "/a")).await.refused(400);
    assert_eq!(param, "lora_name");
}
