//! Several policies and reward models in one server: each answers as it does alone, names lead where they should, adapters and
//! versions belong to one policy, and what does not fit is refused at the start by one sentence.

use std::path::Path;

use rectify_lab::data::preference_prompts;
use rectify_trainer::registry::{Base, Provenance, Registry};
use serde_json::{Value, json};

use crate::bad_input::refusal;
use crate::harness::{Server, fixtures, model, number, text};
use crate::people::{self, BLIND_SUITE, ask, run_in, vote, with};

/// Both policies and the three reward models: two on a base or another, and one with weights of its own.
fn config() -> String {
    let at = |name: &str| model(name);
    format!(
        "
model: {{precision: float32}}
models:
  llama: {{path: {}}}
  qwen: {{path: {}, served_names: [org/qwen]}}
rewards:
  on-llama: {{path: {}}}
  on-qwen: {{path: {}, policy: org/qwen}}
  own: {{path: {}}}
reward: {{default: own}}
profiles: {{careful: {{n: 3, reward: on-qwen, return_candidates: true}}}}
cache: {{memory: 4MiB, reward_memory: 1MiB}}
",
        at("llama/policy"),
        at("qwen2/policy"),
        at("llama/reward-adapter"),
        at("qwen2/reward-adapter"),
        at("llama/reward"),
    )
}

async fn both(data: &Path, more: &str) -> Server {
    let file = data.join("rectify.yaml");
    std::fs::write(&file, config() + more).unwrap();
    Server::at(data, &["--config", file.to_str().unwrap()]).await
}

/// One policy alone, with the reward models that can be without the other.
async fn alone(name: &str, folder: &str, reward: &str) -> Server {
    let (policy, on_base, own) = (
        model(&format!("{folder}/policy")),
        model(&format!("{folder}/reward-adapter")),
        model("llama/reward"),
    );
    let rewards = [format!("own={own}"), format!("{reward}={on_base}")];
    let options = ["--policy", &policy, "--served-model-name", name, "--dtype", "float32"];
    let options = [&options[..], &["--reward", &rewards[0], "--reward", &rewards[1]]].concat();
    Server::start(&options).await
}

fn chat(model: &str, content: &str, fields: Value) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 24,
        "seed": 11, "logprobs": true, "ignore_eos": true});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// What must not depend on company.
fn essence(answer: &Value) -> Value {
    json!([
        answer["choices"],
        answer["alignment"]["candidates"],
        answer["alignment"]["selected"],
        answer["model"]
    ])
}

#[tokio::test]
async fn side_by_side_policies_answer_with_the_bits_they_have_alone() {
    let folder = tempfile::tempdir().unwrap();
    let together = both(folder.path(), "").await;
    let path = "/v1/chat/completions";
    let mut asked = Vec::new();
    for (name, reward) in [("llama", "on-llama"), ("qwen", "on-qwen")] {
        for seed in 0..3 {
            let content = format!("question number {seed}");
            asked.push(chat(name, &content, json!({"seed": seed, "n": 2})));
            let judged = json!({"n": 4, "reward": reward, "return_candidates": true});
            asked.push(chat(name, &content, json!({"seed": seed, "alignment": judged})));
            let judged = json!({"n": 4, "reward": "own", "return_candidates": true});
            asked.push(chat(name, &content, json!({"seed": seed, "alignment": judged})));
        }
    }
    let answers = asked.iter().map(|body| together.post(path, body.clone()));
    let answers: Vec<Value> =
        futures::future::join_all(answers).await.into_iter().map(|answer| answer.ok()).collect();
    for (name, folder, reward) in [("llama", "llama", "on-llama"), ("qwen", "qwen2", "on-qwen")] {
        let alone = alone(name, folder, reward).await;
        for (body, answer) in asked.iter().zip(&answers).filter(|(body, _)| body["model"] == name) {
            assert_eq!(essence(&alone.post(path, body.clone()).await.ok()), essence(answer), "{body}");
            assert_eq!(answer["system_fingerprint"], format!("{name}@base"));
        }
    }
    // A reward model on one policy's base reads the other's answers as well as its own.
    let body = chat("llama:careful", "hello", json!({}));
    let report = together.post(path, body).await.ok()["alignment"].take();
    assert_eq!((&report["reward_model"], &report["scoring"]), (&json!("on-qwen"), &json!("ok")));
    let candidates: Vec<&str> =
        report["candidates"].as_array().unwrap().iter().map(|candidate| text(&candidate["text"])).collect();
    let body = json!({"model": "on-qwen", "messages": [{"role": "user", "content": "hello"}], "candidates": candidates});
    let scored = together.post("/v1/score", body).await.ok();
    for (candidate, reward) in
        report["candidates"].as_array().unwrap().iter().zip(scored["rewards"].as_array().unwrap())
    {
        assert_eq!(number(&candidate["reward"]).to_bits(), number(reward).to_bits());
    }
    for name in ["rectify_generated_tokens_total", "rectify_time_to_first_token_seconds_count"] {
        for label in ["model=\"llama\"", "model=\"qwen\""] {
            assert!(together.metric(name, label).await > 0.0, "{name} {label}");
        }
    }
    for label in ["model=\"own\"", "model=\"on-llama\"", "model=\"on-qwen\""] {
        assert!(together.metric("rectify_scored_tokens_total", label).await > 0.0, "{label}");
    }
}

