//! Server-sent events: chunks, progress, errors in the middle, and clients that leave, over a real socket.

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use super::{Server, question, with};
use crate::testing::{reward, text_of};

fn streamed(fields: Value) -> Value {
    with(json!({"stream": true}), fields)
}

/// The text of choice `index`.
fn text(chunks: &[Value], index: usize) -> String {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    let pieces = choices.filter(|choice| choice["index"] == index);
    pieces.map(|c| c["delta"]["content"].as_str().or(c["text"].as_str()).unwrap_or_default()).collect()
}

#[tokio::test]
async fn a_chat_stream_is_chunks_of_openais_shape() {
    let server = Server::new();
    let answer = server.chat("hello", streamed(json!({}))).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let chunks = answer.events();
    assert_eq!(text(&chunks, 0), text_of(0));
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let last = chunks.last().unwrap();
    assert_eq!(
        (&last["choices"][0]["delta"], &last["choices"][0]["finish_reason"]),
        (&json!({}), &json!("stop"))
    );
    for chunk in &chunks {
        assert_eq!((&chunk["object"], &chunk["id"]), (&json!("chat.completion.chunk"), &chunks[0]["id"]));
        assert!(chunk.get("usage").is_none() && chunk.get("alignment").is_none());
    }
}

#[tokio::test]
async fn usage_comes_last_if_asked_for() {
    let server = Server::new();
    let options = json!({"stream_options": {"include_usage": true}});
    for answer in
        [server.chat("hello", streamed(options.clone())).await, server.complete(streamed(options)).await]
    {
        let chunks = answer.events();
        let (last, before) = chunks.split_last().unwrap();
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"]["completion_tokens"], text_of(0).len());
        assert!(before.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
    }
}

#[tokio::test]
async fn choices_and_logprobs_are_the_same_as_without_streaming() {
    let server = Server::new();
    let fields = json!({"n": 3, "logprobs": true, "top_logprobs": 1, "max_tokens": 4});
    let whole = server.chat("hello", fields.clone()).await.ok();
    let chunks = server.chat("hello", streamed(fields)).await.events();
    for choice in whole["choices"].as_array().unwrap() {
        let index = choice["index"].as_u64().unwrap() as usize;
        assert_eq!(choice["message"]["content"], text(&chunks, index));
        let pieces = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
        let logprobs: Vec<Value> = pieces
            .filter(|piece| piece["index"] == index)
            .flat_map(|piece| piece["logprobs"]["content"].as_array().cloned().unwrap_or_default())
            .collect();
        assert_eq!(choice["logprobs"]["content"], json!(logprobs));
    }
    let fields = json!({"prompt": ["Hi", "Yes"], "echo": true, "logprobs": 1, "max_tokens": 3});
    let whole = server.complete(fields.clone()).await.ok();
    let chunks = server.complete(streamed(fields)).await.events();
    for choice in whole["choices"].as_array().unwrap() {
        let index = choice["index"].as_u64().unwrap() as usize;
        assert_eq!(choice["text"], text(&chunks, index));
        let pieces = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
        let offsets: Vec<Value> = pieces
            .filter(|piece| piece["index"] == index)
            .flat_map(|piece| piece["logprobs"]["text_offset"].as_array().cloned().unwrap_or_default())
            .collect();
        assert_eq!(choice["logprobs"]["text_offset"], json!(offsets));
    }
}

#[tokio::test]
async fn best_of_n_reports_progress_and_then_the_winner() {
    let server = Server::new();
    let fields = json!({"alignment": {"n": 4, "return_candidates": true}});
    let whole = server.chat("hello", fields.clone()).await.ok();
    let answer = server.chat("hello", streamed(fields)).await;
    let progress =
        ["candidates 1/4 done", "candidates 2/4 done", "candidates 3/4 done", "candidates 4/4 done"];
    assert_eq!(answer.comments(), progress);
    let first_data = answer.text.find("data: ").unwrap();
    assert!(answer.text.find("4/4 done").unwrap() < first_data, "no text before the decision");
    let chunks = answer.events();
    assert_eq!(text(&chunks, 0), text_of(3));
    let last = chunks.last().unwrap();
    assert_eq!((&last["choices"][0]["reward"], &last["alignment"]), (&json!(reward(3)), &whole["alignment"]));
}

#[tokio::test]
async fn a_refusal_is_a_status_and_a_later_failure_an_event() {
    let server = Server::new();
    assert_eq!(server.chat("overload", streamed(json!({}))).await.refused(429).2, "overloaded");
    assert_eq!(server.chat("hello", streamed(json!({"model": "x"}))).await.refused(404).2, "model_not_found");
    let answer = server.chat("boom", streamed(json!({}))).await;
    assert!(answer.text.contains("event: error\n"), "{}", answer.text);
    let chunks = answer.events();
    assert_eq!(chunks.last().unwrap()["error"]["code"], "model_failed");
    assert!(!answer.text.contains("layer 3"), "internals leak: {}", answer.text);
}

/// The address of a server on a real socket.
async fn listen(server: &Server) -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/v1/chat/completions", listener.local_addr().unwrap());
    let router = crate::router(server.app.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn tokens_arrive_one_by_one_and_a_client_that_leaves_cancels() {
    let server = Server::new();
    let url = listen(&server).await;
    for stream in [true, false] {
        server.seen.aborted.lock().unwrap().clear();
        let body = with(question("slow"), json!({"stream": stream}));
        let request = reqwest::Client::new().post(&url).json(&body).send();
        if stream {
            let mut bytes = request.await.unwrap().bytes_stream();
            let mut seen = String::new();
            while seen.matches("tick").count() < 3 {
                seen.push_str(std::str::from_utf8(&bytes.next().await.unwrap().unwrap()).unwrap());
            }
        } else {
            assert!(tokio::time::timeout(Duration::from_millis(100), request).await.is_err());
        }
        let aborted = async {
            while server.seen.aborted.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), aborted).await.expect("nothing was cancelled");
    }
}

#[tokio::test]
async fn a_whole_stream_arrives_over_a_socket() {
    let server = Server::new();
    let url = listen(&server).await;
    let body = with(question("hello"), streamed(json!({"alignment": {"n": 4}})));
    let response = reqwest::Client::new().post(&url).json(&body).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    assert!(text.starts_with(": candidates 1/4 done\n\n"), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
}
