//! What people get wrong: each mistake is one clear sentence, and the server goes on as before.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server, fixtures, model};

fn ask() -> Value {
    json!({"model": "policy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "seed": 1})
}

#[tokio::test]
async fn every_bad_request_is_one_sentence_and_changes_nothing() {
    let server = Server::llama(&[]).await;
    let before = server.post("/v1/chat/completions", ask()).await.ok();
    let chat = |field: &str, value: Value| {
        let mut body = ask();
        body[field] = value;
        ("/v1/chat/completions", body)
    };
    let missing = |field: &str| {
        let mut body = ask();
        body.as_object_mut().unwrap().remove(field);
        ("/v1/chat/completions", body)
    };
    let long: Vec<u32> = (0..600).map(|i| 5 + i % 500).collect();
    let words = "word ".repeat(600);
    let (path, adapter) = (model("llama/policy"), model("qwen2/lora"));
    // (request, status, words the sentence must hold)
    let cases: Vec<((&str, Value), u16, Vec<&str>)> = vec![
        (chat("model", json!("gpt-9")), 404, vec!["gpt-9", "policy"]),
        (chat("model", json!("policy:best-of-everything")), 404, vec!["best-of-everything"]),
        (chat("model", json!(7)), 400, vec!["model"]),
        (chat("messages", json!("hi")), 400, vec!["messages"]),
        (chat("messages", json!([])), 400, vec!["messages"]),
        (chat("messages", json!([{"content": "hi"}])), 400, vec!["role"]),
        (chat("messages", json!([{"role": "wizard", "content": "hi"}])), 400, vec!["wizard"]),
        (chat("messages", json!([{"role": "user", "content": words}])), 400, vec!["512", "context"]),
        (missing("messages"), 400, vec!["messages"]),
        (chat("max_tokens", json!(0)), 400, vec!["max_tokens"]),
        (chat("max_tokens", json!(-3)), 400, vec!["max_tokens"]),
        (chat("max_tokens", json!("many")), 400, vec!["max_tokens"]),
        (chat("max_tokens", json!(100_000)), 400, vec!["512"]),
        (chat("temperature", json!(-1)), 400, vec!["temperature"]),
        (chat("temperature", json!("warm")), 400, vec!["temperature"]),
        (chat("top_p", json!(0)), 400, vec!["top_p"]),
        (chat("top_p", json!(1.5)), 400, vec!["top_p"]),
        (chat("top_logprobs", json!(3)), 400, vec!["logprobs"]),
        (chat("n", json!(0)), 400, vec!["n"]),
        (chat("n", json!(1_000_000)), 400, vec!["n"]),
        (chat("stop", json!([""])), 400, vec!["stop"]),
        (chat("logit_bias", json!({"cat": 1})), 400, vec!["logit_bias"]),
        (chat("logit_bias", json!({"99999": 1})), 400, vec!["logit_bias"]),
        (chat("response_format", json!({"type": "xml"})), 400, vec!["response_format", "json_schema"]),
        (chat("alignment", json!(16)), 400, vec!["alignment"]),
        (chat("alignment", json!({"n": 0})), 400, vec!["alignment.n"]),
        (chat("alignment", json!({"strategy": "hope"})), 400, vec!["hope", "best_of_n"]),
        (chat("alignment", json!({"reward": "kindness"})), 404, vec!["kindness", "helpful"]),
        (("/v1/completions", json!({"model": "policy", "prompt": long})), 400, vec!["512", "600"]),
        (("/v1/completions", json!({"model": "policy", "prompt": [5, 512]})), 400, vec!["512"]),
        (("/v1/completions", json!({"model": "policy", "prompt": ""})), 400, vec!["prompt"]),
        (("/v1/completions", json!({"model": "policy", "prompt": {"text": "hi"}})), 400, vec!["prompt"]),
        (
            (
                "/v1/score",
                json!({"model": "kindness", "messages": [{"role": "user", "content": "a"}], "candidates": ["b"]}),
            ),
            404,
            vec!["kindness"],
        ),
        (
            ("/v1/score", json!({"messages": [{"role": "user", "content": "a"}], "candidates": []})),
            400,
            vec!["candidates"],
        ),
        (
            (
                "/v1/score",
                json!({"messages": [{"role": "user", "content": "a"}], "candidates": ["word ".repeat(600)]}),
            ),
            400,
            vec!["512"],
        ),
        (("/classify", json!({"input": 3})), 400, vec!["input"]),
        (("/get_reward", json!({"query": "one"})), 400, vec!["query"]),
        (
            ("/v1/load_lora_adapter", json!({"lora_name": "x", "lora_path": "/no/such/folder"})),
            400,
            vec!["/no/such/folder"],
        ),
        (
            ("/v1/load_lora_adapter", json!({"lora_name": "x", "lora_path": path})),
            400,
            vec!["adapter_config.json"],
        ),
        (
            ("/v1/load_lora_adapter", json!({"lora_name": "x", "lora_path": adapter})),
            400,
            vec!["adapter_model.safetensors"],
        ),
        (("/v1/load_lora_adapter", json!({"lora_path": "somewhere"})), 400, vec!["lora_name"]),
        (("/v1/unload_lora_adapter", json!({"lora_name": "x"})), 404, vec!["x"]),
    ];
    let mut problems = Vec::new();
    for ((path, body), status, words) in cases {
        let shown = body.to_string().chars().take(120).collect::<String>();
        let answer = server.post(path, body).await;
        if answer.status != status {
            problems.push(format!("{path} {shown}: {} instead of {status}: {}", answer.status, answer.body));
            continue;
        }
        let message = answer.refused(status);
        let unnamed = words.iter().filter(|word| !message.contains(**word));
        problems.extend(unnamed.map(|word| format!("{path} {shown}: `{message}` does not name `{word}`")));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    for broken in ["", "{", "[]", "{\"model\": \"policy\",}", "\u{1}\u{2}", "{\"messages\": [{]}"] {
        server.post_raw("/v1/chat/completions", broken).await.refused(400);
    }
    assert_eq!(server.get("/v1/nothing").await.status, 404);
    assert_eq!(server.get("/v1/chat/completions").await.status, 405);
    assert_eq!(server.get("/v1/models/gpt-9").await.status, 404);
    let after = server.post("/v1/chat/completions", ask()).await.ok();
    assert_eq!(after["choices"], before["choices"]);
    assert_eq!(server.metric("rectify_kv_blocks_used", "").await, 0.0);
}

/// Copies a folder of flat files.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A copy of the `qwen2` policy with one thing broken.
fn broken(breaking: impl FnOnce(&Path)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixtures().join("models/qwen2/policy"), folder.path());
    breaking(folder.path());
    folder
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

#[test]
fn a_broken_model_folder_is_refused_with_one_sentence() {
    type Breaking = Box<dyn FnOnce(&Path)>;
    const WEIGHTS: &str = "model.safetensors";
    let remove = |name: &'static str| -> Breaking {
        Box::new(move |folder| std::fs::remove_file(folder.join(name)).unwrap())
    };
    let config = |key: &'static str, value: Value| -> Breaking {
        Box::new(move |folder| edit_json(&folder.join("config.json"), |config| config[key] = value))
    };
    let cases: Vec<(Breaking, &'static [&'static str])> = vec![
        (remove("config.json"), &["config.json"]),
        (remove("tokenizer.json"), &["tokenizer.json"]),
        (remove(WEIGHTS), &["safetensors"]),
        (
            Box::new(|folder| {
                let bytes = std::fs::read(folder.join(WEIGHTS)).unwrap();
                std::fs::write(folder.join(WEIGHTS), &bytes[..bytes.len() * 2 / 3]).unwrap();
            }),
            &[WEIGHTS],
        ),
        (
            Box::new(|folder| std::fs::write(folder.join(WEIGHTS), b"not a tensor in sight").unwrap()),
            &[WEIGHTS],
        ),
        (Box::new(|folder| std::fs::write(folder.join(WEIGHTS), b"").unwrap()), &[WEIGHTS]),
        (
            Box::new(|folder| {
                let mut bytes = std::fs::read(folder.join(WEIGHTS)).unwrap();
                bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
                std::fs::write(folder.join(WEIGHTS), bytes).unwrap();
            }),
            &[WEIGHTS],
        ),
        (config("intermediate_size", json!(161)), &[WEIGHTS, "161"]),
        (config("num_hidden_layers", json!(4)), &[WEIGHTS, "layers.3"]),
        (config("vocab_size", json!(500)), &["500"]),
        (config("model_type", json!("mamba9")), &["config.json", "mamba9"]),
        (config("hidden_size", json!("wide")), &["config.json", "hidden_size"]),
        (config("num_attention_heads", json!(0)), &["config.json", "num_attention_heads"]),
        (Box::new(|folder| std::fs::write(folder.join("config.json"), "{").unwrap()), &["config.json"]),
        (
            Box::new(|folder| std::fs::write(folder.join("tokenizer.json"), "[]").unwrap()),
            &["tokenizer.json"],
        ),
        (
            Box::new(|folder| {
                // A vocabulary that is larger than the embedding.
                edit_json(&folder.join("tokenizer.json"), |tokenizer| {
                    tokenizer["model"]["vocab"]["qqqqqq"] = json!(700);
                });
            }),
            &["tokenizer.json", "512"],
        ),
        (
            Box::new(|folder| std::fs::write(folder.join("chat_template.jinja"), "{% for %}").unwrap()),
            &["chat_template.jinja"],
        ),
    ];
    let mut problems = Vec::new();
    for (breaking, words) in cases {
        let folder = broken(breaking);
        let message = refusal(&["serve", "--port", "0", "--policy", folder.path().to_str().unwrap()]);
        let unnamed = words.iter().filter(|word| !message.contains(**word));
        problems.extend(unnamed.map(|word| format!("`{message}` does not name `{word}`")));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Runs a command that must fail with exit code 2, and returns its one sentence.
pub(crate) fn refusal(args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_rectify"))
        .args(args)
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while run.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = run.kill();
            panic!("{args:?} was not refused");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let run = run.wait_with_output().unwrap();
    let errors = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(2), "{args:?}: {errors}");
    assert!(!errors.contains("panicked"), "{args:?}: {errors}");
    errors.lines().last().unwrap_or_else(|| panic!("{args:?} fails without a word")).to_owned()
}

#[test]
fn wrong_files_and_flags_are_refused_with_one_sentence() {
    let reward = format!("helpful={}", model("llama/lora"));
    let policy = model("llama/policy");
    let misfit = format!("helpful={}", model("qwen2/reward-adapter"));
    let cases: &[(&[&str], &str)] = &[
        (&["serve", "--policy", "/no/such/model"], "/no/such/model"),
        (&["serve", "--policy", &policy, "--reward", "helpful=/no/such/reward"], "/no/such/reward"),
        (&["serve", "--policy", &policy, "--reward", &reward], "score"),
        (&["serve", "--policy", &policy, "--reward", &misfit], "adapter_model.safetensors"),
        (&["serve", "--config", "/no/such.yaml"], "/no/such.yaml"),
        (&["serve", "--polycy", "x"], "--polycy"),
        (&["generate", "-i", "/no/such.jsonl", "-o", "out.jsonl"], "/no/such.jsonl"),
        (&["score", "-i", "/no/such.jsonl", "-o", "out.jsonl"], "/no/such.jsonl"),
    ];
    let mut problems = Vec::new();
    for (args, word) in cases {
        let message = refusal(args);
        if !message.contains(word) {
            problems.push(format!("{args:?}: `{message}` does not name `{word}`"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
