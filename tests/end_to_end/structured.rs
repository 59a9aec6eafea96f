//! Answers of a given form: JSON by a schema, regular expressions, choices and grammars, from a model that knows nothing
//! of them. Leaves the grammars' details to the engine's tests.

use serde_json::{Value, json};

use crate::harness::{Server, number, text};

fn ask(fields: Value) -> Value {
    let mut body = json!({"model": "policy", "messages": [{"role": "user", "content": "Who are you?"}],
        "max_tokens": 200, "seed": 3});
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

/// Short whatever the model makes of it.
fn person() -> Value {
    json!({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 4}, "kind": {"enum": ["cat", "dog"]},
        "age": {"type": "integer", "minimum": 1, "maximum": 99}},
        "required": ["name", "kind", "age"], "additionalProperties": false})
}

fn by_schema() -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "person", "strict": true, "schema": person()}})
}

fn check(content: &str) {
    let value: Value = serde_json::from_str(content).unwrap_or_else(|error| panic!("{error}: {content}"));
    assert!(value["name"].as_str().unwrap().chars().count() <= 4, "{value}");
    assert!(["cat", "dog"].contains(&text(&value["kind"])), "{value}");
    assert!((1.0..=99.0).contains(&number(&value["age"])), "{value}");
}

#[tokio::test]
async fn a_schema_is_followed_whole_streamed_and_by_the_best_of_n() {
    let server = Server::llama(&[]).await;
    let body = ask(json!({"response_format": by_schema(), "n": 4, "logprobs": true, "top_logprobs": 2}));
    let whole = server.post("/v1/chat/completions", body.clone()).await.ok();
    let stream = server
        .stream("/v1/chat/completions", {
            let mut body = body;
            body["stream"] = json!(true);
            body
        })
        .await;
    for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
        check(text(&choice["message"]["content"]));
        assert_eq!(choice["finish_reason"], "stop");
        assert_eq!(stream.text(index), text(&choice["message"]["content"]));
        let tokens = choice["logprobs"]["content"].as_array().unwrap();
        // Of what the schema leaves: `{` and white space alone can come first.
        let mass: f64 =
            tokens[0]["top_logprobs"].as_array().unwrap().iter().map(|t| number(&t["logprob"]).exp()).sum();
        assert!(mass > 0.1, "{}", tokens[0]);
    }
    let best = ask(json!({"response_format": by_schema(), "alignment": {"n": 8, "return_candidates": true}}));
    let best = server.post("/v1/chat/completions", best).await.ok();
    let candidates = best["alignment"]["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 8);
    candidates.iter().for_each(|candidate| check(text(&candidate["text"])));
}

#[tokio::test]
async fn every_way_to_ask_gives_its_form() {
    let server = Server::llama(&[]).await;
    let content = async |fields: Value| {
        let answer = server.post("/v1/chat/completions", ask(fields)).await.ok();
        text(&answer["choices"][0]["message"]["content"]).to_owned()
    };
    check(&content(json!({"guided_json": person()})).await);
    check(&content(json!({"structured_outputs": {"json": person().to_string()}})).await);
    let number = content(json!({"guided_regex": r"\d{3}-\d{2}"})).await;
    assert!(number.len() == 6 && number.as_bytes()[3] == b'-', "{number}");
    for fields in [
        json!({"guided_choice": ["left", "right"]}),
        json!({"structured_outputs": {"choice": ["left", "right"]}}),
    ] {
        assert!(["left", "right"].contains(&content(fields).await.as_str()));
    }
    let nested = content(json!({"guided_grammar": "start: \"(\" start \")\" | \"x\""})).await;
    assert_eq!(nested.matches('(').count(), nested.matches(')').count(), "{nested}");
    let object = content(json!({"response_format": {"type": "json_object"}, "max_tokens": 2})).await;
    assert!(object.trim_start().starts_with('{'), "{object}");
    let legacy = json!({"model": "policy", "prompt": "Hello", "max_tokens": 40, "guided_regex": "(yes|no)!"});
    let legacy = server.post("/v1/completions", legacy).await.ok();
    assert!(["yes!", "no!"].contains(&text(&legacy["choices"][0]["text"])), "{legacy}");
}

#[tokio::test]
async fn a_form_changes_nothing_for_others_and_is_the_same_in_company() {
    let server = Server::llama(&[]).await;
    let free = ask(json!({"max_tokens": 40, "ignore_eos": true}));
    let formed = ask(json!({"response_format": by_schema()}));
    let alone = server.post("/v1/chat/completions", free.clone()).await.ok();
    let formed_alone = server.post("/v1/chat/completions", formed.clone()).await.ok();
    let requests = (0..12).map(|index| {
        server.post("/v1/chat/completions", if index % 2 == 0 { free.clone() } else { formed.clone() })
    });
    for (index, answer) in futures::future::join_all(requests).await.into_iter().enumerate() {
        let wanted = if index % 2 == 0 { &alone } else { &formed_alone };
        assert_eq!(answer.ok()["choices"], wanted["choices"]);
    }
}

#[tokio::test]
async fn a_form_that_cannot_be_followed_is_refused_by_field_and_cause() {
    let server = Server::llama(&[]).await;
    let schema = |schema: Value, strict: bool| {
        json!({"response_format": {"type": "json_schema",
            "json_schema": {"name": "a", "strict": strict, "schema": schema}}})
    };
    for (fields, param, word) in [
        (schema(json!({"type": "strnig"}), true), "response_format.json_schema.schema", "strnig"),
        (
            schema(json!({"type": "array", "uniqueItems": true}), true),
            "response_format.json_schema.schema",
            "uniqueItems",
        ),
        (json!({"response_format": {"type": "yaml"}}), "response_format.type", "yaml"),
        (json!({"guided_regex": "a("}), "guided_regex", "regex"),
        (json!({"guided_grammar": "start: nothing"}), "guided_grammar", "nothing"),
        (json!({"guided_grammar": "root ::= \"a\""}), "guided_grammar", "Lark"),
        (json!({"guided_choice": []}), "guided_choice", "at least one"),
        (json!({"guided_regex": "a", "guided_choice": ["b"]}), "guided_choice", "guided_regex"),
    ] {
        let answer = server.post("/v1/chat/completions", ask(fields.clone())).await;
        assert_eq!(answer.body["error"]["param"], param, "{fields}");
        let message = answer.refused(400);
        assert!(message.to_lowercase().contains(&word.to_lowercase()), "{message}");
    }
    let lenient = ask(schema(
        json!({"type": "array", "uniqueItems": true, "items": {"const": 1}, "maxItems": 3}),
        false,
    ));
    let answer = server.post("/v1/chat/completions", lenient).await.ok();
    serde_json::from_str::<Vec<u8>>(text(&answer["choices"][0]["message"]["content"])).unwrap();
}
