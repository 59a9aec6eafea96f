//! Questions for people who label, over HTTP.

use serde_json::{Value, json};

use super::Server;

#[tokio::test]
async fn a_person_answers_every_question_once() {
    let (_folder, server) = Server::keeping("{}").await;
    for content in ["one", "two", "three"] {
        server.chat(content, json!({"model": "demo:best-of-3"})).await.ok();
    }
    server.chat("alone", json!({})).await.ok();
    server.app.feedback().unwrap().writer.flush().await;
    let mut prompts = Vec::new();
    for preference in ["a", "tie", "skip"] {
        let task = server.get("/v1/labeling/next?user=ann").await.ok();
        assert_ne!(task["a"], task["b"]);
        assert_eq!(
            task.as_object().unwrap().keys().collect::<Vec<_>>(),
            ["object", "id", "messages", "a", "b"]
        );
        prompts.push(task["messages"][0]["content"].as_str().unwrap().to_owned());
        let path = format!("/v1/labeling/{}", task["id"].as_str().unwrap());
        let body = json!({"preference": preference, "user": "ann"});
        let entry = server.post(&path, &body).await.created();
        match preference {
            "skip" => assert_eq!(entry["kind"], "comment"),
            _ => {
                let margin = if preference == "tie" { "tie" } else { "better" };
                assert_eq!(entry["value"]["margin"], margin);
                assert_eq!(server.post(&path, &body).await.refused(409).2, "already_voted");
            }
        }
    }
    prompts.sort();
    assert_eq!(prompts, ["one", "three", "two"]);
    assert_eq!(server.get("/v1/labeling/next?user=ann").await.status, 204);
    let other = server.get("/v1/labeling/next?user=bob").await.ok();
    assert_eq!(other["object"], "labeling.task");
}

#[tokio::test]
async fn wrong_answers_are_named() {
    let (_folder, server) = Server::keeping("{}").await;
    server.chat("one", json!({"model": "demo:best-of-3"})).await.ok();
    server.app.feedback().unwrap().writer.flush().await;
    let id = server.get("/v1/labeling/next?user=ann").await.ok()["id"].as_str().unwrap().to_owned();
    let answer = async |id: &str, body: Value| server.post(&format!("/v1/labeling/{id}"), &body).await;
    for (body, field) in [
        (json!({"preference": "c", "user": "ann"}), "preference"),
        (json!({"preference": "a", "user": ""}), "user"),
        (json!({"preference": "a", "user": "ann", "margin": "huge"}), "margin"),
        (json!({"preference": "a"}), "user"),
    ] {
        let (message, param, _) = answer(&id, body).await.refused(400);
        assert!(param == field || message.contains(field), "{message}");
    }
    let good = json!({"preference": "b", "user": "ann", "margin": "significantly"});
    for id in ["nothing", "a.b.c", "chatcmpl-no.0.1"] {
        answer(id, good.clone()).await.refused(404);
    }
    let (base, _) = id.split_once('.').unwrap();
    answer(&format!("{base}.0.9"), good.clone()).await.refused(400);
    assert_eq!(answer(&id, good).await.created()["value"]["margin"], "significantly");
    assert_eq!(server.get("/v1/labeling/next").await.refused(400).1, "user");
}
