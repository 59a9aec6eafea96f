//! People who ask, say what they think of the answers, and wait for what the learning loop makes of it. Leaves what they
//! think to the tests.

use std::time::{Duration, Instant};

use rectify_lab::{Item, judge};
use serde_json::{Value, json};

use crate::harness::{Server, text};

/// Checks that leave a candidate in peace: the gate of tests that are about something else.
pub(crate) const BLIND_SUITE: &str = "
name: blind
prompts: {hello: {list: [{prompt: 'What is 3 plus 4?'}]}}
checks: [{length: {prompts: hello, min_ratio: 0, max_ratio: 1000}}]
";

/// A short answer to `prompt` for `person`.
pub(crate) fn chat(prompt: &str, person: &str) -> Value {
    json!({"model": "demo", "messages": [{"role": "user", "content": prompt}], "user": person, "max_tokens": 48, "seed": 1})
}

/// `chat`'s fields and these.
pub(crate) fn with(mut body: Value, fields: Value) -> Value {
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// The answer to a chat request.
pub(crate) async fn ask(server: &Server, body: Value) -> Value {
    server.post("/v1/chat/completions", body).await.ok()
}

/// What choice `index` says.
pub(crate) fn said(answer: &Value, index: usize) -> &str {
    text(&answer["choices"][index]["message"]["content"])
}

/// A vote of `person` on an answer.
pub(crate) async fn vote(server: &Server, answer: &Value, person: &str, kind: &str, value: Value) {
    let body = json!({"completion_id": answer["id"], "kind": kind, "value": value, "user": person});
    let stored = server.post("/v1/feedback", body).await;
    assert_eq!(stored.status, 201, "{}", stored.body);
}

/// What a person who thinks as the oracle says of an answer.
pub(crate) fn thumb(item: &Item, answer: &Value) -> Value {
    json!(if judge(&item.task, &item.prompt, said(answer, 0)).good { 1 } else { -1 })
}

/// Asks for two answers and says which one is better, if one of them is by the oracle; or the opposite. Whether there was a
/// vote.
pub(crate) async fn prefer(server: &Server, item: &Item, person: &str, seed: usize, flip: bool) -> bool {
    let two = json!({"n": 2, "temperature": 1.0, "seed": seed, "max_tokens": 96});
    let answer = ask(server, with(chat(&item.prompt, person), two)).await;
    let good = |choice: usize| judge(&item.task, &item.prompt, said(&answer, choice)).good;
    let (better, worse) = match (good(0) ^ flip, good(1) ^ flip) {
        (true, false) => (0, 1),
        (false, true) => (1, 0),
        _ => return false,
    };
    let value = json!({"better": better, "worse": worse, "margin": "better"});
    vote(server, &answer, person, "comparison", value).await;
    true
}

/// The newest run, once it is in one of `states`; a run that ends elsewhere will never be.
pub(crate) async fn run_in(server: &Server, states: &[&str], patience: Duration) -> Value {
    let deadline = Instant::now() + patience;
    loop {
        let runs = server.get("/v1/training/runs").await.ok();
        let run = runs["data"][0].clone();
        let state = run["state"].as_str().unwrap_or("idle");
        if states.contains(&state) {
            return run;
        }
        let has_ended = ["rejected", "failed", "rolled_back", "cancelled", "kept"].contains(&state);
        assert!(!has_ended, "the run ended as {state}: {run}\n{}", server.log());
        assert!(Instant::now() < deadline, "still {state} after {patience:?}: {run}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until `version` answers.
pub(crate) async fn serving(server: &Server, version: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = ask(server, chat("Hello!", "nobody-in-particular")).await;
        if answer["system_fingerprint"] == version {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{} answers, not {version}\n{}",
            answer["system_fingerprint"],
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
