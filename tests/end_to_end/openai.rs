//! Chat completions, completions and the listing endpoints, as any OpenAI client meets them. Leaves best-of-N to
//! `alignment`.

use serde_json::{Value, json};

use crate::harness::{Server, close, expected, number, text};

fn ask(question: &str) -> Value {
    json!({"model": "policy", "messages": [{"role": "user", "content": question}], "max_tokens": 24, "seed": 3})
}

fn with(mut body: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

#[tokio::test]
async fn a_chat_answer_has_openais_shape() {
    let server = Server::llama(&[]).await;
    let answer = server.post("/v1/chat/completions", ask("hello")).await.ok();
    assert!(text(&answer["id"]).starts_with("chatcmpl-"));
    assert_eq!(answer["object"], "chat.completion");
    assert!(number(&answer["created"]) > 1.6e9);
    assert_eq!(answer["model"], "policy");
    let choice = &answer["choices"][0];
    assert_eq!((choice["index"].as_u64(), &choice["message"]["role"]), (Some(0), &json!("assistant")));
    assert!(choice["message"]["content"].is_string());
    assert!(["stop", "length"].contains(&text(&choice["finish_reason"])));
    let usage = &answer["usage"];
    assert!(number(&usage["prompt_tokens"]) > 4.0);
    assert!(number(&usage["completion_tokens"]) <= 24.0);
    assert_eq!(
        number(&usage["total_tokens"]),
        number(&usage["prompt_tokens"]) + number(&usage["completion_tokens"])
    );
}

#[tokio::test]
async fn greedy_completions_and_echoed_logprobs_are_pytorchs() {
    let server = Server::llama(&[]).await;
    let policy = &expected("llama")["policy"];
    for greedy in policy["greedy"].as_array().unwrap() {
        let body = json!({"model": "policy", "prompt": greedy["ids"], "max_tokens": 64, "temperature": 0,
            "ignore_eos": true});
        let answer = server.post("/v1/completions", body).await.ok();
        assert_eq!(answer["choices"][0]["text"], greedy["text"]);
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
    }
    for prompt in policy["prompts"].as_array().unwrap() {
        let body =
            json!({"model": "policy", "prompt": prompt["ids"], "max_tokens": 1, "echo": true, "logprobs": 0});
        let answer = server.post("/v1/completions", body).await.ok();
        let logprobs = answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
        assert!(logprobs[0].is_null(), "the first token has nothing before it");
        let wanted: Vec<f64> = prompt["logprobs"].as_array().unwrap().iter().map(number).collect();
        let found: Vec<f64> = logprobs[1..=wanted.len()].iter().map(number).collect();
        close(&found, &wanted, 1e-4);
    }
}

#[tokio::test]
async fn a_seed_gives_the_same_text_streamed_or_not_alone_or_in_company() {
    let server = Server::llama(&[]).await;
    let body = ask("Tell me about printers.");
    let alone = server.post("/v1/chat/completions", body.clone()).await.ok();
    let wanted = text(&alone["choices"][0]["message"]["content"]).to_owned();
    let others =
        (0..12).map(|seed| server.post("/v1/chat/completions", with(ask("noise"), json!({"seed": seed}))));
    let streamed = with(body.clone(), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let (stream, again, _) = tokio::join!(
        server.stream("/v1/chat/completions", streamed),
        server.post("/v1/chat/completions", body),
        futures::future::join_all(others)
    );
    assert_eq!(again.ok()["choices"][0]["message"]["content"], wanted);
    assert_eq!(stream.text(0), wanted);
    assert!(stream.done, "the stream ends with [DONE]");
    assert_eq!(stream.chunks[0]["object"], "chat.completion.chunk");
    assert_eq!(stream.chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let last = stream.chunks.last().unwrap();
    assert_eq!(
        (&last["choices"], &last["usage"]["total_tokens"]),
        (&json!([]), &alone["usage"]["total_tokens"])
    );
    let reasons: Vec<&Value> =
        stream.chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
    let ended = reasons.iter().filter(|reason| reason.is_string()).count();
    assert_eq!(ended, 1, "one finish reason per choice: {reasons:?}");
}

#[tokio::test]
async fn several_choices_are_several_candidates() {
    let server = Server::llama(&[]).await;
    let body = with(ask("Roll a die."), json!({"n": 4}));
    let answer = server.post("/v1/chat/completions", body.clone()).await.ok();
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|c| c["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let texts: Vec<&str> = choices.iter().map(|c| text(&c["message"]["content"])).collect();
    assert!(
        texts.windows(2).any(|pair| pair[0] != pair[1]),
        "four equal samples of a random model: {texts:?}"
    );
    let stream = server.stream("/v1/chat/completions", with(body, json!({"stream": true}))).await;
    for (index, wanted) in texts.iter().enumerate() {
        assert_eq!(&stream.text(index), wanted);
    }
}

#[tokio::test]
async fn stop_strings_end_the_text_before_them() {
    let server = Server::llama(&[]).await;
    let body = with(ask("Say something long."), json!({"max_tokens": 64, "ignore_eos": true}));
    let whole = server.post("/v1/chat/completions", body.clone()).await.ok();
    let whole = text(&whole["choices"][0]["message"]["content"]).to_owned();
    let characters: Vec<char> = whole.chars().collect();
    let stop: String = characters[characters.len() / 2..characters.len() / 2 + 3].iter().collect();
    let at = whole.find(&stop).unwrap();
    let body = with(body, json!({"stop": [stop, "never in it"]}));
    let cut = server.post("/v1/chat/completions", body.clone()).await.ok();
    assert_eq!(cut["choices"][0]["message"]["content"], whole[..at]);
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
    let stream = server.stream("/v1/chat/completions", with(body, json!({"stream": true}))).await;
    assert_eq!(stream.text(0), whole[..at]);
}

#[tokio::test]
async fn logprobs_are_natural_logs_of_the_raw_distribution() {
    let server = Server::llama(&[]).await;
    let fields =
        json!({"logprobs": true, "top_logprobs": 5, "temperature": 0.0, "max_tokens": 8, "ignore_eos": true});
    let cold = server.post("/v1/chat/completions", with(ask("hello"), fields.clone())).await.ok();
    let content = cold["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 8);
    for token in content {
        let top: Vec<f64> =
            token["top_logprobs"].as_array().unwrap().iter().map(|t| number(&t["logprob"])).collect();
        assert_eq!(top.len(), 5);
        assert!(top.windows(2).all(|pair| pair[0] >= pair[1]), "most likely first: {top:?}");
        assert!(top.iter().map(|l| l.exp()).sum::<f64>() <= 1.0 + 1e-4);
        assert!((number(&token["logprob"]) - top[0]).abs() < 1e-6, "greedy takes the most likely: {token}");
        assert!(token["bytes"].is_array());
    }
    // The raw distribution does not know of temperature or penalties.
    let warm = with(ask("hello"), fields);
    let warm = with(warm, json!({"logit_bias": {"7": 100}, "max_tokens": 1}));
    let warm = server.post("/v1/chat/completions", warm).await.ok();
    let biased = &warm["choices"][0]["logprobs"]["content"][0];
    assert!(number(&biased["logprob"]) < number(&content[0]["logprob"]), "bias 100 forces token 7: {biased}");
    assert_eq!(biased["top_logprobs"], content[0]["top_logprobs"]);
}

#[tokio::test]
async fn a_repeated_prompt_comes_from_the_cache_with_the_same_text() {
    let server = Server::llama(&[]).await;
    let body = ask(&"many words that fill several blocks of the cache ".repeat(6));
    let cold = server.post("/v1/chat/completions", body.clone()).await.ok();
    let warm = server.post("/v1/chat/completions", body).await.ok();
    assert_eq!(cold["choices"], warm["choices"]);
    let cached = |answer: &Value| number(&answer["usage"]["prompt_tokens_details"]["cached_tokens"]);
    assert_eq!(cached(&cold), 0.0);
    assert!(cached(&warm) >= 32.0, "{}", warm["usage"]);
}

#[tokio::test]
async fn listing_health_metrics_and_openapi_answer() {
    let server = Server::demo().await;
    let models = server.get("/v1/models").await.ok();
    assert_eq!(models["object"], "list");
    let policy = text(&models["data"][0]["id"]).to_owned();
    let one = server.get(&format!("/v1/models/{policy}")).await.ok();
    assert_eq!((&one["id"], &one["object"]), (&json!(policy), &json!("model")));
    for path in ["/health", "/ready"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    server.post("/v1/chat/completions", with(ask("hi"), json!({"model": policy}))).await.ok();
    let metrics = server.metrics().await;
    for line in metrics.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let value = line.rsplit_once(' ').unwrap().1;
        assert!(value.parse::<f64>().is_ok(), "not the Prometheus format: {line}");
    }
    for family in ["request", "time_to_first_token", "inter_token", "kv", "prefix", "preempt", "step"] {
        let named = |line: &&str| line.starts_with("rectify_") && line.contains(family);
        assert!(metrics.lines().any(|line| named(&line)), "no rectify_ metric about {family}:\n{metrics}");
    }
    let openapi = server.get("/openapi.json").await.ok();
    assert!(text(&openapi["openapi"]).starts_with("3."));
    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/score",
        "/classify",
        "/get_reward",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/health",
        "/ready",
        "/metrics",
    ] {
        assert!(openapi["paths"][path].is_object(), "{path} is not in openapi.json");
    }
}

#[tokio::test]
async fn unknown_fields_are_named_in_a_header() {
    let server = Server::llama(&[]).await;
    let body = with(ask("hi"), json!({"frobnicate": true, "store": false}));
    let answer = server.post("/v1/chat/completions", body).await;
    let ignored = answer.headers["x-rectify-ignored"].to_str().unwrap().to_owned();
    answer.ok();
    assert!(ignored.contains("frobnicate") && ignored.contains("store"), "{ignored}");
}