#[tokio::test]
async fn names_lead_to_models_and_unknown_ones_are_answered_with_those_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rectify.yaml");
    std::fs::write(&file, config()).unwrap();
    let small = format!("small={}", fixtures().join("gguf/llama2.gguf").display());
    let options = ["--config", file.to_str().unwrap(), "--model", &small, "--max-model-len", "96"];
    let server = Server::at(folder.path(), &options).await;
    let models = server.get("/v1/models").await.ok();
    let of_kind = |kind: &str| -> Vec<&str> {
        let models = models["data"].as_array().unwrap().iter().filter(|model| model["kind"] == kind);
        models.map(|model| text(&model["id"])).collect()
    };
    assert_eq!(of_kind("policy"), ["llama", "qwen", "org/qwen", "small"]);
    assert_eq!(of_kind("reward"), ["own", "on-llama", "on-qwen"]);
    assert!(of_kind("profile").contains(&"qwen:careful") && of_kind("profile").contains(&"llama:best-of-4"));
    assert_eq!(server.get("/v1/models/qwen:best-of-2").await.ok()["parent"], "qwen");

    // Without a name the default policy answers, which has the name `policy`, too.
    for (name, served) in [
        ("", "llama"),
        ("policy", "llama"),
        ("llama@base", "llama"),
        ("org/qwen", "qwen"),
        ("qwen@base", "qwen"),
    ] {
        let answer = server.post("/v1/chat/completions", chat(name, "hi", json!({}))).await.ok();
        assert_eq!(answer["system_fingerprint"], format!("{served}@base"), "{name}");
    }
    let unknown = |path: &'static str, body: Value| server.post(path, body);
    for (path, body) in [
        ("/v1/chat/completions", chat("gpt-9", "hi", json!({}))),
        ("/v1/completions", json!({"model": "gpt-9", "prompt": "hi"})),
        ("/v1/responses", json!({"model": "gpt-9", "input": "hi"})),
        ("/tokenize", json!({"model": "gpt-9", "prompt": "hi"})),
        ("/detokenize", json!({"model": "gpt-9", "tokens": [5]})),
    ] {
        let message = unknown(path, body).await.refused(404);
        assert_eq!(
            message,
            "the model `gpt-9` does not exist; the policies are `llama`, `qwen`, `small`, adapters: none",
            "{path}"
        );
    }
    let message = unknown("/v1/chat/completions", chat("own", "hi", json!({}))).await.refused(400);
    assert!(message.contains("`own` is a reward model"), "{message}");

    // Each policy has a tokenizer and a template of its own.
    let tokens = async |name: &str| {
        let body = json!({"model": name, "messages": [{"role": "user", "content": "Hello there"}]});
        server.post("/tokenize", body).await.ok()["tokens"].take()
    };
    let (llama, small) = (tokens("llama").await, tokens("small").await);
    assert_ne!(llama, small);
    for (name, tokens) in [("llama", llama), ("small", small)] {
        let back = server.post("/detokenize", json!({"model": name, "tokens": tokens})).await.ok();
        assert!(text(&back["prompt"]).contains("Hello there"), "{back}");
    }
    let body = json!({"model": "qwen", "input": "hello", "max_output_tokens": 4, "temperature": 0});
    assert_eq!(server.post("/v1/responses", body).await.ok()["status"], "incomplete");
    let streamed = chat("qwen", "hello", json!({"stream": true}));
    let whole = server.post("/v1/chat/completions", chat("qwen", "hello", json!({}))).await.ok();
    let stream = server.stream("/v1/chat/completions", streamed).await;
    assert_eq!(stream.text(0), text(&whole["choices"][0]["message"]["content"]));

    // A vote finds its answer, whichever policy gave it.
    let body = json!({"completion_id": whole["id"], "kind": "thumb", "value": 1, "user": "ann"});
    assert_eq!(server.post("/v1/feedback", body).await.status, 201);
    let record = server.get(&format!("/v1/completions/{}", text(&whole["id"]))).await.ok();
    assert_eq!((&record["model"], &record["policy_version"]), (&json!("qwen"), &json!("qwen@base")));
}

