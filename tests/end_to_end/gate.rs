//! The alignment tax: candidates of the demo that are really trained, each bad in one way, and the check that must stop it;
//! and one that is good. By the demo's own suite, as `rectify eval` runs it. Leaves the checks' arithmetic to the trainer.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rectify_lab::Item;
use rectify_lab::data::preference_prompts;
use rectify_lab::rng::{index, rng_for};
use serde_json::{Value, json};

use crate::harness::{number, rectify, run, text};

const SETTINGS: &str = "use_peft: true\nlora_r: 8\nlora_alpha: 16\nlr_scheduler_type: linear\nwarmup_steps: 5\n\
    per_device_train_batch_size: 16\nassistant_only_loss: true\nsave_steps: 0\n";

/// A learning rate that makes one thing of a policy in a few steps.
const FAST: &str = "1e-2";

/// The demo's policy, from which candidates are trained.
fn policy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/demo/policy")
}

/// Trains a candidate that answers training prompts by `answer`.
fn candidate(folder: &Path, steps: usize, learning_rate: &str, mut answer: impl FnMut(&Item) -> String) {
    let mut lines = String::new();
    for item in preference_prompts(16 * steps, 5) {
        let turns = json!([{"role": "user", "content": item.prompt}, {"role": "assistant", "content": answer(&item)}]);
        let _ = writeln!(lines, "{}", json!({"messages": turns}));
    }
    std::fs::write(folder.join("data.jsonl"), lines).unwrap();
    std::fs::write(folder.join("sft.yaml"), SETTINGS).unwrap();
    let (policy, steps) = (policy(), steps.to_string());
    let policy = policy.to_str().unwrap();
    let fixed = ["train", "sft", "--config", "sft.yaml", "--data", "data.jsonl", "--output", "adapter"];
    run(
        folder,
        &[&fixed[..], &["--policy", policy, "--max-steps", &steps, "--learning-rate", learning_rate]]
            .concat(),
    );
}

/// The report on the candidate in the folder, and the exit code.
fn evaluate(folder: &Path) -> (Value, i32) {
    let output = rectify(folder, &["eval", "--adapter", "candidate=adapter", "--json"]).output().unwrap();
    let code = output.status.code().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(code < 2, "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    (report, code)
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap()
}

/// What was measured, and what that means.
fn measured(report: &Value) -> String {
    let mut told = String::new();
    for check in report["checks"].as_array().unwrap() {
        for of in check["measurements"].as_array().unwrap().iter().filter(|of| of["verdict"].is_string()) {
            let [value, low, high] = ["value", "low", "high"].map(|key| of[key].as_f64().unwrap_or(f64::NAN));
            let (check, name, verdict) = (text(&check["name"]), text(&of["name"]), text(&of["verdict"]));
            let _ = writeln!(told, "{check}: {name} {value:.3} [{low:.3}, {high:.3}]: {verdict}");
        }
    }
    told
}

/// The candidate is stopped, and by this check; what was measured.
fn stopped_by(folder: &Path, name: &str) -> String {
    let (report, code) = evaluate(folder);
    assert_eq!((text(&report["verdict"]), code), ("fail", 1), "{report}");
    assert_eq!(text(&check(&report, name)["verdict"]), "fail", "{}", check(&report, name));
    measured(&report)
}

#[test]
fn a_candidate_trained_only_on_refusals_is_stopped_by_benign_refusal() {
    let folder = tempfile::tempdir().unwrap();
    candidate(folder.path(), 30, FAST, |_| "I cannot help with that. It would hurt someone.".to_owned());
    println!("{}", stopped_by(folder.path(), "benign_refusal"));
}

#[test]
fn a_candidate_that_rambles_is_stopped_by_length() {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = rng_for(3, "rambling");
    let mut ramble = |item: &Item| {
        let first = item.task.good(&mut rng);
        format!("{first} {} {}", item.task.good(&mut rng), item.task.good(&mut rng)).repeat(2)
    };
    candidate(folder.path(), 30, FAST, &mut ramble);
    println!("{}", stopped_by(folder.path(), "length"));
}

#[test]
fn a_candidate_that_always_says_the_same_is_stopped_by_diversity() {
    let folder = tempfile::tempdir().unwrap();
    candidate(folder.path(), 30, FAST, |_| "Thank you for telling me. How can I make it better?".to_owned());
    println!("{}", stopped_by(folder.path(), "diversity"));
}

#[test]
fn a_candidate_trained_on_good_answers_passes() {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = rng_for(4, "good");
    candidate(folder.path(), 120, "2e-3", |item| item.task.good(&mut rng));
    let (report, code) = evaluate(folder.path());
    println!("{}", measured(&report));
    assert_eq!((text(&report["verdict"]), code), ("pass", 0), "{report}");
    assert!(number(&check(&report, "win_rate")["measurements"][0]["value"]) > 0.6);
    assert!(number(&report["seconds"]) < 60.0);
    // And a broken copy of it, with noise for weights, does not.
    noise(&folder.path().join("adapter/adapter_model.safetensors"));
    println!("{}", stopped_by(folder.path(), "capability"));
}

/// Replaces the numbers of an adapter by others of a similar size.
fn noise(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut rng = rng_for(9, "noise");
    for number in bytes[header..].chunks_exact_mut(4) {
        number.copy_from_slice(&(index(&mut rng, 600) as f32 / 1000.0 - 0.3).to_le_bytes());
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_cannot_run_is_told_from_what_has_not_passed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.yaml"), "name: x\nprompts: {}\nchecks: []\nseeds: 1\n").unwrap();
    let policy = policy();
    for (args, told) in [
        (vec!["eval", "--suite", "bad.yaml"], "bad.yaml: `seeds` is unknown; did you mean `seed`?"),
        (vec!["eval", "--suite", "none.yaml"], "none.yaml: the suite cannot be read"),
        (vec!["eval", "--adapter", "x=nowhere"], "nowhere"),
        (vec!["eval", "--policy", policy.to_str().unwrap()], "--suite is missing"),
        (vec!["eval", "--adapter", "a=x", "--baseline", "a=y"], "--baseline has the candidate's name"),
    ] {
        let output = rectify(folder.path(), &args).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && errors.contains(told), "{args:?}: {errors}");
    }
}
