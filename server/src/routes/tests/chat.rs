//! `/v1/chat/completions` without streaming.

use serde_json::{Value, json};

use super::{Server, question, with};
use crate::testing::{MAX_MODEL_LEN, text_of};

#[tokio::test]
async fn an_answer_has_openais_shape() {
    let server = Server::new();
    let answer = server.chat("hello", json!({"max_tokens": 100})).await.ok();
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("demo")));
    assert_eq!(answer["system_fingerprint"], "demo@base");
    assert_eq!(
        answer["choices"],
        json!([{"index": 0, "message": {"role": "assistant", "content": text_of(0), "refusal": null},
            "logprobs": null, "finish_reason": "stop"}])
    );
    let usage = &answer["usage"];
    assert_eq!(usage["prompt_tokens"], "user: hello\nassistant: ".len());
    assert_eq!(usage["completion_tokens"], text_of(0).len());
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 2);
    assert!(answer.get("alignment").is_none());
}

#[tokio::test]
async fn several_choices_come_in_order() {
    let server = Server::new();
    let answer = server.chat("hello", json!({"n": 3})).await.ok();
    let choices = answer["choices"].as_array().unwrap();
    let texts: Vec<&Value> = choices.iter().map(|choice| &choice["message"]["content"]).collect();
    assert_eq!(texts, ["answer 0", "answer 1", "answer 2"]);
    assert!(choices.iter().enumerate().all(|(index, choice)| choice["index"] == index));
}

#[tokio::test]
async fn logprobs_have_one_entry_for_each_token() {
    let server = Server::new();
    let fields = json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 3});
    let answer = server.chat("hello", fields).await.ok();
    let choice = &answer["choices"][0];
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("ans"), &json!("length")));
    let content = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 3);
    assert_eq!((&content[1]["token"], &content[1]["bytes"]), (&json!("n"), &json!([110])));
    assert_eq!(content[1]["logprob"], -1.5);
    assert_eq!(content[1]["top_logprobs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn every_sampling_field_reaches_the_engine() {
    let server = Server::new();
    let fields = json!({
        "max_completion_tokens": 7, "max_tokens": 9, "min_tokens": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 5,
        "min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1,
        "logit_bias": {"65": -100}, "seed": -1, "stop": "\n\n", "stop_token_ids": [3], "ignore_eos": true,
        "include_stop_str_in_output": true, "logprobs": true, "priority": -2, "user": "u", "metadata": {"a": "b"},
    });
    let answer = server.chat("hello", fields).await;
    assert!(!answer.headers.contains_key("x-rectify-ignored"), "{:?}", answer.headers);
    answer.ok();
    let request = server.seen.requests.lock().unwrap().pop().unwrap();
    let sampling = request.sampling;
    assert_eq!((sampling.max_tokens, sampling.min_tokens, sampling.top_k), (7, 2, 5));
    assert_eq!((sampling.temperature, sampling.top_p, sampling.min_p), (0.5, 0.9, 0.1));
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (1.0, -1.0));
    assert_eq!((sampling.repetition_penalty, sampling.logit_bias), (1.1, vec![(65, -100.0)]));
    assert_eq!(
        (sampling.seed, sampling.stop, sampling.stop_token_ids),
        (Some(u64::MAX), vec!["\n\n".into()], vec![3])
    );
    assert!(sampling.ignore_eos && sampling.include_stop);
    assert_eq!((sampling.logprobs, request.priority), (Some(0), -2));
    assert_eq!(request.messages[0].content, "hello");
}

#[tokio::test]
async fn without_a_limit_an_answer_may_fill_the_context() {
    let server = Server::new();
    server.chat("hello", json!({})).await.ok();
    let request = server.seen.requests.lock().unwrap().pop().unwrap();
    assert_eq!(request.sampling.max_tokens, MAX_MODEL_LEN - request.prompt.len());
    assert_eq!(request.sampling.temperature, 1.0);
}

#[tokio::test]
async fn unknown_fields_are_ignored_and_named() {
    let server = Server::new();
    let fields = json!({"store": false, "alignment": {"n": 2, "patience": 3}, "service_tier": "auto"});
    let answer = server.chat("hello", fields).await;
    let mut ignored: Vec<&str> = answer.headers["x-rectify-ignored"].to_str().unwrap().split(',').collect();
    ignored.sort_unstable();
    assert_eq!(ignored, ["alignment.patience", "store"]);
    answer.ok();
}

