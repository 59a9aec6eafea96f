//! LoRA adapters over HTTP: load, use, replace and unload, also while the server is busy. Leaves their numbers in full to
//! the parity tests.

use serde_json::{Value, json};

use crate::harness::{Server, expected, model, number};

fn greedy(adapter: &str, case: &Value) -> Value {
    json!({"model": adapter, "prompt": case["ids"], "max_tokens": 64, "temperature": 0, "ignore_eos": true, "logprobs": 0})
}

/// The bits of every generated token's logprob: different weights cannot give the same ones.
fn trace(answer: &Value) -> Vec<u64> {
    let logprobs = answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
    logprobs.iter().map(|logprob| number(logprob).to_bits()).collect()
}

#[tokio::test]
async fn an_adapter_is_loaded_used_listed_and_unloaded() {
    let server = Server::llama(&[]).await;
    let case = &expected("llama")["lora"]["greedy"][0];
    let loading = json!({"lora_name": "tuned", "lora_path": model("llama/lora")});
    server.post("/v1/load_lora_adapter", loading.clone()).await.ok();
    let models = server.get("/v1/models").await.ok();
    assert!(models["data"].as_array().unwrap().iter().any(|entry| entry["id"] == "tuned"), "{models}");
    let adapters = server.get("/v1/adapters").await.ok();
    assert!(
        adapters["data"].as_array().unwrap().iter().any(|a| a["name"] == "tuned" && a["rank"] == 8),
        "{adapters}"
    );

    let tuned = server.post("/v1/completions", greedy("tuned", case)).await.ok();
    let base = server.post("/v1/completions", greedy("policy", case)).await.ok();
    assert_eq!(tuned["choices"][0]["text"], case["text"]);
    assert_ne!(tuned["choices"][0]["text"], base["choices"][0]["text"]);
    let message = server.post("/v1/load_lora_adapter", loading.clone()).await.refused(400);
    assert!(message.contains("tuned"), "{message}");
    let mut replacing = loading;
    replacing["lora_path"] = json!(model("llama/lora-ranks"));
    replacing["load_inplace"] = json!(true);
    server.post("/v1/load_lora_adapter", replacing).await.ok();
    let replaced = server.post("/v1/completions", greedy("tuned", case)).await.ok();
    assert_ne!(trace(&replaced), trace(&tuned));

    server.post("/v1/unload_lora_adapter", json!({"lora_name": "tuned"})).await.ok();
    let message = server.post("/v1/completions", greedy("tuned", case)).await.refused(404);
    assert!(message.contains("`tuned`"), "{message}");
    let message = server.post("/v1/unload_lora_adapter", json!({"lora_name": "tuned"})).await.refused(404);
    assert!(message.contains("tuned"), "{message}");
}

#[tokio::test]
async fn loading_and_unloading_disturbs_nobody() {
    let server = Server::llama(&[]).await;
    let expected = expected("llama");
    let case = &expected["policy"]["greedy"][0];
    let quiet = trace(&server.post("/v1/completions", greedy("policy", case)).await.ok());
    server
        .post("/v1/load_lora_adapter", json!({"lora_name": "kept", "lora_path": model("llama/lora")}))
        .await
        .ok();
    let kept = trace(&server.post("/v1/completions", greedy("kept", case)).await.ok());
    let traffic = async {
        for _ in 0..4 {
            let base = (0..3).map(|_| server.post("/v1/completions", greedy("policy", case)));
            let adapted = (0..3).map(|_| server.post("/v1/completions", greedy("kept", case)));
            let (base, adapted) =
                tokio::join!(futures::future::join_all(base), futures::future::join_all(adapted));
            assert!(base.into_iter().all(|answer| trace(&answer.ok()) == quiet));
            assert!(adapted.into_iter().all(|answer| trace(&answer.ok()) == kept));
        }
    };
    let swaps = async {
        for _ in 0..6 {
            let load = json!({"lora_name": "passing", "lora_path": model("llama/lora-ranks")});
            server.post("/v1/load_lora_adapter", load).await.ok();
            server.post("/v1/completions", greedy("passing", case)).await.ok();
            server.post("/v1/unload_lora_adapter", json!({"lora_name": "passing"})).await.ok();
        }
    };
    tokio::join!(traffic, swaps);
}