#[tokio::test]
async fn adapters_and_versions_belong_to_one_policy() {
    let data = tempfile::tempdir().unwrap();
    let registry = Registry::open(&format!("file://{}", data.path().join("adapters").display())).unwrap();
    let base = Base { name: "qwen".to_owned(), hash: "a".repeat(64) };
    let provenance = Provenance {
        base,
        algorithm: None,
        parent: None,
        snapshot: None,
        config: Value::Null,
        metrics: Default::default(),
    };
    registry.add("qwen", Path::new(&model("qwen2/lora")), provenance).await.unwrap();
    let more = format!(
        "adapters: {{tuned: {{path: {}}}, ranks: {{path: {}, policy: qwen}}}}",
        model("llama/lora"),
        model("qwen2/lora-ranks")
    );
    let server = both(data.path(), &more).await;
    let version = async |name: &str| {
        let answer = server.post("/v1/chat/completions", chat(name, "hi", json!({}))).await;
        text(&answer.ok()["system_fingerprint"]).to_owned()
    };
    assert!(
        version("tuned").await.starts_with("tuned@")
            && version("ranks:best-of-2").await.starts_with("ranks@")
    );
    let listed = server.get("/v1/adapters").await.ok();
    let owners: Vec<(&str, &str)> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|adapter| (text(&adapter["name"]), text(&adapter["base_model_name"])))
        .collect();
    assert_eq!(owners, [("ranks", "qwen"), ("tuned", "llama")]);
    for name in ["qwen@tuned", "llama@ranks"] {
        server.post("/v1/chat/completions", chat(name, "hi", json!({}))).await.refused(404);
    }

    let load = async |name: &str, path: &str, policy: Option<&str>| {
        let body = json!({"lora_name": name, "lora_path": model(path), "base_model_name": policy});
        server.post("/v1/load_lora_adapter", body).await
    };
    let loaded = load("more", "qwen2/lora", Some("org/qwen")).await.ok();
    assert_eq!((&loaded["base_model_name"], &loaded["rank"]), (&json!("qwen"), &json!(8)));
    assert_eq!(server.get("/v1/models/more").await.ok()["parent"], "qwen");
    assert!(version("more").await.starts_with("more@"));
    let message = load("more", "llama/lora", None).await.refused(400);
    assert!(message.contains("already names an adapter of the policy `qwen`"), "{message}");
    let message = load("other", "llama/lora", Some("qwen")).await.refused(400);
    assert!(message.contains("adapter_model.safetensors"), "{message}");
    let message = load("other", "llama/lora", Some("gpt-9")).await.refused(404);
    assert_eq!(message, "`gpt-9` is not a policy; these are: llama, qwen");
    let left = server.post("/v1/unload_lora_adapter", json!({"lora_name": "more"})).await.ok();
    assert_eq!(left["data"].as_array().unwrap().len(), 2);
    let message = server.post("/v1/chat/completions", chat("more", "hi", json!({}))).await.refused(404);
    assert!(message.contains("adapters: ranks, tuned"), "{message}");
    load("more", "llama/lora", Some("llama")).await.ok();

    // The active version is each policy's own.
    server.post("/v1/adapters/qwen/1/promote", json!({})).await.ok();
    for _ in 0..200 {
        if version("qwen").await == "qwen@1" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!((version("qwen").await.as_str(), version("llama").await.as_str()), ("qwen@1", "llama@base"));
    assert_eq!(version("qwen@base").await, "qwen@base");
    assert_eq!(server.get("/v1/adapters/org%2Fqwen").await.ok()["active"], "qwen@1");
    assert_eq!(server.get("/v1/adapters/llama").await.ok()["active"], "llama@base");
    server.get("/v1/adapters/gpt-9").await.refused(404);
    server.post("/v1/adapters/qwen/rollback", json!({})).await.ok();
}

