//! Best-of-N on the wire: fields, profiles, several choices, failure.

use rectify_engine::strategy::LengthPenalty;
use serde_json::{Value, json};

use super::Server;
use crate::testing::{reward, text_of};

fn best_of(n: usize) -> Value {
    json!({"strategy": "best_of_n", "n": n, "return_candidates": true})
}

#[tokio::test]
async fn the_best_comes_back_with_the_account_of_all() {
    let server = Server::new();
    let answer = server.chat("hello", json!({"alignment": best_of(8)})).await.ok();
    let (choice, report) = (&answer["choices"][0], &answer["alignment"]);
    assert_eq!((&choice["message"]["content"], &choice["reward"]), (&json!(text_of(3)), &json!(reward(3))));
    assert_eq!(report["selected"], json!([3]));
    assert_eq!((&report["n"], &report["strategy"]), (&json!(8), &json!("best_of_n")));
    assert_eq!((&report["scoring"], &report["reward_model"]), (&json!("ok"), &json!("helpful")));
    assert_eq!(report["policy_version"], "demo@base");
    assert!((report["kl_bound"].as_f64().unwrap() - (8f64.ln() - 7.0 / 8.0)).abs() < 1e-12);
    let tokens = 8 * text_of(0).len();
    assert_eq!((&report["tokens_generated"], &report["tokens_pruned"]), (&json!(tokens), &json!(0)));
    assert_eq!(answer["usage"]["completion_tokens"], tokens);
    let details = &answer["usage"]["completion_tokens_details"];
    assert_eq!(details["rejected_prediction_tokens"], tokens - text_of(3).len());
    let candidates = report["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 8);
    assert_eq!(
        candidates[5],
        json!({"index": 5, "text": text_of(5), "reward": reward(5), "rewards": {"helpful": reward(5)},
            "logprob": -1.5, "tokens": 8, "finish_reason": "stop", "pruned": false})
    );
}

#[tokio::test]
async fn candidates_stay_home_unless_asked_for() {
    let server = Server::new();
    let answer = server.chat("hello", json!({"alignment": {"n": 4}})).await.ok();
    assert!(answer["alignment"].get("candidates").is_none());
    assert_eq!(answer["alignment"]["selected"], json!([3]));
}

#[tokio::test]
async fn several_choices_are_the_best_ones_best_first() {
    let server = Server::new();
    let fields = json!({"n": 3, "alignment": best_of(8), "logprobs": true});
    let answer = server.chat("hello", fields).await.ok();
    assert_eq!(answer["alignment"]["selected"], json!([3, 2, 4]));
    let choices = answer["choices"].as_array().unwrap();
    for (rank, (choice, index)) in choices.iter().zip([3, 2, 4]).enumerate() {
        assert_eq!((&choice["index"], &choice["reward"]), (&json!(rank), &json!(reward(index))));
        assert_eq!(choice["message"]["content"], text_of(index));
        let tokens = choice["logprobs"]["content"].as_array().unwrap();
        let text: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
        assert_eq!(text, text_of(index), "logprobs are the winner's own");
    }
}

#[tokio::test]
async fn a_failed_scorer_returns_the_first_with_a_null_reward() {
    let server = Server::new();
    let answer = server.chat("scorer fails", json!({"alignment": best_of(4)})).await.ok();
    assert_eq!(answer["alignment"]["scoring"], "failed: the reward model returned NaN");
    let choice = answer["choices"][0].as_object().unwrap();
    assert_eq!((&choice["message"]["content"], &choice["reward"]), (&json!(text_of(0)), &Value::Null));
    let candidate = &answer["alignment"]["candidates"][0];
    assert_eq!((&candidate["reward"], &candidate["rewards"]), (&Value::Null, &json!({})));
}

#[tokio::test]
async fn profiles_are_suffixes_of_the_model() {
    let server = Server::new();
    let configured = server.chat("hello", json!({"model": "demo:careful"})).await.ok();
    assert_eq!((&configured["alignment"]["n"], &configured["model"]), (&json!(4), &json!("demo:careful")));
    assert_eq!(configured["alignment"]["reward_model"], "safe");
    assert_eq!(configured["alignment"]["candidates"].as_array().unwrap().len(), 4);
    let built_in = server.chat("hello", json!({"model": "policy:best-of-8"})).await.ok();
    assert_eq!(
        (&built_in["alignment"]["n"], &built_in["alignment"]["reward_model"]),
        (&json!(8), &json!("helpful"))
    );
    let fields = json!({"model": "demo:careful", "alignment": {"n": 6}});
    let both = server.chat("hello", fields).await.ok();
    assert_eq!((&both["alignment"]["n"], &both["alignment"]["reward_model"]), (&json!(6), &json!("safe")));
    let (message, param, _) = server.chat("hello", json!({"model": "demo:best-of-65"})).await.refused(400);
    assert_eq!(param, "alignment.n", "{message}");
}

#[tokio::test]
async fn the_fields_reach_the_engine() {
    let server = Server::new();
    let alignment =
        json!({"n": 4, "reward": "safe", "length_penalty": 0.5, "max_total_tokens": 99, "seed": 7});
    server.chat("hello", json!({"seed": 3, "alignment": alignment})).await.ok();
    let request = server.seen.requests.lock().unwrap().pop().unwrap();
    let alignment = request.alignment.unwrap();
    assert_eq!((alignment.n, &alignment.reward.models[..]), (4, &["safe".to_owned()][..]));
    let penalty = LengthPenalty::Subtract(0.5);
    assert_eq!((alignment.length_penalty, alignment.max_total_tokens), (penalty, Some(99)));
    assert_eq!(request.sampling.seed, Some(7), "the strategy's own seed wins");
}

#[tokio::test]
async fn an_unknown_reward_model_is_a_404() {
    let server = Server::new();
    let (message, param, code) =
        server.chat("hello", json!({"alignment": {"reward": "kind"}})).await.refused(404);
    assert_eq!((param, code), (json!("alignment.reward"), json!("model_not_found")));
    assert!(message.contains("helpful, safe"), "{message}");
}

#[tokio::test]
async fn completions_take_it_too_for_one_prompt() {
    let server = Server::new();
    let answer = server.complete(json!({"alignment": best_of(4), "echo": true})).await.ok();
    assert_eq!(answer["choices"][0]["text"], format!("Hi{}", text_of(3)));
    assert_eq!(answer["choices"][0]["reward"], reward(3));
    assert_eq!(answer["alignment"]["selected"], json!([3]));
    let (_, param, _) =
        server.complete(json!({"prompt": ["a", "b"], "alignment": best_of(4)})).await.refused(400);
    assert_eq!(param, "prompt");
    let fields = json!({"echo": true, "logprobs": 1, "alignment": best_of(4)});
    assert_eq!(server.complete(fields).await.refused(400).1, "echo");
}
