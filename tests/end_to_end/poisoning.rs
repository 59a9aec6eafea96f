//! A server under attack: people chat and vote by the oracle, a fifth lies in step, then one key floods, then a campaign
//! rewards "Excellent" repeated. Each time the quality rules stop the training run, say which rule and by how much, and
//! serving is unchanged; each time the votes under suspicion are put aside and the rest may be used again. The rules alone
//! are measured in `tests/quality`.

use std::path::Path;
use std::process::Command;

use futures::{StreamExt, stream};
use rectify_lab::data::prompts;
use rectify_lab::rng::{LabRng, chance, rng_for};
use rectify_lab::{Item, Split, judge};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server, text};
use crate::people::run_in;

const HONEST: usize = 24;
const LIARS: usize = 6;
/// Votes of one person.
const EACH: usize = 10;

/// An answer that somebody got.
struct Given {
    id: String,
    good: bool,
}

/// Asks for the best of four. The same prompt gets the same answer, whoever asks.
async fn ask(server: &Server, item: &Item, user: &str) -> Given {
    let body = json!({
        "model": "demo",
        "messages": [{"role": "user", "content": item.prompt}],
        "temperature": 1.0,
        "max_tokens": 64,
        "seed": 1,
        "user": user,
        "alignment": {"n": 4},
    });
    let answer = server.post("/v1/chat/completions", body).await.ok();
    let said = text(&answer["choices"][0]["message"]["content"]);
    Given { id: text(&answer["id"]).to_owned(), good: judge(&item.task, &item.prompt, said).good }
}

async fn vote(server: &Server, given: &Given, user: &str, kind: &str, value: Value) {
    let body = json!({"completion_id": given.id, "user": user, "kind": kind, "value": value});
    let answer = server.post("/v1/feedback", body).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
}

/// `num` people ask and vote; the answers they got.
async fn people(
    server: &Server,
    items: &[Item],
    name: &str,
    num: usize,
    says: impl Fn(bool, &mut LabRng) -> bool,
) -> Vec<Given> {
    let turns =
        (0..num * EACH).map(|turn| (format!("{name}-{}", turn / EACH), &items[turn * 7 % items.len()]));
    let asked = turns.map(|(user, item)| async move { (ask(server, item, &user).await, user) });
    let given: Vec<(Given, String)> = stream::iter(asked).buffered(16).collect().await;
    let mut rng = rng_for(1, name);
    for (given, user) in &given {
        let up = says(given.good, &mut rng);
        vote(server, given, user, "thumb", json!(if up { 1 } else { -1 })).await;
    }
    given.into_iter().map(|(given, _)| given).collect()
}

/// The report of `rectify feedback check` beside the running server, and its exit code.
fn check(store: &str, more: &[&str]) -> (Value, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rectify"));
    let output = command.args(["feedback", "check", "--json", "--store", store]).args(more).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code().unwrap();
    assert!(code < 2, "{errors}");
    (serde_json::from_slice(&output.stdout).unwrap(), code)
}

/// Greedy answers to a few prompts: what serving is.
async fn served(server: &Server, items: &[Item]) -> Vec<Value> {
    let mut answers = Vec::new();
    for item in &items[..8] {
        let body = json!({"model": "demo", "messages": [{"role": "user", "content": item.prompt}], "temperature": 0, "max_tokens": 48});
        answers.push(server.post("/v1/chat/completions", body).await.ok()["choices"].clone());
    }
    answers
}

/// The rules name `reason` for at least `least` votes and stop the run; serving stays; without the suspicious votes the
/// data may be used again.
async fn is_stopped(server: &Server, store: &str, items: &[Item], reason: &str, least: u64) -> String {
    let before = served(server, items).await;
    let (report, code) = check(store, &[]);
    let counted = report["reasons"][reason].as_u64().unwrap_or(0);
    assert!(code == 1 && counted >= least, "{reason}: {report:#}");
    let finding = report["findings"][1].clone();
    assert_eq!((&finding["check"], &finding["level"]), (&json!("suspicion"), &json!("stop")));
    assert!(finding["measured"].as_f64() > finding["limit"].as_f64(), "{finding}");

    server.post("/v1/training/runs", json!({"by": "test"})).await.ok();
    let run = run_in(server, &["rejected"], PATIENCE).await;
    let said = run.to_string();
    assert!(said.contains("under suspicion") && said.contains(reason), "{run:#}");
    assert_eq!(run["version"], Value::Null, "nothing was trained: {run:#}");
    assert_eq!(served(server, items).await, before);

    let honest = |report: &Value| report["included"].as_array().unwrap().len();
    let (report, _) = check(store, &["--quarantine"]);
    let left = honest(&report);
    let (report, code) = check(store, &[]);
    assert_eq!((code, honest(&report)), (0, left), "{report:#}");
    text(&finding["message"]).to_owned()
}

fn config(folder: &Path) -> (String, String) {
    let store = format!("sqlite://{}", folder.join("votes.db").display());
    let path = folder.join("config.yaml");
    let yaml = format!("store: {{url: '{store}'}}\nshadow: {{enabled: true, automatic: false}}\n");
    std::fs::write(&path, yaml).unwrap();
    (store, path.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn three_attacks_in_a_row_are_named_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (store, config) = config(folder.path());
    let server = Server::start(&["--config", &config]).await;
    let items = prompts(Split::HeldOut, 8, 2027, "poisoning").unwrap();

    let noisy = |good: bool, rng: &mut LabRng| good != chance(rng, 0.1);
    let given = people(&server, &items, "honest", HONEST, noisy).await;
    let (report, code) = check(&store, &[]);
    assert_eq!(code, 0, "{report:#}");
    let lost = report["excluded"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|out| !["duplicate", "repeated"].contains(&text(&out["reason"])));
    assert_eq!(lost.count(), 0, "honest people are left alone: {report:#}");

    people(&server, &items, "liar", LIARS, |good, _| !good).await;
    println!("{}", is_stopped(&server, &store, &items, "unreliable", 50).await);

    for given in &given {
        vote(&server, given, "flood", "thumb", json!(-1)).await;
    }
    println!("{}", is_stopped(&server, &store, &items, "flood", 60).await);

    let praise = "Excellent! Excellent! Excellent! Excellent! Excellent!";
    for (turn, given) in given.iter().take(LIARS * EACH).enumerate() {
        vote(&server, given, &format!("fan-{}", turn / EACH), "edit", json!(praise)).await;
    }
    println!("{}", is_stopped(&server, &store, &items, "degenerate", 60).await);
}
