//! `/v1/score`, `/classify`, `/pooling` and `/get_reward`. The fake reward is a text's length.

use serde_json::json;

use super::{Server, with};

#[tokio::test]
async fn candidates_get_raw_rewards_in_their_order() {
    let server = Server::new();
    let body = json!({"messages": [{"role": "user", "content": "hi"}], "candidates": ["a", "bcd", ""]});
    let answer = server.post("/v1/score", &body).await.ok();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("helpful")));
    assert_eq!(answer["rewards"], json!([1.0, 3.0, 0.0]));
    assert_eq!(answer["data"][1], json!({"index": 1, "object": "score", "score": 3.0}));
    assert_eq!(
        (&answer["usage"]["prompt_tokens"], &answer["usage"]["total_tokens"]),
        (&json!(21), &json!(21))
    );
    let answer = server.post("/v1/score", &with(body, json!({"model": "safe"}))).await.ok();
    assert_eq!(answer["model"], "safe");
}

#[tokio::test]
async fn vllms_and_openrlhfs_bodies_are_understood() {
    let server = Server::new();
    let classified = server.post("/classify", &json!({"input": ["ab", "c"]})).await.ok();
    assert_eq!(
        classified["data"],
        json!([{"index": 0, "label": "LABEL_0", "probs": [2.0], "num_classes": 1},
            {"index": 1, "label": "LABEL_0", "probs": [1.0], "num_classes": 1}])
    );
    let pooled = server.post("/pooling", &json!({"model": "safe", "input": "abc"})).await.ok();
    assert_eq!(pooled["data"], json!([{"index": 0, "object": "pooling", "data": [3.0]}]));
    let body = json!({"query": ["ab", "abcd"], "prompts": ["a", "a"], "labels": [null, "x"]});
    let answer = server.post("/get_reward", &body).await;
    assert!(!answer.headers.contains_key("x-rectify-ignored"));
    assert_eq!(answer.ok(), json!({"rewards": [2.0, 4.0], "scores": [2.0, 4.0], "extra_logs": {}}));
}

#[tokio::test]
async fn wrong_requests_are_named() {
    let server = Server::new();
    let messages = json!([{"role": "user", "content": "hi"}]);
    let many = vec!["a"; 1025];
    for (path, body, status, param) in [
        ("/v1/score", json!({"messages": messages, "candidates": []}), 400, "candidates"),
        ("/v1/score", json!({"messages": messages, "candidates": many}), 400, "candidates"),
        ("/v1/score", json!({"messages": messages, "candidates": "a"}), 400, "candidates"),
        ("/v1/score", json!({"messages": [], "candidates": ["a"]}), 400, "messages"),
        ("/v1/score", json!({"model": "demo", "messages": messages, "candidates": ["a"]}), 404, "model"),
        ("/classify", json!({"input": []}), 400, "input"),
        ("/classify", json!({"input": 3}), 400, "input"),
        ("/classify", json!({"input": "a", "model": "kind"}), 404, "model"),
        ("/pooling", json!({"input": []}), 400, "input"),
        ("/get_reward", json!({"query": []}), 400, "query"),
        ("/get_reward", json!({"query": "one"}), 400, "query"),
    ] {
        let (message, found, _) = server.post(path, &body).await.refused(status);
        assert_eq!(found, param, "{path} {body}: {message}");
    }
    server.post("/classify", &json!({"input": "boom"})).await.refused(500);
}
