//! `/v1/completions` without streaming.

use serde_json::{Value, json};

use super::Server;
use crate::testing::text_of;

fn texts(answer: &Value) -> Vec<&str> {
    answer["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_answer_has_openais_shape() {
    let answer = Server::new().complete(json!({})).await.ok();
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("text_completion"), &json!("demo")));
    let choice = json!({"index": 0, "text": text_of(0), "logprobs": null, "finish_reason": "stop"});
    assert_eq!(answer["choices"], json!([choice]));
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
}

#[tokio::test]
async fn all_prompts_are_answered_in_their_order() {
    let server = Server::new();
    let answer =
        server.complete(json!({"prompt": ["Hi", "Yes"], "n": 2, "echo": true, "seed": 5})).await.ok();
    assert_eq!(texts(&answer), ["Hianswer 0", "Hianswer 1", "Yesanswer 0", "Yesanswer 1"]);
    let indices: Vec<u64> =
        answer["choices"].as_array().unwrap().iter().map(|c| c["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    assert_eq!(answer["usage"]["prompt_tokens"], 5);
    assert_eq!(answer["usage"]["completion_tokens"], 4 * text_of(0).len());
    let seeds: Vec<_> =
        server.seen.requests.lock().unwrap().iter().map(|request| request.sampling.seed).collect();
    assert_eq!(seeds, [Some(5), Some(6)], "two prompts do not share their draws");
}

#[tokio::test]
async fn prompts_may_be_tokens() {
    let server = Server::new();
    let answer = server.complete(json!({"prompt": [72, 105], "echo": true})).await.ok();
    assert_eq!(texts(&answer), ["Hianswer 0"]);
    let answer = server.complete(json!({"prompt": [[72], [105]], "echo": true})).await.ok();
    assert_eq!(texts(&answer), ["Hanswer 0", "ianswer 0"]);
    assert_eq!(server.seen.requests.lock().unwrap()[0].messages[0].content, "Hi", "reward models read text");
}

#[tokio::test]
async fn logprobs_have_the_legacy_shape() {
    let answer = Server::new().complete(json!({"logprobs": 2, "max_tokens": 2})).await.ok();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    let logprobs = &choice["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["a", "n"]));
    assert_eq!(logprobs["token_logprobs"], json!([-1.5, -1.5]));
    assert_eq!(logprobs["text_offset"], json!([0, 1]));
    let keys: Vec<&String> = logprobs["top_logprobs"][1].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["a", "b", "n"]);
}

#[tokio::test]
async fn echo_with_logprobs_covers_the_prompt() {
    let answer = Server::new()
        .complete(json!({"prompt": "Hey", "echo": true, "logprobs": 0, "max_tokens": 1}))
        .await
        .ok();
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "Heya");
    assert_eq!(choice["logprobs"]["tokens"], json!(["H", "e", "y", "a"]));
    assert_eq!(choice["logprobs"]["token_logprobs"], json!([null, -1.5, -1.5, -1.5]));
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 1, 2, 3]));
}

#[tokio::test]
async fn a_prompt_may_be_read_only() {
    let server = Server::new();
    let answer = server.complete(json!({"echo": true, "logprobs": 1, "max_tokens": 0})).await.ok();
    let choice = &answer["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("Hi"), &json!("length")));
    assert_eq!(choice["logprobs"]["tokens"], json!(["H", "i"]));
    let answer = server.complete(json!({"echo": true, "max_tokens": 0})).await.ok();
    assert_eq!(
        (&answer["choices"][0]["text"], &answer["choices"][0]["logprobs"]),
        (&json!("Hi"), &Value::Null)
    );
}

#[tokio::test]
async fn every_wrong_field_is_a_400_that_names_it() {
    let server = Server::new();
    for (fields, param) in [
        (json!({"prompt": ""}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": {"text": "a"}}), "prompt"),
        (json!({"prompt": [5, 256]}), "prompt"),
        (json!({"prompt": "a".repeat(4096)}), "prompt"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": 4095}), "prompt"),
        (json!({"logprobs": 21}), "logprobs"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"best_of": 3, "stream": true}), "best_of"),
        (json!({"best_of": 3, "alignment": {"n": 4}}), "best_of"),
        (json!({"best_of": 1, "n": 2}), "best_of"),
        (json!({"prompt_logprobs": 1, "stream": true}), "prompt_logprobs"),
        (json!({"prompt_logprobs": 21}), "prompt_logprobs"),
        (json!({"suffix": "end"}), "suffix"),
        (json!({"n": 0}), "n"),
        (json!({"temperature": 101}), "temperature"),
        (json!({"logit_bias": {"999": 1}}), "logit_bias"),
        (json!({"stop_token_ids": [999]}), "stop_token_ids"),
    ] {
        let (message, found, _) = server.complete(fields.clone()).await.refused(400);
        assert_eq!(found, param, "{fields}: {message}");
    }
    assert!(server.seen.requests.lock().unwrap().is_empty(), "a refused request reached the engine");
    server.complete(json!({"best_of": 2, "n": 2, "suffix": ""})).await.ok();
}

#[tokio::test]
async fn one_failing_prompt_fails_the_request() {
    let server = Server::new();
    let (_, _, code) = server.complete(json!({"prompt": ["Hi", "overload"]})).await.refused(429);
    assert_eq!(code, "overloaded");
    server.complete(json!({"prompt": ["Hi", "boom"]})).await.refused(500);
}
