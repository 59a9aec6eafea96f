//! Models by their hub id: downloaded once, served offline, resumed, refused by one sentence; against a hub of our own.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Server, model, rectify, run, text};
use crate::hub_server::{HubServer, Mishap, TOKEN};

const WEIGHTS: &str = "model-00002-of-00004.safetensors";
const MODEL: [&str; 10] = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model-00001-of-00004.safetensors",
    WEIGHTS,
    "model-00003-of-00004.safetensors",
    "model-00004-of-00004.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Names and values.
type Variables<'a> = &'a [(&'a str, &'a str)];

/// A hub with the `llama` fixtures, and a home for its cache.
struct Setting {
    hub: HubServer,
    home: tempfile::TempDir,
}

impl Setting {
    async fn new() -> Self {
        let hub = HubServer::start().await;
        hub.publish("tiny/llama", 'a', &model("llama/policy"), &[]);
        hub.publish("tiny/reward-adapter", 'b', &model("llama/reward-adapter"), &[]);
        hub.publish("tiny/gated", 'c', &model("llama/policy"), &[]);
        Self { hub, home: tempfile::tempdir().unwrap() }
    }

    fn variables(&self) -> [(&str, &str); 3] {
        // A proxy of the machine's must not come between.
        [("HF_HOME", self.home.path().to_str().unwrap()), ("HF_ENDPOINT", &self.hub.url), ("NO_PROXY", "*")]
    }

    fn repository(&self) -> PathBuf {
        self.home.path().join("hub/models--tiny--llama")
    }

    async fn serve(&self, options: &[&str], more: Variables<'_>) -> Server {
        let data = self.home.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        Server::within(&data, options, &[&self.variables(), more].concat()).await
    }

    /// What a command that must not succeed says.
    fn refusal(&self, options: &[&str], more: Variables<'_>) -> String {
        let variables = [&self.variables(), more].concat();
        let mut command = rectify(self.home.path(), &[&["serve", "--port", "0"], options].concat());
        let output = command.env_remove("HF_TOKEN").envs(variables).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let sentence = said.lines().last().unwrap().to_owned();
        assert!(sentence.starts_with("rectify: "), "{said}");
        sentence
    }
}

fn names(mut fetched: Vec<(String, usize)>) -> Vec<String> {
    fetched.sort();
    fetched.into_iter().map(|(name, _)| name).collect()
}

