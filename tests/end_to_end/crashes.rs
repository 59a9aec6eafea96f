//! Kill -9 while people vote and the loop learns: whatever it was doing, the next process goes on or lets go, publishes
//! nothing by halves, and has lost no vote that was acknowledged. Leaves single states in every order to the trainer's tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rectify_feedback::store::{Store, VoteFilter};
use rectify_lab::data::preference_prompts;
use rectify_lab::rng::{index, rng_for};
use rectify_trainer::registry::{GATE_REPORT, Registry};
use rectify_trainer::shadow::State;
use serde_json::{Value, json};

use crate::harness::{Server, text};

/// Processes that are killed.
const LIVES: usize = 50;
/// The longest of them lives so long.
const LIFE: Duration = Duration::from_millis(2500);
const SEED: u64 = 5;

/// Training of a moment, a gate of a moment, and votes that nobody minds.
const CONFIG: &str = "
shadow: {enabled: true, algorithm: dpo, every: 0s, min_records: 2, threads: 1, priority: normal}
dpo: {learning_rate: 1.0e-4, lora_r: 2, max_steps: 3, per_device_train_batch_size: 2, save_steps: 1, report_to: none}
probation: {share: 0.5, min_answers: 0}
quality:
  dedup: {keep: 1000}
  caps: {per_person: 100000, per_hour: 100000}
  flood: {votes: 100000, texts: 100000}
  campaign: {max_prompts: 100000, max_prompts_per_person: 100000}
  stop: {max_suspect: 1.0, min_accuracy: 0.0}
";
const SUITE: &str = "
name: moment
prompts: {hello: {list: [{prompt: 'What is 3 plus 4?'}]}}
checks: [{length: {prompts: hello, min_ratio: 0, max_ratio: 1000}}]
";

/// People vote one after the other; votes that were acknowledged are written down.
async fn people(server: &Server, life: usize, acknowledged: &Mutex<BTreeSet<String>>, stop: &AtomicBool) {
    for (number, item) in preference_prompts(10_000, (SEED + life as u64) << 8).iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let person = format!("u-{life}-{number}");
        let asked = json!({"model": "demo", "n": 2, "seed": number, "user": person, "max_tokens": 24,
            "messages": [{"role": "user", "content": item.prompt}]});
        let url = |path: &str| format!("{}{path}", server.url);
        let post = |path: &str, body| server.http.post(url(path)).json(&body).send();
        // The server may die in the middle of anything.
        let Ok(answer) = post("/v1/chat/completions", asked).await else { return };
        let Ok(answer) = answer.json::<Value>().await else { return };
        let vote = json!({"completion_id": answer["id"], "kind": "comparison", "user": person,
            "value": {"better": 0, "worse": 1}});
        let Ok(stored) = post("/v1/feedback", vote).await else { return };
        if stored.status() == 201
            && let Ok(stored) = stored.json::<Value>().await
        {
            acknowledged.lock().unwrap().insert(text(&stored["id"]).to_owned());
        }
    }
}

/// What any process would find now must be whole.
async fn check(data: &Path, acknowledged: &BTreeSet<String>) -> Option<State> {
    let store = Store::open(&format!("sqlite://{}", data.join("feedback.db").display())).await.unwrap();
    store.check().await.unwrap();
    let votes = store.feedback(&VoteFilter::default()).await.unwrap();
    let kept: BTreeSet<&str> = votes.iter().map(|vote| vote.id.as_str()).collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|id| !kept.contains(id.as_str())).collect();
    assert!(lost.is_empty(), "{} acknowledged votes are lost: {lost:?}", lost.len());

    let registry = Registry::open(&format!("file://{}", data.join("adapters").display())).unwrap();
    let pointer = store.serving("demo").await.unwrap().unwrap_or_default();
    for version in pointer.version.iter().chain(&pointer.canary) {
        let version: u64 = version.parse().unwrap();
        registry.fetch("demo", version, &data.join("checked")).await.unwrap();
        let report =
            registry.get("demo", version, GATE_REPORT).await.unwrap().expect("judged before it is served");
        let report: Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["verdict"], "pass", "{report}");
    }
    let runs = store.runs(100).await.unwrap();
    let open: Vec<State> =
        runs.iter().map(|run| run.state.parse().unwrap()).filter(|state: &State| !state.is_final()).collect();
    assert!(open.len() <= 1, "{open:?}");
    let failed = runs.iter().find(|run| run.state == State::Failed.as_str());
    assert!(failed.is_none(), "{failed:?}");
    store.close().await;
    open.first().copied()
}

