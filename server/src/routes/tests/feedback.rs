//! Answers on record and votes on them, over HTTP.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use super::{Answer, Server, with};

fn thumb(id: &Value, fields: Value) -> Value {
    with(json!({"completion_id": id, "kind": "thumb", "value": 1}), fields)
}

async fn vote(server: &Server, body: &Value) -> Answer {
    server.post("/v1/feedback", body).await
}

async fn record(server: &Server, id: &Value) -> Value {
    server.get(&format!("/v1/completions/{}", id.as_str().unwrap())).await.ok()
}

#[tokio::test]
async fn every_way_of_answering_leaves_a_record_with_all_candidates() {
    let (_folder, server) = Server::keeping("{}").await;
    let about = json!({"user": "u-1", "metadata": {"page": "a"}, "temperature": 0.5, "seed": 3});
    let whole = server.chat("hello", about.clone()).await.ok();
    let found = record(&server, &whole["id"]).await;
    assert_eq!(found["messages"], json!([{"role": "user", "content": "hello"}]));
    assert_eq!((&found["user"], &found["metadata"]["page"]), (&json!("u-1"), &json!("a")));
    assert_eq!((&found["sampling"]["temperature"], &found["sampling"]["seed"]), (&json!(0.5), &json!(3)));
    assert_eq!(found["policy_version"], "demo@base");
    assert_eq!(found["candidates"][0]["text"], whole["choices"][0]["message"]["content"]);
    assert_eq!(found["candidates"][0]["finish_reason"], "stop");

    let streamed = server.chat("hello", with(about, json!({"stream": true, "n": 2}))).await;
    let found = record(&server, &streamed.events()[0]["id"]).await;
    let texts: Vec<&Value> = found["candidates"].as_array().unwrap().iter().map(|c| &c["text"]).collect();
    assert_eq!(texts, ["answer 0", "answer 1"]);

    for fields in [json!({}), json!({"stream": true})] {
        let fields = with(fields, json!({"model": "demo:best-of-6", "n": 2}));
        let answer = server.chat("hello", fields.clone()).await;
        let id = if fields["stream"] == json!(true) {
            answer.events()[0]["id"].clone()
        } else {
            answer.ok()["id"].clone()
        };
        let found = record(&server, &id).await;
        let candidates = found["candidates"].as_array().unwrap();
        assert_eq!(candidates.len(), 6, "losers are kept");
        let choices: Vec<(&Value, &Value)> = candidates.iter().map(|c| (&c["index"], &c["choice"])).collect();
        assert_eq!((choices[3].1, choices[2].1), (&json!(0), &json!(1)), "the fourth is the best");
        assert_eq!(choices[0].1, &Value::Null);
        assert!(candidates.iter().all(|c| c["reward"].is_number() && c["logprob"].is_number()));
        assert_eq!((&found["strategy"], &found["reward_model"]), (&json!("best_of_n"), &json!("helpful")));
    }

    let both = server.complete(json!({"prompt": ["one", "two"], "n": 2})).await.ok();
    let second = format!("{}%231", both["id"].as_str().unwrap());
    let found = server.get(&format!("/v1/completions/{second}")).await.ok();
    assert_eq!(found["messages"][0]["content"], "two");
    let choice = vote(&server, &thumb(&both["id"], json!({"choice": 3}))).await.created();
    assert_eq!(choice["completion_id"], format!("{}#1", both["id"].as_str().unwrap()));

    let failed = server.chat("boom", json!({})).await;
    assert_eq!(failed.status, 500);
    let (message, param, code) = server.get("/v1/completions/chatcmpl-none").await.refused(404);
    assert_eq!((param, code), (json!("completion_id"), json!("completion_not_found")), "{message}");
}

