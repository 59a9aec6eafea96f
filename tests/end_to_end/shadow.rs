//! `rectify shadow`, a process of its own, beside a server on the same store and registry: it learns, the server follows. Once
//! on one machine's files, once as on two machines, over PostgreSQL (where the tests have one) and S3. Leaves the loop inside
//! a server to `learning`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rectify_lab::data::preference_prompts;
use serde_json::json;

use crate::harness::{Server, text};
use crate::people::{BLIND_SUITE, ask, chat, run_in, serving, vote, with};
use crate::postgres::Database;
use crate::s3;

/// Training of a moment.
const CONFIG: &str = "
shadow: {automatic: false, algorithm: dpo, threads: 1, priority: normal}
dpo: {max_steps: 3, lora_r: 2, per_device_train_batch_size: 4, report_to: none}
probation: {share: 0.5, min_answers: 1}
quality: {stop: {min_accuracy: 0.0}}
";
const PATIENCE: Duration = Duration::from_secs(60);

/// A process of `rectify shadow`; killed when dropped.
struct Trainer(Child);

impl Trainer {
    fn start(data: &Path, config: &str, variables: &[(&str, &str)]) -> Self {
        let log = std::fs::File::create(data.join("shadow.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_rectify"))
            .args(["shadow", "--config", config, "--data-dir", data.to_str().unwrap(), "--threads", "1"])
            .envs(variables.iter().copied())
            .current_dir(data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Self(child.unwrap())
    }

    /// Asked to end, it does.
    fn end(mut self) -> Option<i32> {
        Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Votes for a server become a version that its neighbour trains; both have data folders of their own.
async fn a_neighbour_teaches(store: &str, registry: &str, variables: &[(&str, &str)]) {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [data, neighbour] = folders.each_ref().map(tempfile::TempDir::path);
    let (config, suite) = (data.join("rectify.yaml"), data.join("suite.yaml"));
    std::fs::write(&suite, BLIND_SUITE).unwrap();
    let places = format!(
        "gate: {{suite: {}, probation: 1s}}\nstore: {{url: '{store}'}}\nregistry: {{url: '{registry}'}}\n",
        suite.display()
    );
    std::fs::write(&config, format!("{CONFIG}{places}")).unwrap();
    let config = config.to_str().unwrap();
    let server = Server::within(data, &["--config", config], variables).await;
    let trainer = Trainer::start(neighbour, config, variables);

    let items = preference_prompts(200, 31);
    for (number, item) in items.iter().take(16).enumerate() {
        let person = format!("voter-{number}");
        let answer = ask(&server, with(chat(&item.prompt, &person), json!({"n": 2}))).await;
        vote(&server, &answer, &person, "comparison", json!({"better": 0, "worse": 1})).await;
    }
    server.post("/v1/training/runs", json!({"by": "ann"})).await.ok();
    run_in(&server, &["published", "probation"], PATIENCE).await;
    // People go on asking until it is over; half of them meet the candidate, once the server has seen that there is one.
    let (mut met, asking) = (0, Instant::now());
    for (number, item) in items.iter().cycle().enumerate().skip(16) {
        let answer = ask(&server, chat(&item.prompt, &format!("p-{number}"))).await;
        met += usize::from(text(&answer["system_fingerprint"]) == "demo@1");
        if server.get("/v1/adapters/demo").await.ok()["active"] == "demo@1" || asking.elapsed() > PATIENCE {
            break;
        }
    }
    assert!(met > 0, "nobody met the candidate");
    let run = run_in(&server, &["kept"], PATIENCE).await;
    assert_eq!((&run["version"], &run["algorithm"]), (&json!("demo@1"), &json!("dpo")));
    for measurement in ["length", "reward"] {
        assert!(run["detail"]["comparison"]["canary"][measurement]["n"].as_u64() >= Some(1), "{run}");
    }
    serving(&server, "demo@1").await;
    let version = server.get("/v1/adapters/demo/1").await.ok();
    assert_eq!((&version["serving"], &version["gate_report"]["verdict"]), (&json!("active"), &json!("pass")));
    assert!(neighbour.join("training").exists() && !data.join("training").exists(), "who trained");
    assert_eq!(
        trainer.end(),
        Some(130),
        "{}",
        std::fs::read_to_string(neighbour.join("shadow.log")).unwrap()
    );

    // A server that was not there finds the version where it is kept.
    server.kill();
    let late = tempfile::tempdir().unwrap();
    let server = Server::within(late.path(), &["--config", config], variables).await;
    serving(&server, "demo@1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_trainer_of_its_own_teaches_the_server_beside_it() {
    let shared = tempfile::tempdir().unwrap();
    let at = |kind: &str, name: &str| format!("{kind}://{}", shared.path().join(name).display());
    a_neighbour_teaches(&at("sqlite", "feedback.db"), &at("file", "adapters"), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_that_share_a_database_and_a_bucket_share_what_is_learnt() {
    let endpoint = s3::serve().await;
    let variables = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let registry = format!("s3://{}/versions", s3::BUCKET);
    let shared = tempfile::tempdir().unwrap();
    let database = Database::create().await;
    let file = format!("sqlite://{}", shared.path().join("feedback.db").display());
    let store = database.as_ref().map_or(file.as_str(), |database| &database.url);
    a_neighbour_teaches(store, &registry, &variables).await;
    if let Some(database) = database {
        database.remove().await;
    }
}