async fn answer(server: &Server) -> Value {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let body =
        json!({"messages": messages, "model": "tiny/llama", "max_tokens": 8, "seed": 1, "logprobs": true});
    server.post("/v1/chat/completions", body).await.ok()["choices"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_of_the_hub_is_downloaded_once_and_served_offline() {
    let setting = Setting::new().await;
    let models = ["--policy", "tiny/llama", "--reward", "helpful=tiny/reward-adapter", "--dtype", "float32"];
    let server = setting.serve(&models, &[]).await;
    let mut wanted: Vec<&str> = MODEL.to_vec();
    wanted.extend(std::fs::read_dir(model("llama/reward-adapter")).unwrap().map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        &*name.leak()
    }));
    wanted.sort_unstable();
    assert_eq!(names(setting.hub.fetched()), wanted);
    let first = answer(&server).await;
    let listed = server.get("/v1/models/tiny/llama").await.ok();
    assert_eq!(text(&listed["id"]), "tiny/llama");
    drop(server);

    // The layout that Python's library documents.
    let repository = setting.repository();
    let commit = "a".repeat(40);
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), commit);
    let refs: Vec<_> = std::fs::read_dir(repository.join("refs")).unwrap().collect();
    assert_eq!(refs.len(), 1, "{refs:?}");
    let config = std::fs::read_link(repository.join("snapshots").join(&commit).join("config.json")).unwrap();
    assert!(config.starts_with("../../blobs"), "{config:?}");

    let local = Server::start(&["--policy", &model("llama/policy"), "--dtype", "float32"]).await;
    let mut request = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "seed": 1});
    request["model"] = "policy".into();
    request["logprobs"] = true.into();
    assert_eq!(local.post("/v1/chat/completions", request).await.ok()["choices"], first);

    // Not by its number: the harness takes the first such address in the log for the server's.
    let nowhere = ("HF_ENDPOINT", "http://localhost:9");
    let offline = setting.serve(&models, &[("HF_HUB_OFFLINE", "1"), nowhere]).await;
    assert_eq!(answer(&offline).await, first);
    drop(offline);
    // A hub that is away keeps nobody from what is there.
    let away = setting.serve(&models, &[nowhere]).await;
    assert!(away.log().contains("cannot be reached, so what is in the cache is taken"), "{}", away.log());
    assert_eq!(answer(&away).await, first);
    assert!(setting.hub.fetched().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_commit_costs_what_changed() {
    let setting = Setting::new().await;
    let models = ["--policy", "tiny/llama", "--dtype", "float32"];
    drop(setting.serve(&models, &[]).await);
    setting.hub.fetched();
    drop(setting.serve(&models, &[]).await);
    assert!(setting.hub.fetched().is_empty(), "the same commit is there already");
    let changed = [("generation_config.json", r#"{"eos_token_id": 0, "max_new_tokens": 3}"#)];
    setting.hub.publish("tiny/llama", 'd', &model("llama/policy"), &changed);
    drop(setting.serve(&models, &[]).await);
    assert_eq!(names(setting.hub.fetched()), ["generation_config.json"]);
    assert_eq!(std::fs::read_to_string(setting.repository().join("refs/main")).unwrap(), "d".repeat(40));
    // The old one is still known by its commit.
    let old = format!("tiny/llama@{}", "a".repeat(40));
    let server = setting.serve(&["--policy", &old, "--dtype", "float32"], &[("HF_HUB_OFFLINE", "1")]).await;
    answer(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_breaks_off_goes_on_from_there() {
    let setting = Setting::new().await;
    setting.hub.expect(WEIGHTS, &[Mishap::BreaksAfter(70_000), Mishap::BreaksAfter(30_000)]);
    let models = ["--policy", "tiny/llama", "--dtype", "float32"];
    let server = setting.serve(&models, &[]).await;
    let from = |fetched: Vec<(String, usize)>| -> Vec<usize> {
        fetched.into_iter().filter(|(name, _)| name == WEIGHTS).map(|(_, start)| start).collect()
    };
    // What was on its way when a connection closed may be lost.
    let starts = from(setting.hub.fetched());
    let [0, second, third] = starts[..] else { panic!("{starts:?}") };
    assert!(0 < second && second <= 70_000 && second <= third && third <= second + 30_000, "{starts:?}");
    let whole = answer(&server).await;
    drop(server);

    // The same when the process dies in the middle.
    std::fs::remove_dir_all(setting.home.path().join("hub")).unwrap();
    setting.hub.expect(WEIGHTS, &[Mishap::StallsAfter(50_000)]);
    let mut command = rectify(setting.home.path(), &["serve", "--port", "0", "--policy", "tiny/llama"]);
    let mut child = command.envs(setting.variables()).stderr(std::process::Stdio::null()).spawn().unwrap();
    setting.hub.wait_for_a_stall().await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!setting.repository().join("refs/main").exists(), "a commit that is not whole is no revision");
    let sentence = setting.refusal(&["--policy", "tiny/llama"], &[("HF_HUB_OFFLINE", "1")]);
    assert!(sentence.contains("nor whole in the hub's cache"), "{sentence}");
    setting.hub.fetched();
    let server = setting.serve(&models, &[]).await;
    let starts = from(setting.hub.fetched());
    assert!(starts.len() == 1 && starts[0] > 0 && starts[0] <= 50_000, "{starts:?}");
    assert_eq!(answer(&server).await, whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_hub_does_not_give_is_one_sentence() {
    let setting = Setting::new().await;
    let hub = setting.hub.url.clone();
    let cases: [(&str, Variables<'_>, &[&str]); 6] = [
        ("tiny/lama", &[], &["tiny/lama", &hub, "check the name"]),
        ("tiny/llama@v9", &[], &["tiny/llama@v9", "revision `v9`"]),
        ("tiny/gated", &[], &["tiny/gated: is gated", "set HF_TOKEN"]),
        ("tiny/gated", &[("HF_TOKEN", "wrong")], &["is gated", "give HF_TOKEN a token"]),
        ("tiny/llama", &[("HF_HUB_OFFLINE", "1")], &["neither a folder here", "HF_HUB_OFFLINE"]),
        (
            "tiny/llama",
            &[("HF_ENDPOINT", "http://127.0.0.1:9")],
            &["http://127.0.0.1:9", "check the connection"],
        ),
    ];
    for (policy, variables, words) in cases {
        let sentence = setting.refusal(&["--policy", policy], variables);
        assert!(words.iter().all(|word| sentence.contains(word)), "{policy}: {sentence}");
    }
    let sentence = setting.refusal(&["--adapter", "polite=tiny/llama"], &[]);
    assert!(sentence.contains("tiny/llama: holds no adapter"), "{sentence}");
    // Nothing of the refused was fetched, and the right token is enough.
    assert!(setting.hub.fetched().is_empty());
    let server = setting.serve(&["--policy", "tiny/gated"], &[("HF_TOKEN", TOKEN)]).await;
    server.get("/v1/models/tiny/gated").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn training_starts_from_the_hub_too_and_its_adapter_says_so() {
    let setting = Setting::new().await;
    let folder = setting.home.path();
    std::fs::write(folder.join("data.jsonl"), r#"{"prompt": "one", "completion": " two"}"#).unwrap();
    let options = ["train", "sft", "--policy", "tiny/llama", "--data", "data.jsonl", "--output", "out"];
    let more = ["--use-peft", "--max-steps", "1", "--lora-r", "2", "--progress", "never"];
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rectify"))
        .args(options)
        .args(more)
        .current_dir(folder)
        .envs(setting.variables())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let config = std::fs::read_to_string(Path::new(folder).join("out/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(text(&config["base_model_name_or_path"]), "tiny/llama");
    // What is a folder is never asked for.
    setting.hub.fetched();
    std::fs::create_dir(folder.join("tiny")).unwrap();
    std::os::unix::fs::symlink(model("llama/policy"), folder.join("tiny/llama")).unwrap();
    run(folder, &["train", "sft", "--policy", "tiny/llama", "--data", "data.jsonl", "--dry-run"]);
    assert!(setting.hub.fetched().is_empty());
}