#[tokio::test]
async fn one_of_them_learns_from_the_votes_on_its_own_answers() {
    let data = tempfile::tempdir().unwrap();
    let demo = fixtures().join("../../assets/demo");
    let (file, suite) = (data.path().join("rectify.yaml"), data.path().join("suite.yaml"));
    std::fs::write(&suite, BLIND_SUITE).unwrap();
    let config = format!(
        "
models: {{other: {{path: {}}}, demo: {{path: {}}}}}
default_model: other
rewards: {{judge: {{path: {}, policy: demo}}}}
shadow: {{enabled: true, automatic: false, policy: demo, algorithm: dpo, threads: 2, priority: normal}}
dpo: {{max_steps: 2, per_device_train_batch_size: 4, report_to: none}}
quality: {{stop: {{min_accuracy: 0.0}}}}
gate: {{suite: {}, probation: 1h}}
probation: {{share: 0.5}}
",
        model("llama/policy"),
        demo.join("policy").display(),
        demo.join("reward").display(),
        suite.display(),
    );
    std::fs::write(&file, config).unwrap();
    let server = Server::at(data.path(), &["--config", file.to_str().unwrap()]).await;
    const VOTES: usize = 16;
    for name in ["demo", "other"] {
        for (number, item) in preference_prompts(VOTES, 77).iter().enumerate() {
            let person = format!("voter-{number}");
            let two = with(people::chat(&item.prompt, &person), json!({"n": 2, "model": name}));
            let answer = ask(&server, two).await;
            vote(&server, &answer, &person, "comparison", json!({"better": 0, "worse": 1})).await;
        }
    }
    server.post("/v1/training/runs", json!({"by": "ann"})).await.ok();
    let run = run_in(&server, &["probation"], std::time::Duration::from_secs(120)).await;
    assert_eq!((&run["version"], &run["base_version"]), (&json!("demo@1"), &json!("demo@base")));
    let counts = &run["detail"]["counts"];
    let seen = number(&counts["pairs"]) + number(&counts["left_out"]);
    assert!(number(&counts["pairs"]) > 0.0 && seen <= VOTES as f64, "{counts}");
    // A share of people meets the candidate; those who ask the other policy do not.
    let mut met = std::collections::BTreeSet::new();
    for person in 0..40 {
        for name in ["demo", "other"] {
            let body =
                with(people::chat("Hello!", &format!("p-{person}")), json!({"model": name, "max_tokens": 1}));
            met.insert(text(&ask(&server, body).await["system_fingerprint"]).to_owned());
        }
    }
    assert_eq!(met.into_iter().collect::<Vec<_>>(), ["demo@1", "demo@base", "other@base"]);
}

