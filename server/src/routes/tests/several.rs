//! Two policies behind one API: whose an adapter is, and what names lead to.

use serde_json::{Value, json};

use super::Server;

fn load(name: &str, policy: Option<&str>) -> Value {
    json!({"lora_name": name, "lora_path": "/adapters", "base_model_name": policy})
}

#[tokio::test]
async fn an_adapter_is_found_under_its_policy_alone() {
    let server = Server::of_two();
    let loaded = server.post("/v1/load_lora_adapter", &load("tuned", Some("second"))).await.ok();
    assert_eq!(loaded["base_model_name"], "second");
    assert_eq!(server.get("/v1/models/tuned").await.ok()["parent"], "second");
    let answer = server.chat("hello", json!({"model": "tuned"})).await.ok();
    assert_eq!(answer["system_fingerprint"], "tuned@abc123");
    for replace in [false, true] {
        let mut body = load("tuned", None);
        body["load_inplace"] = json!(replace);
        let (message, param, _) = server.post("/v1/load_lora_adapter", &body).await.refused(400);
        assert_eq!(param, "lora_name");
        assert!(message.contains("an adapter of the policy `second`"), "{message}");
    }
    let (_, param, _) = server.post("/v1/load_lora_adapter", &load("x", Some("third"))).await.refused(404);
    assert_eq!(param, "base_model_name");
    server.post("/v1/unload_lora_adapter", &json!({"lora_name": "tuned"})).await.ok();
    server.post("/v1/load_lora_adapter", &load("tuned", None)).await.ok();
    assert_eq!(server.get("/v1/models/tuned").await.ok()["parent"], "demo");
}

#[tokio::test]
async fn a_failed_load_claims_no_name() {
    let server = Server::of_two();
    let broken = json!({"lora_name": "tuned", "lora_path": "/adapters/missing", "base_model_name": "second"});
    server.post("/v1/load_lora_adapter", &broken).await.refused(400);
    server.post("/v1/load_lora_adapter", &load("tuned", Some("demo"))).await.ok();
    assert_eq!(server.get("/v1/models/tuned").await.ok()["parent"], "demo");
}

#[tokio::test]
async fn an_unknown_model_is_answered_with_those_there_are() {
    let server = Server::of_two();
    server.post("/v1/load_lora_adapter", &load("tuned", None)).await.ok();
    let (message, _, code) = server.chat("hello", json!({"model": "gpt-9"})).await.refused(404);
    assert_eq!(code, "model_not_found");
    assert_eq!(
        message,
        "the model `gpt-9` does not exist; the policies are `demo`, `second`, adapters: tuned"
    );
}
