//! Versions of the policy as people and the probation handle them: a bad candidate meets a share of people and is taken
//! back by their votes, versions are promoted and rolled back by hand, and receivers of webhooks are told. Leaves the good
//! end to `learning`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use rectify_lab::data::preference_prompts;
use serde_json::{Value, json};

use crate::harness::{Server, text};
use crate::people::{BLIND_SUITE, ask, chat, run_in, serving, thumb, vote, with};

/// A trainer that goes wrong, a gate that lets everything through, and a probation that lasts.
const CONFIG: &str = "
shadow: {enabled: true, automatic: false, algorithm: dpo, threads: 2, priority: normal}
dpo: {learning_rate: 0.05, lr_scheduler_type: constant, max_steps: 4, per_device_train_batch_size: 4, report_to: none}
probation: {share: 0.5, limits: {min_observations: 10}}
quality: {stop: {min_accuracy: 0.0}}
";
const PATIENCE: Duration = Duration::from_secs(120);

/// A webhook's receiver: kinds of events with their signatures.
async fn receiver() -> (String, Arc<Mutex<Vec<(String, String, Value)>>>) {
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let told = Arc::clone(&seen);
    let receive = move |headers: HeaderMap, body: Bytes| async move {
        let header = |name: &str| headers[name].to_str().unwrap().to_owned();
        let event: Value = serde_json::from_slice(&body).unwrap();
        told.lock().unwrap().push((header("x-rectify-event"), header("x-rectify-signature"), event));
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/hook", post(receive))).await });
    (url, seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_candidate_is_taken_back_by_the_people_who_meet_it() {
    let (url, told) = receiver().await;
    let data = tempfile::tempdir().unwrap();
    let (config, suite) = (data.path().join("rectify.yaml"), data.path().join("suite.yaml"));
    std::fs::write(&suite, BLIND_SUITE).unwrap();
    let hooks = format!(
        "webhooks: [{{url: '{url}', events: [candidate, published, rolled_back, promoted], secret: s3cret}}]"
    );
    let gate = format!("gate: {{suite: {}, probation: 1h}}", suite.display());
    std::fs::write(&config, format!("{CONFIG}{gate}\n{hooks}\n")).unwrap();
    let server = Server::at(data.path(), &["--config", config.to_str().unwrap()]).await;

    let items = preference_prompts(400, 77);
    for (number, item) in items.iter().take(24).enumerate() {
        let person = format!("voter-{number}");
        let answer = ask(&server, with(chat(&item.prompt, &person), json!({"n": 2}))).await;
        vote(&server, &answer, &person, "comparison", json!({"better": 0, "worse": 1})).await;
    }
    let run = server.post("/v1/training/runs", json!({"by": "ann"})).await.ok();
    assert_eq!((&run["trigger"], &run["state"]), (&json!("ann"), &json!("snapshot")));
    let message = server.post("/v1/training/runs", json!({})).await.refused(409);
    assert!(message.contains("has not ended"), "{message}");
    let run = run_in(&server, &["probation"], PATIENCE).await;
    assert_eq!(run["version"], "demo@1");
    tokio::time::sleep(Duration::from_millis(1500)).await;

    // People meet one of both and say what they think of it.
    let mut arms: BTreeMap<String, usize> = BTreeMap::new();
    for (number, item) in items.iter().enumerate().skip(24) {
        let person = format!("p-{}", number % 60);
        let answer = ask(&server, chat(&item.prompt, &person)).await;
        let version = text(&answer["system_fingerprint"]);
        *arms.entry(format!("{person} {version}")).or_default() += 1;
        vote(&server, &answer, &person, "thumb", thumb(item, &answer)).await;
        let is_over = async || server.get("/v1/training/runs").await.ok()["data"][0]["state"] != "probation";
        if number % 20 == 0 && is_over().await {
            break;
        }
    }
    let run = run_in(&server, &["rolled_back"], PATIENCE).await;
    let reason = text(&run["detail"]["reason"]);
    println!("{reason}");
    assert!(reason.contains("of the candidate is"), "{run}");
    serving(&server, "demo@base").await;
    let people: Vec<&str> = arms.keys().map(|key| key.split(' ').next().unwrap()).collect();
    let of_candidate = arms.keys().filter(|key| key.ends_with("demo@1")).count();
    assert!((10..=50).contains(&of_candidate), "{of_candidate} of {} people met the candidate", people.len());

    // What the probation refused can still be promoted, and taken back, by hand.
    let pointer = server.post("/v1/adapters/demo/1/promote", json!({"by": "ann"})).await.ok();
    assert_eq!((&pointer["active"], &pointer["previous"]), (&json!("demo@1"), &json!("demo@base")));
    serving(&server, "demo@1").await;
    assert!(server.post("/v1/adapters/demo/1/promote", json!({})).await.refused(409).contains("already"));
    assert!(server.post("/v1/adapters/demo/9/promote", json!({})).await.refused(404).contains("demo@9"));
    let explicit = server.post(
        "/v1/chat/completions",
        json!({"model": "demo@base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}),
    );
    assert_eq!(explicit.await.ok()["system_fingerprint"], "demo@base");
    let pointer = server.post("/v1/adapters/demo/rollback", json!({"by": "ann"})).await.ok();
    assert_eq!(pointer["active"], "demo@base");
    serving(&server, "demo@base").await;
    assert!(
        server
            .post("/v1/adapters/demo/rollback", json!({}))
            .await
            .refused(409)
            .contains("nothing to roll back")
    );
    assert!(server.metric("rectify_swaps_total", "").await >= 2.0);
    assert!(server.metric("rectify_rollbacks_total", "").await >= 2.0);

    // A second server on the same store follows, and so does the first when the command line moves the pointer.
    let second = Server::at(data.path(), &[]).await;
    server.post("/v1/adapters/demo/1/promote", json!({"by": "ann"})).await.ok();
    serving(&second, "demo@1").await;
    let told_by = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rectify"));
        let done = command
            .args(["adapters", "--data-dir", data.path().to_str().unwrap()])
            .args(args)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    assert_eq!(told_by(&["rollback", "demo"]), "demo@base is active\n");
    serving(&server, "demo@base").await;
    serving(&second, "demo@base").await;

    // A version that is not whole is not served by a server that starts, unless its operator says so.
    told_by(&["promote", "demo@1"]);
    second.kill();
    let weights = data.path().join("adapters/demo/1/adapter_model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    std::fs::remove_dir_all(data.path().join("cache")).unwrap();
    let start = |options: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rectify"));
        command
            .args(["serve", "--port", "0", "--data-dir", data.path().to_str().unwrap()])
            .args(options)
            .output()
            .unwrap()
    };
    let refused = String::from_utf8(start(&[]).stderr).unwrap();
    assert!(refused.contains("cannot be served") && refused.contains("serve_base"), "{refused}");

    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let told = told.lock().unwrap().clone();
        let kinds: Vec<&str> = told.iter().map(|(kind, ..)| kind.as_str()).collect();
        if kinds.starts_with(&["candidate", "published", "rolled_back", "promoted", "rolled_back"]) {
            assert!(
                told.iter()
                    .all(|(_, signature, event)| signature.starts_with("sha256=") && event["seq"].is_i64())
            );
            break;
        }
        assert!(Instant::now() < deadline, "{kinds:?}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