#[tokio::test]
async fn policies_share_the_memory_so_that_all_hold_equally_many_tokens() {
    let data = tempfile::tempdir().unwrap();
    let server = both(data.path(), "").await;
    let blocks =
        async |name: &str| server.metric("rectify_kv_blocks_total", &format!("model=\"{name}\"")).await;
    let (llama, qwen) = (blocks("llama").await, blocks("qwen").await);
    assert!(llama > 0.0 && llama == qwen, "{llama} {qwen}");
    drop(server);
    let (one, two) = (format!("a={}", model("llama/policy")), format!("b={}", model("qwen2/policy")));
    let options = ["--model", &one, "--model", &two, "--dtype", "float32", "--kv-cache-memory", "4MiB"];
    let server = Server::start(&options).await;
    assert_eq!(server.metric("rectify_kv_blocks_total", "model=\"a\"").await, llama);
    let answer = server.post("/v1/completions", json!({"prompt": "hi", "max_tokens": 2})).await.ok();
    assert_eq!(answer["system_fingerprint"], "a@base", "the first is the default");
    drop(server);
    // Alone, a policy has all of it: the parts of it that both have together come to the whole.
    let mut parts = 0.0;
    for name in ["llama/policy", "qwen2/policy"] {
        let options = ["--policy", &model(name), "--dtype", "float32", "--kv-cache-memory", "4MiB"];
        let server = Server::start(&options).await;
        parts += llama / server.metric("rectify_kv_blocks_total", "").await;
    }
    assert!((0.97..=1.0).contains(&parts), "{parts}");
}

#[test]
fn what_cannot_be_served_together_is_refused_by_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (format!("a={}", model("llama/policy")), format!("b={}", model("qwen2/policy")));
    let both = ["serve", "--port", "0", "--model", &one, "--model", &two];
    let reward = format!("b={}", model("llama/reward"));
    let adapter = format!("a={}", model("llama/lora"));
    let alias = format!("policy={}", model("qwen2/policy"));
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let models = |more: &str| format!("models: {{{}}}\n", more.replace('=', ": "));
    let (llama, qwen) = (model("llama/policy"), model("qwen2/policy"));
    let too_much = write(
        "much.yaml",
        &(models(&format!("a= {{path= {llama}, kv_memory= 3MiB}}, b= {{path= {qwen}, kv_memory= 2MiB}}"))
            + "cache: {memory: 4MiB}"),
    );
    let too_long = write(
        "long.yaml",
        &(models(&format!(
            "a= {{path= {llama}}}, b= {{path= {qwen}, kv_memory= 16KiB, max_model_len= 512}}"
        )) + "cache: {memory: 4MiB}"),
    );
    let stray = write(
        "stray.yaml",
        &(models(&format!("a= {{path= {llama}}}")) + "adapters: {x: {path: y, policy: gpt-9}}"),
    );
    let learner = write(
        "learner.yaml",
        &(models(&format!("a= {{path= {llama}}}")) + "shadow: {policy: gpt-9}\nstore: {url: none}"),
    );
    let missing = format!("c={}", folder.path().join("nowhere").display());
    let extended = |more: &[&'static str]| -> Vec<String> {
        both.iter().chain(more).map(|option| (*option).to_owned()).collect()
    };
    let with = |flag: &str, value: &str| [&extended(&[])[..], &[flag.to_owned(), value.to_owned()]].concat();
    let file = |path: &str| ["serve", "--port", "0", "--config", path].map(str::to_owned).to_vec();
    let cases: Vec<(Vec<String>, &[&str])> = vec![
        (with("--kv-cache-memory", "1KiB"), &["1024 bytes of KV memory", "`a`", "`b`"]),
        (file(&too_much), &["the KV memory is 4194304 bytes", "given 5242880", "`a` 3145728, `b` 2097152"]),
        (file(&too_long), &["the policy `b`", "max_model_len is 512", "196608 bytes"]),
        (with("--reward", &reward), &["`b`", "a policy", "a reward model"]),
        (with("--adapter", &adapter), &["`a`", "a policy", "an adapter"]),
        (with("--model", &alias), &["`policy`", "always means the default policy"]),
        (with("--model", &missing), &["nowhere"]),
        (
            with("--model", &format!("c={}", model("llama/reward"))),
            &["llama/reward/config.json", "ForCausalLM"],
        ),
        (with("--served-model-name", "x"), &["`model.served_names`"]),
        (file(&stray), &["`adapters.x.policy` is `gpt-9`", "a"]),
        (file(&learner), &["`shadow.policy` is `gpt-9`"]),
    ];
    let mut problems = Vec::new();
    for (args, words) in cases {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let message = refusal(&args);
        let unnamed = words.iter().filter(|word| !message.contains(**word));
        problems.extend(unnamed.map(|word| format!("`{message}` does not name `{word}`")));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