#[tokio::test]
async fn a_client_that_leaves_can_still_vote() {
    let (_folder, server) = Server::keeping("{}").await;
    let request = Request::post("/v1/chat/completions").header("content-type", "application/json");
    let body = with(super::question("slow"), json!({"stream": true}));
    let request = request.body(Body::from(body.to_string())).unwrap();
    let response = tower::ServiceExt::oneshot(crate::router(server.app.clone()), request).await.unwrap();
    let mut pieces = response.into_body().into_data_stream();
    let mut text = String::new();
    while text.matches("tick").count() < 3 {
        let piece = futures::StreamExt::next(&mut pieces).await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    drop(pieces);
    let first = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let id = serde_json::from_str::<Value>(first).unwrap()["id"].clone();
    vote(&server, &thumb(&id, json!({"value": -1}))).await.created();
    let found = record(&server, &id).await;
    assert!(found["candidates"][0]["text"].as_str().unwrap().starts_with("tick tick"), "{found}");
    assert_eq!(found["candidates"][0]["finish_reason"], Value::Null);
}

#[tokio::test]
async fn votes_of_every_kind_are_stored_and_listed() {
    let (_folder, server) = Server::keeping("{}").await;
    let id = server.chat("hello", json!({"model": "demo:best-of-4", "n": 2, "user": "u"})).await.ok()["id"]
        .clone();
    for (kind, value, stored) in [
        ("thumb", json!(-1), json!(-1)),
        ("rating", json!(4), json!(4)),
        (
            "comparison",
            json!({"better": 0, "worse": 1}),
            json!({"better": 3, "worse": 2, "margin": "better"}),
        ),
        ("edit", json!("Better."), json!("Better.")),
        ("implicit", json!("copied"), json!("copied")),
        ("comment", Value::Null, Value::Null),
    ] {
        let body = json!({"completion_id": id, "kind": kind, "value": value, "comment": "words", "tags": {"a": [1]}});
        let entry = vote(&server, &body).await.created();
        assert_eq!((&entry["value"], &entry["kind"]), (&stored, &json!(kind)));
        assert_eq!((&entry["user"], &entry["policy_version"]), (&json!("u"), &json!("demo@base")));
    }
    let all = server.get("/v1/feedback").await.ok();
    let kinds: Vec<&str> =
        all["data"].as_array().unwrap().iter().map(|v| v["kind"].as_str().unwrap()).collect();
    assert_eq!((kinds.len(), all["has_more"].as_bool()), (6, Some(false)));
    let first = server.get("/v1/feedback?limit=4&order=asc").await.ok();
    let after = first["last_id"].as_str().unwrap();
    let rest = server.get(&format!("/v1/feedback?limit=4&order=asc&after={after}")).await.ok();
    assert_eq!((first["has_more"].as_bool(), rest["data"].as_array().unwrap().len()), (Some(true), 2));
    let edits = server.get("/v1/feedback?kind=edit&user=u").await.ok();
    assert_eq!(edits["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_second_vote_needs_replace_and_a_repeat_its_key() {
    let (_folder, server) = Server::keeping("{}").await;
    let id = server.chat("hello", json!({})).await.ok()["id"].clone();
    let send = async |body: &Value, key: &str| {
        let request = Request::post("/v1/feedback").header("content-type", "application/json");
        let request = request.header("Idempotency-Key", key).body(Body::from(body.to_string())).unwrap();
        server.send(request).await
    };
    let body = thumb(&id, json!({"user": "u"}));
    let (first, again) = (send(&body, "k").await.created(), send(&body, "k").await.created());
    assert_eq!(first, again);
    let (_, param, code) = vote(&server, &body).await.refused(409);
    assert_eq!((param, code), (json!("replace"), json!("already_voted")));
    assert_eq!(send(&thumb(&id, json!({"user": "v"})), "k").await.refused(422).2, "idempotency_key_reused");
    assert_eq!(send(&body, "").await.refused(400).1, "Idempotency-Key");
    let changed = vote(&server, &with(body, json!({"value": -1, "replace": true}))).await.created();
    assert_eq!(changed["replaces"], first["id"]);
    let all = server.get("/v1/feedback?superseded=true").await.ok();
    assert_eq!(all["data"].as_array().unwrap().len(), 2);
    assert_eq!(server.get("/v1/feedback").await.ok()["data"][0]["value"], -1);
}

#[tokio::test]
async fn tensorzeros_body_is_understood() {
    let (_folder, server) = Server::keeping("{}").await;
    let id = server.chat("hello", json!({})).await.ok()["id"].clone();
    for (metric, value, kind, stored) in [
        ("task_success", json!(true), "thumb", json!(1)),
        ("demonstration", json!("Better."), "edit", json!("Better.")),
        ("comment", json!("words"), "comment", Value::Null),
        ("rating", json!(5), "rating", json!(5)),
    ] {
        let body = json!({"metric_name": metric, "value": value, "inference_id": id});
        let entry = vote(&server, &body).await.created();
        assert_eq!((&entry["kind"], &entry["value"]), (&json!(kind), &stored));
        assert_eq!(entry["feedback_id"], entry["id"]);
    }
    let float = json!({"metric_name": "quality", "value": 0.5, "inference_id": id});
    assert_eq!(vote(&server, &float).await.refused(400).1, "value");
}

#[tokio::test]
async fn wrong_votes_are_one_sentence_that_names_the_field() {
    let (_folder, server) = Server::keeping("{}").await;
    let id = server.chat("hello", json!({})).await.ok()["id"].clone();
    for (fields, status, field) in [
        (json!({"completion_id": null}), 400, "completion_id"),
        (json!({"completion_id": "chatcmpl-no"}), 404, "completion_id"),
        (json!({"kind": null}), 400, "kind"),
        (json!({"kind": "like"}), 400, "kind"),
        (json!({"value": 2}), 400, "value"),
        (json!({"choice": 1}), 400, "choice"),
        (json!({"user": ""}), 400, "user"),
        (json!({"user": "a\nb"}), 400, "user"),
        (json!({"user": "u".repeat(300)}), 400, "user"),
        (json!({"comment": "c".repeat(70_000)}), 400, "comment"),
        (json!({"kind": "comment", "value": null}), 400, "comment"),
        (json!({"metric_name": "x"}), 400, "metric_name"),
        (json!({"dryrun": true}), 400, "dryrun"),
    ] {
        let (message, param, _) = vote(&server, &thumb(&id, fields.clone())).await.refused(status);
        assert_eq!(param, field, "{fields}: {message}");
    }
    assert_eq!(vote(&server, &thumb(&id, json!({"choice": "first"}))).await.status, 400);
    let odd = vote(&server, &thumb(&id, json!({"colour": "red"}))).await;
    assert_eq!((odd.status, odd.headers["x-rectify-ignored"].to_str().unwrap()), (201, "colour"));
    for path in ["?limit=0", "?limit=x", "?order=up", "?after=fb_none", "?usr=u"] {
        let (message, ..) = server.get(&format!("/v1/feedback{path}")).await.refused(400);
        assert!(message.len() < 200, "{message}");
    }
}

#[tokio::test]
async fn a_persons_votes_and_words_can_be_deleted() {
    let (_folder, server) = Server::keeping("{}").await;
    let id = server.chat("secret words", json!({"user": "u"})).await.ok()["id"].clone();
    vote(&server, &thumb(&id, json!({"comment": "mine"}))).await.created();
    assert_eq!(server.delete("/v1/feedback").await.refused(400).1, "user");
    assert_eq!(server.delete("/v1/feedback?usr=u").await.status, 400);
    let deleted = server.delete("/v1/feedback?user=u").await.ok();
    assert_eq!((&deleted["votes"], &deleted["completions"]), (&json!(1), &json!(1)));
    let left = record(&server, &id).await;
    assert_eq!((&left["user"], left["messages"].as_array().unwrap().len()), (&Value::Null, 0));
    assert_eq!(left["candidates"][0]["text"], "");
}

#[tokio::test]
async fn without_text_only_numbers_are_kept() {
    let (_folder, server) = Server::keeping("feedback: {store_text: false}").await;
    let id = server.chat("secret words", json!({"metadata": {"a": "b"}})).await.ok()["id"].clone();
    let entry = vote(&server, &thumb(&id, json!({"comment": "mine"}))).await.created();
    assert_eq!(entry["comment"], Value::Null);
    let found = record(&server, &id).await.to_string();
    assert!(!found.contains("secret") && !found.contains("answer 0"), "{found}");
    let edit = thumb(&id, json!({"kind": "edit", "value": "x"}));
    assert_eq!(vote(&server, &edit).await.refused(400).1, "kind");
}

#[tokio::test]
async fn a_server_without_a_store_says_so() {
    let server = Server::new();
    let id = server.chat("hello", json!({})).await.ok()["id"].clone();
    assert_eq!(vote(&server, &thumb(&id, json!({}))).await.refused(404).2, "no_store");
    for path in ["/v1/feedback", "/v1/completions/x", "/v1/labeling/next?user=u"] {
        assert_eq!(server.get(path).await.refused(404).2, "no_store", "{path}");
    }
    let (_folder, off) = Server::keeping("store: {url: none}").await;
    assert_eq!(off.get("/v1/feedback").await.refused(404).2, "no_store");
}
