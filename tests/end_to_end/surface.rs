//! The rest of what OpenAI's and vLLM's clients send: prompt logprobs, `best_of`, `/tokenize`, `/v1/responses`.

use rectify_server::api::responses::ResponseEvent;
use serde_json::{Value, json};

use crate::harness::{Server, close, number, text};

#[tokio::test]
async fn prompt_logprobs_are_those_of_echo() {
    let server = Server::llama(&[]).await;
    let base = json!({"model": "policy", "prompt": "The printer is", "max_tokens": 2, "seed": 1});
    let with = |fields: Value| {
        let mut body = base.clone();
        for (key, value) in fields.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    let echoed = server.post("/v1/completions", with(json!({"echo": true, "logprobs": 0}))).await.ok();
    let asked = server.post("/v1/completions", with(json!({"prompt_logprobs": 3}))).await.ok();
    let places = asked["choices"][0]["prompt_logprobs"].as_array().unwrap();
    assert!(places[0].is_null());
    let tokens = server.post("/tokenize", json!({"model": "policy", "prompt": "The printer is"})).await.ok();
    assert_eq!(tokens["count"].as_u64().unwrap() as usize, places.len());
    let echoed = echoed["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
    for (index, place) in places.iter().enumerate().skip(1) {
        let own = &place[tokens["tokens"][index].to_string()];
        close(&[number(&own["logprob"])], &[number(&echoed[index])], 1e-6);
        let best: Vec<&Value> =
            place.as_object().unwrap().values().filter(|entry| entry["rank"] == 1).collect();
        assert_eq!(best.len(), 1, "{place}");
        assert!(number(&best[0]["logprob"]) >= number(&own["logprob"]));
    }
    let chat = json!({"model": "policy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "prompt_logprobs": 0});
    let chat = server.post("/v1/chat/completions", chat).await.ok();
    assert_eq!(
        chat["prompt_logprobs"].as_array().unwrap().len() as f64,
        number(&chat["usage"]["prompt_tokens"])
    );
}

#[tokio::test]
async fn best_of_returns_the_most_likely_per_token() {
    let server = Server::llama(&[]).await;
    let body = |n: usize, fields: Value| {
        let mut body =
            json!({"model": "policy", "prompt": "Hello", "max_tokens": 12, "seed": 4, "logprobs": 0, "n": n});
        for (key, value) in fields.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    let all = server.post("/v1/completions", body(6, json!({}))).await.ok();
    let mean = |choice: &Value| {
        let logprobs: Vec<f64> =
            choice["logprobs"]["token_logprobs"].as_array().unwrap().iter().map(number).collect();
        logprobs.iter().sum::<f64>() / logprobs.len() as f64
    };
    let mut choices: Vec<&Value> = all["choices"].as_array().unwrap().iter().collect();
    choices.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
    let best = server.post("/v1/completions", body(2, json!({"best_of": 6}))).await.ok();
    let found = best["choices"].as_array().unwrap();
    assert_eq!(found.len(), 2);
    for (rank, choice) in found.iter().enumerate() {
        assert_eq!((&choice["text"], &choice["index"]), (&choices[rank]["text"], &json!(rank)));
        assert!(choice.get("reward").is_none());
    }
    assert_eq!(best["usage"]["completion_tokens"], all["usage"]["completion_tokens"]);
    assert!(number(&best["usage"]["completion_tokens_details"]["rejected_prediction_tokens"]) > 0.0);
    let id = text(&best["id"]);
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    let record = loop {
        let record = server.get(&format!("/v1/completions/{id}")).await;
        if record.status == 200 {
            break record.ok();
        }
        assert!(std::time::Instant::now() < deadline, "{}", record.body);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    let chosen =
        record["candidates"].as_array().unwrap().iter().filter(|candidate| !candidate["choice"].is_null());
    assert_eq!((chosen.count(), &record["strategy"]), (2, &json!("most_likely")));
}

#[tokio::test]
async fn tokens_go_there_and_back() {
    let server = Server::llama(&[]).await;
    let text_of = async |tokens: &Value| {
        let body = json!({"model": "policy", "tokens": tokens});
        text(&server.post("/detokenize", body).await.ok()["prompt"]).to_owned()
    };
    let plain = json!({"model": "policy", "prompt": "Hello, wörld", "add_special_tokens": false, "return_token_strs": true});
    let plain = server.post("/tokenize", plain).await.ok();
    assert_eq!(text_of(&plain["tokens"]).await, "Hello, wörld");
    assert_eq!(plain["token_strs"].as_array().unwrap().len() as f64, number(&plain["count"]));
    assert_eq!(plain["max_model_len"], 512);
    let messages = json!([{"role": "user", "content": "hi"}]);
    let chat = json!({"model": "policy", "messages": messages});
    let tokens = server.post("/tokenize", chat).await.ok();
    let answer = json!({"model": "policy", "messages": messages, "max_tokens": 1});
    let answer = server.post("/v1/chat/completions", answer).await.ok();
    assert_eq!(tokens["count"], answer["usage"]["prompt_tokens"]);
    let bare = json!({"model": "policy", "messages": messages, "add_generation_prompt": false});
    assert!(number(&server.post("/tokenize", bare).await.ok()["count"]) < number(&tokens["count"]));
    server.post("/tokenize", json!({"model": "policy"})).await.refused(400);
    server.post("/tokenize", json!({"model": "nobody", "prompt": "a"})).await.refused(404);
    server.post("/detokenize", json!({"model": "policy", "tokens": [99_999]})).await.refused(400);
}

#[tokio::test]
async fn a_response_is_a_chat_answer_with_events_of_its_own() {
    let server = Server::llama(&[]).await;
    let chat = json!({"model": "policy", "max_tokens": 20, "seed": 2, "temperature": 1,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]});
    let chat = server.post("/v1/chat/completions", chat).await.ok();
    let body = json!({"model": "policy", "instructions": "Be brief.", "input": "hi", "max_output_tokens": 20, "seed": 2,
        "temperature": 1});
    let whole = server.post("/v1/responses", body.clone()).await.ok();
    assert_eq!(whole["output"][0]["content"][0]["text"], chat["choices"][0]["message"]["content"]);
    assert_eq!(whole["usage"]["total_tokens"], chat["usage"]["total_tokens"]);
    let is_cut = chat["choices"][0]["finish_reason"] == "length";
    assert_eq!(whole["status"], if is_cut { "incomplete" } else { "completed" });

    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let stream = server.stream("/v1/responses", streamed).await;
    for event in &stream.chunks {
        // Nothing that the description does not have.
        serde_json::from_value::<ResponseEvent>(event.clone())
            .unwrap_or_else(|error| panic!("{error}: {event}"));
    }
    assert!(!stream.done, "its events have names and no [DONE]");
    let kinds: Vec<&str> = stream.chunks.iter().map(|event| text(&event["type"])).collect();
    assert_eq!(
        kinds[..4],
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added"
        ]
    );
    let said: String = stream
        .chunks
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .map(|event| text(&event["delta"]))
        .collect();
    assert_eq!(whole["output"][0]["content"][0]["text"], said);
    let last = stream.chunks.last().unwrap();
    assert_eq!(last["response"]["output"][0]["content"], whole["output"][0]["content"]);
    assert_eq!(last["response"]["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
    assert!(stream.chunks.iter().enumerate().all(|(number, event)| event["sequence_number"] == number));

    let mut called = body;
    called["tools"] = json!([{"type": "function", "name": "now"}]);
    called["tool_choice"] = json!("required");
    called["parallel_tool_calls"] = json!(false);
    called["max_output_tokens"] = json!(200);
    let called = server.post("/v1/responses", called).await.ok();
    assert_eq!(
        (&called["output"][0]["type"], &called["output"][0]["name"]),
        (&json!("function_call"), &json!("now"))
    );
    server
        .post("/v1/responses", json!({"model": "policy", "input": "a", "previous_response_id": "x"}))
        .await
        .refused(400);
}
