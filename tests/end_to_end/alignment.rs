//! Best-of-N on the wire: the `alignment` object, profiles, streaming, failure. Leaves the numbers of scoring to
//! `scoring`.

use serde_json::{Value, json};

use crate::harness::{Server, close, number, text};

fn best_of(n: usize, choices: usize) -> Value {
    json!({
        "model": "policy",
        "messages": [{"role": "user", "content": "Please answer in one word: what is the capital of France?"}],
        "max_tokens": 20,
        "seed": 11,
        "n": choices,
        "alignment": {"strategy": "best_of_n", "n": n, "return_candidates": true},
    })
}

fn rewards(report: &Value) -> Vec<f64> {
    report["candidates"].as_array().unwrap().iter().map(|candidate| number(&candidate["reward"])).collect()
}

#[tokio::test]
async fn the_best_of_sixteen_comes_back_with_the_account_of_all() {
    let server = Server::llama(&[]).await;
    let answer = server.post("/v1/chat/completions", best_of(16, 1)).await.ok();
    let (report, choice) = (&answer["alignment"], &answer["choices"][0]);
    assert_eq!((&report["strategy"], &report["scoring"]), (&json!("best_of_n"), &json!("ok")));
    assert_eq!((&report["n"], &report["reward_model"]), (&json!(16), &json!("helpful")));
    assert!(text(&report["policy_version"]).contains('@'), "{report}");
    assert!((number(&report["kl_bound"]) - (16f64.ln() - 15.0 / 16.0)).abs() < 1e-3);
    let rewards = rewards(report);
    assert_eq!(rewards.len(), 16);
    let selected = report["selected"][0].as_u64().unwrap() as usize;
    assert!(rewards.iter().all(|&reward| reward <= rewards[selected]), "{rewards:?} but {selected}");
    let winner = &report["candidates"][selected];
    assert_eq!((&choice["message"]["content"], &choice["reward"]), (&winner["text"], &winner["reward"]));
    let tokens: f64 = report["candidates"].as_array().unwrap().iter().map(|c| number(&c["tokens"])).sum();
    assert_eq!(tokens, number(&report["tokens_generated"]));
    assert_eq!(tokens, number(&answer["usage"]["completion_tokens"]));
    assert_eq!(
        number(&answer["usage"]["completion_tokens_details"]["rejected_prediction_tokens"]),
        tokens - number(&winner["tokens"])
    );
}

#[tokio::test]
async fn rewards_are_those_the_score_endpoint_gives() {
    let server = Server::llama(&[]).await;
    for reward in ["helpful", "own"] {
        let mut body = best_of(16, 1);
        body["alignment"]["reward"] = json!(reward);
        let answer = server.post("/v1/chat/completions", body.clone()).await.ok();
        let report = &answer["alignment"];
        assert_eq!(report["reward_model"], reward);
        let texts: Vec<&Value> =
            report["candidates"].as_array().unwrap().iter().map(|c| &c["text"]).collect();
        let request = json!({"model": reward, "messages": body["messages"], "candidates": texts});
        let scored = server.post("/v1/score", request).await.ok();
        let scored: Vec<f64> = scored["rewards"].as_array().unwrap().iter().map(number).collect();
        close(&rewards(report), &scored, 1e-5);
    }
}

#[tokio::test]
async fn several_choices_are_the_best_ones_best_first() {
    let server = Server::llama(&[]).await;
    let answer = server.post("/v1/chat/completions", best_of(16, 3)).await.ok();
    let mut ranked: Vec<(usize, f64)> = rewards(&answer["alignment"]).into_iter().enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let wanted: Vec<usize> = ranked[..3].iter().map(|&(index, _)| index).collect();
    assert_eq!(answer["alignment"]["selected"], json!(wanted));
    for (choice, (_, reward)) in answer["choices"].as_array().unwrap().iter().zip(&ranked) {
        assert_eq!(number(&choice["reward"]), *reward);
    }
}

#[tokio::test]
async fn a_stream_keeps_the_client_company_and_then_sends_the_same_winner() {
    let server = Server::llama(&[]).await;
    let whole = server.post("/v1/chat/completions", best_of(16, 1)).await.ok();
    let mut body = best_of(16, 1);
    body["stream"] = json!(true);
    let stream = server.stream("/v1/chat/completions", body).await;
    assert_eq!(stream.text(0), text(&whole["choices"][0]["message"]["content"]));
    assert!(stream.done);
    let progress = stream.comments.iter().filter(|comment| comment.contains("/16"));
    assert!(progress.count() > 0, "no `candidates k/16 done` comment: {:?}", stream.comments);
    let report = stream.chunks.iter().map(|chunk| &chunk["alignment"]).find(|report| report.is_object());
    assert_eq!(report.expect("a chunk carries the report")["selected"], whole["alignment"]["selected"]);
}

#[tokio::test]
async fn a_profile_suffix_is_best_of_n_for_clients_that_cannot_add_fields() {
    let server = Server::demo().await;
    let models = server.get("/v1/models").await.ok();
    let policy = text(&models["data"][0]["id"]).to_owned();
    let mut body = best_of(16, 1);
    body["model"] = json!(format!("{policy}:best-of-16"));
    body.as_object_mut().unwrap().remove("alignment");
    let answer = server.post("/v1/chat/completions", body).await.ok();
    assert_eq!((&answer["alignment"]["n"], &answer["alignment"]["scoring"]), (&json!(16), &json!("ok")));
    let ids: Vec<&str> = models["data"].as_array().unwrap().iter().map(|m| text(&m["id"])).collect();
    assert!(ids.iter().any(|id| id.ends_with(":best-of-16")), "{ids:?}");
}

#[tokio::test]
async fn one_seed_gives_the_same_sixteen_whatever_else_runs() {
    let server = Server::llama(&[]).await;
    let alone = server.post("/v1/chat/completions", best_of(16, 1)).await.ok();
    let noise = (0..6).map(|seed| {
        let mut body = best_of(8, 1);
        body["seed"] = json!(seed);
        body["messages"][0]["content"] = json!(format!("noise number {seed}"));
        server.post("/v1/chat/completions", body)
    });
    let (crowded, _) =
        tokio::join!(server.post("/v1/chat/completions", best_of(16, 1)), futures::future::join_all(noise));
    assert_eq!(crowded.ok()["alignment"]["candidates"], alone["alignment"]["candidates"]);
}

#[tokio::test]
async fn a_token_budget_bounds_all_candidates_together() {
    let server = Server::llama(&[]).await;
    let mut body = best_of(16, 1);
    body["ignore_eos"] = json!(true);
    body["alignment"]["max_total_tokens"] = json!(100);
    let answer = server.post("/v1/chat/completions", body).await.ok();
    let tokens = number(&answer["alignment"]["tokens_generated"]);
    assert!((16.0..=100.0).contains(&tokens), "{tokens}");
    assert_eq!(answer["alignment"]["scoring"], "ok");
}
