//! Leaving and stopping: a client that goes away frees its blocks, a server that is told to stop finishes first.

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server};

fn long(n: usize, stream: bool) -> Value {
    json!({"model": "policy", "messages": [{"role": "user", "content": "Count for a long time."}], "n": n,
        "max_tokens": 400, "ignore_eos": true, "stream": stream, "seed": 5})
}

async fn used_blocks(server: &Server) -> f64 {
    server.metric("rectify_kv_blocks_used", "").await
}

async fn wait_until_idle(server: &Server) {
    let deadline = Instant::now() + PATIENCE;
    while used_blocks(server).await > 0.0 {
        assert!(Instant::now() < deadline, "blocks are still used:\n{}", server.metrics().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_blocks_at_once() {
    let server = Server::llama(&[]).await;
    for (n, stream) in [(16, true), (16, false)] {
        let request = server.http.post(format!("{}/v1/chat/completions", server.url)).json(&long(n, stream));
        let running = tokio::spawn(async move {
            let mut bytes = request.send().await.unwrap().bytes_stream();
            while bytes.next().await.is_some() {}
        });
        let deadline = Instant::now() + PATIENCE;
        while used_blocks(&server).await < 16.0 {
            assert!(Instant::now() < deadline && !running.is_finished(), "the request never held its blocks");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let before = server.metric("rectify_generated_tokens_total", "").await;
        running.abort();
        let left = Instant::now();
        wait_until_idle(&server).await;
        assert!(left.elapsed() < Duration::from_secs(5), "took {:?}", left.elapsed());
        let after = server.metric("rectify_generated_tokens_total", "").await;
        assert!(after - before < 16.0 * 350.0, "it went on to the end: {} tokens", after - before);
    }
}

#[tokio::test]
async fn told_to_stop_it_finishes_what_runs_and_refuses_what_comes() {
    let mut server = Server::llama(&[]).await;
    let wanted = server.post("/v1/chat/completions", long(2, false)).await.ok();
    let running = server.http.post(format!("{}/v1/chat/completions", server.url)).json(&long(2, true));
    let mut bytes = running.send().await.unwrap().bytes_stream();
    let mut body = bytes.next().await.unwrap().unwrap().to_vec();
    server.signal("TERM");
    let deadline = Instant::now() + PATIENCE;
    // From now on a new request finds a closed door or a 503, never a hang or a torn answer.
    loop {
        match server
            .http
            .post(format!("{}/v1/chat/completions", server.url))
            .json(&long(1, false))
            .send()
            .await
        {
            Ok(response) if response.status() == 200 => {
                assert!(Instant::now() < deadline, "it still takes requests");
                response.bytes().await.unwrap();
            }
            Ok(response) => {
                assert_eq!(response.status(), 503);
                break;
            }
            Err(error) => {
                assert!(error.is_connect() || error.is_request(), "{error}");
                break;
            }
        }
    }
    while let Some(piece) = bytes.next().await {
        body.extend_from_slice(&piece.unwrap());
    }
    let body = String::from_utf8(body).unwrap();
    assert!(body.trim_end().ends_with("data: [DONE]"), "the stream was cut: …{}", &body[body.len() - 80..]);
    let chunks = body.lines().filter_map(|line| line.strip_prefix("data: {")).map(|rest| format!("{{{rest}"));
    let chunks: Vec<Value> = chunks.map(|chunk| serde_json::from_str(&chunk).unwrap()).collect();
    for choice in wanted["choices"].as_array().unwrap() {
        let pieces = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
        let pieces = pieces.filter(|piece| piece["index"] == choice["index"]);
        let text: String = pieces.filter_map(|piece| piece["delta"]["content"].as_str()).collect();
        assert_eq!(choice["message"]["content"], text);
    }
    assert!(server.ended().await.success(), "{}", server.log());
}

#[tokio::test]
async fn no_options_at_all_serve_the_demo_and_say_how_to_try_it() {
    let server = Server::demo().await;
    assert!(server.log().contains("curl"), "{}", server.log());
    let body =
        json!({"model": "demo", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 16});
    let models = server.get("/v1/models").await.ok();
    let mut body = body;
    body["model"] = models["data"][0]["id"].clone();
    server.post("/v1/chat/completions", body).await.ok();
}