#[tokio::test]
async fn every_wrong_field_is_a_400_that_names_it() {
    let server = Server::new();
    for (fields, param) in [
        (json!({"messages": []}), "messages"),
        (json!({"messages": "hi"}), "messages"),
        (json!({"messages": [{"content": "hi"}]}), "messages[0]"),
        (json!({"messages": [{"role": "wizard", "content": "hi"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user", "content": 3}]}), "messages[0].content"),
        (json!({"model": 7}), "model"),
        (json!({"model": "helpful"}), "model"),
        (json!({"n": 0}), "n"),
        (json!({"n": 65}), "n"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"max_tokens": 1.5}), "max_tokens"),
        (json!({"max_tokens": 5000}), "messages"),
        (json!({"temperature": -0.1}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"top_p": 1.01}), "top_p"),
        (json!({"top_k": -2}), "top_k"),
        (json!({"min_p": 2}), "min_p"),
        (json!({"presence_penalty": 3}), "presence_penalty"),
        (json!({"frequency_penalty": -3}), "frequency_penalty"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias"),
        (json!({"logit_bias": {"256": 1}}), "logit_bias"),
        (json!({"logit_bias": [1]}), "logit_bias"),
        (json!({"stop": [""]}), "stop"),
        (json!({"stop": 3}), "stop"),
        (json!({"stop_token_ids": [256]}), "stop_token_ids"),
        (json!({"top_logprobs": 1}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"tools": [{"type": "function"}]}), "tools[0]"),
        (json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}), "tools[0].function.name"),
        (json!({"guided_regex": "a("}), "guided_regex"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
        (json!({"alignment": 16}), "alignment"),
        (json!({"alignment": {"n": 65}}), "alignment.n"),
        (json!({"n": 4, "alignment": {"n": 2}}), "alignment.n"),
        (json!({"alignment": {"strategy": "hope"}}), "alignment.strategy"),
        (json!({"alignment": {"select": "worst"}}), "alignment.select"),
        (json!({"alignment": {"early_stop": {"kind": "x"}}}), "alignment.early_stop.kind"),
    ] {
        let (message, found, _) = server.chat("hello", fields.clone()).await.refused(400);
        assert_eq!(found, param, "{fields}: {message}");
    }
    assert!(server.seen.requests.lock().unwrap().is_empty(), "a refused request reached the engine");
}

#[tokio::test]
async fn missing_messages_are_named() {
    let (message, ..) =
        Server::new().post("/v1/chat/completions", &json!({"model": "demo"})).await.refused(400);
    assert!(message.contains("`messages`"), "{message}");
}

#[tokio::test]
async fn the_engines_refusals_become_statuses() {
    let server = Server::new();
    for (script, status, code) in [
        ("overload", 429, "overloaded"),
        ("long", 400, "context_length_exceeded"),
        ("stopping", 503, "shutting_down"),
        ("refused by the template", 400, "invalid_value"),
        ("boom", 500, "model_failed"),
    ] {
        let (message, _, found) = server.chat(script, json!({})).await.refused(status);
        assert_eq!(found, code, "{message}");
        assert!(!message.contains("layer 3"), "internals leak: {message}");
    }
}

#[tokio::test]
async fn a_prompt_beyond_the_context_is_refused_before_the_engine() {
    let server = Server::new();
    let (message, param, code) = server.chat(&"a".repeat(MAX_MODEL_LEN), json!({})).await.refused(400);
    assert_eq!((param, code), (json!("messages"), json!("context_length_exceeded")));
    assert!(message.contains("4096"), "{message}");
    // Long texts are tokenised elsewhere, with the same answer.
    let (_, _, code) = server.chat(&"a".repeat(5 * MAX_MODEL_LEN), json!({})).await.refused(400);
    assert_eq!(code, "context_length_exceeded");
}

#[tokio::test]
async fn an_unknown_model_is_a_404_that_names_the_known_ones() {
    let server = Server::new();
    for model in ["gpt-9", "demo:best-of-everything", "other:best-of-4"] {
        let (message, param, code) = server.chat("hello", json!({"model": model})).await.refused(404);
        assert_eq!((param, code), (json!("model"), json!("model_not_found")));
        assert!(message.contains(&format!("`{model}`")) && message.contains("`demo`"), "{message}");
    }
}

#[tokio::test]
async fn every_name_of_the_policy_answers() {
    let server = Server::new();
    for model in ["demo", "org/demo", "policy", ""] {
        let answer = server.chat("hello", json!({"model": model})).await.ok();
        assert_eq!(answer["model"], if model.is_empty() { json!("") } else { json!(model) });
    }
    let mut body = question("hello");
    body.as_object_mut().unwrap().remove("model");
    assert_eq!(server.post("/v1/chat/completions", &body).await.ok()["model"], "demo");
    let body = with(body, json!({"model": null}));
    assert_eq!(server.post("/v1/chat/completions", &body).await.ok()["model"], "demo");
}
