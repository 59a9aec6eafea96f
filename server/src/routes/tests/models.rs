//! `/v1/models`.

use serde_json::{Value, json};

use super::Server;

#[tokio::test]
async fn policy_profiles_and_reward_models_are_listed() {
    let server = Server::new();
    let list = server.get("/v1/models").await.ok();
    assert_eq!(list["object"], "list");
    let models = list["data"].as_array().unwrap();
    let named: Vec<(&str, &str)> =
        models.iter().map(|m| (m["id"].as_str().unwrap(), m["kind"].as_str().unwrap())).collect();
    assert_eq!(
        named,
        [
            ("demo", "policy"),
            ("org/demo", "policy"),
            ("demo:careful", "profile"),
            ("demo:best-of-4", "profile"),
            ("demo:best-of-16", "profile"),
            ("helpful", "reward"),
            ("safe", "reward"),
        ]
    );
    assert_eq!((&models[0]["object"], &models[0]["max_model_len"]), (&json!("model"), &json!(4096)));
    assert_eq!((&models[2]["parent"], &models[5]["max_model_len"]), (&json!("demo"), &Value::Null));
}

#[tokio::test]
async fn one_model_is_described_by_name() {
    let server = Server::new();
    for (id, kind) in
        [("demo", "policy"), ("org/demo", "policy"), ("demo:best-of-7", "profile"), ("safe", "reward")]
    {
        let model = server.get(&format!("/v1/models/{id}")).await.ok();
        assert_eq!((&model["id"], &model["kind"]), (&json!(id), &json!(kind)));
    }
    for id in ["gpt-9", "safe:best-of-4", "demo:other"] {
        let (message, _, code) = server.get(&format!("/v1/models/{id}")).await.refused(404);
        assert_eq!(code, "model_not_found");
        assert!(message.contains(id) && message.contains("demo"), "{message}");
    }
}