/// Somebody approves what waits for it.
async fn approve(server: &Server) {
    let runs = server.get("/v1/training/runs").await.ok();
    let run = &runs["data"][0];
    if run["state"] == State::AwaitingApproval.as_str() {
        let path = format!("/v1/training/runs/{}/approve", text(&run["id"]));
        server.post(&path, json!({"by": "ann"})).await.ok();
    }
}

/// Lets a process live until its run is in `state`, or for a moment without one.
async fn live(server: &Server, state: Option<State>, moment: Duration) {
    let deadline = Instant::now() + state.map_or(moment, |_| 4 * LIFE);
    while Instant::now() < deadline {
        if let Some(state) = state {
            let runs = server.get("/v1/training/runs").await.ok();
            if runs["data"][0]["state"] == state.as_str() {
                return;
            }
        } else {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_again_and_again_loses_nothing_and_publishes_nothing_by_halves() {
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("rectify.yaml");
    let suite = data.path().join("suite.yaml");
    std::fs::write(&suite, SUITE).unwrap();
    let gate = format!("{CONFIG}gate: {{suite: {}, probation: 200ms}}\n", suite.display());
    std::fs::write(&config, gate).unwrap();
    let options = ["--config", config.to_str().unwrap(), "--threads", "1"];
    let asks_people = [("RECTIFY_SHADOW__APPROVAL", "manual")];
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let mut rng = rng_for(SEED, "kill");
    let mut killed_in: BTreeMap<&str, usize> = BTreeMap::new();
    let mut aims: Vec<State> = State::ALL.iter().copied().filter(|state| !state.is_final()).collect();
    for life in 0..LIVES {
        let aim = aims.pop();
        let variables = if aim == Some(State::AwaitingApproval) { &asks_people[..] } else { &[] };
        let server = Arc::new(Server::within(data.path(), &options, variables).await);
        if variables.is_empty() {
            approve(&server).await;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let voting = {
            let (server, stop, acknowledged) =
                (Arc::clone(&server), Arc::clone(&stop), Arc::clone(&acknowledged));
            tokio::spawn(async move { people(&server, life, &acknowledged, &stop).await })
        };
        let moment = Duration::from_millis(50 + index(&mut rng, LIFE.as_millis() as usize) as u64);
        live(&server, aim, moment).await;
        server.signal("KILL");
        stop.store(true, Ordering::Relaxed);
        voting.await.unwrap();
        Arc::into_inner(server).unwrap().kill();
        let known = acknowledged.lock().unwrap().clone();
        let state = check(data.path(), &known).await;
        *killed_in.entry(state.map_or("idle", State::as_str)).or_default() += 1;
    }
    let server = Server::at(data.path(), &options).await;
    approve(&server).await;
    let deadline = Instant::now() + Duration::from_secs(120);
    let runs = loop {
        let runs = server.get("/v1/training/runs").await.ok();
        let runs = runs["data"].as_array().unwrap().clone();
        if runs.iter().all(|run| text(&run["state"]).parse::<State>().unwrap().is_final()) {
            break runs;
        }
        assert!(Instant::now() < deadline, "the run does not end: {}\n{}", runs[0], server.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    server.kill();
    let known = acknowledged.lock().unwrap().clone();
    check(data.path(), &known).await;
    let kept = runs.iter().filter(|run| run["state"] == "kept").count();
    println!("{LIVES} kills, in {killed_in:?}; {} votes kept; {} runs, {kept} kept", known.len(), runs.len());
    assert!(kept > 0, "no run came to its end");
    for state in [State::Training, State::Validating, State::AwaitingApproval, State::Probation] {
        assert!(killed_in.contains_key(state.as_str()), "no process was killed in {state}: {killed_in:?}");
    }
}
