//! `rectify feedback` on files and a store, without a server: what goes in comes out, and what may not be trained on is
//! said by exit code. Leaves the rules to the feedback crate's tests.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

fn feedback(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rectify"));
    command.arg("feedback").args(args).args(["--data-dir", "data"]).current_dir(folder).output().unwrap()
}

/// The one JSON object on standard output of a command that ends with `code`.
fn said(folder: &Path, args: &[&str], code: i32) -> Value {
    let output = feedback(folder, &[args, &["--json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    assert_eq!(errors.lines().count(), usize::from(code != 0), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn write(folder: &Path, name: &str, rows: &[Value]) {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(folder.join(name), lines.join("\n") + "\n").unwrap();
}

fn read(folder: &Path, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn rows_survive_import_and_export() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let pairs: Vec<Value> = (0..3)
        .map(|i| json!({"prompt": format!("Question {i}?"), "chosen": "Yes.", "rejected": "No.", "id": i}))
        .collect();
    let thumbs = [json!({"prompt": "Why?", "completion": "Because.", "label": true, "user": "ann"})];
    write(folder, "pairs.jsonl", &pairs);
    write(folder, "thumbs.jsonl", &thumbs);
    let imported = said(folder, &["import", "pairs.jsonl", "thumbs.jsonl"], 0);
    assert_eq!((&imported["rows"], &imported["votes"]), (&json!(4), &json!(4)));
    assert_eq!(said(folder, &["import", "pairs.jsonl"], 0)["votes"], 0, "again adds nothing");

    said(folder, &["export", "-o", "out.parquet", "--format", "preference"], 0);
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("out.parquet"), other.path().join("in.parquet")).unwrap();
    said(other.path(), &["import", "in.parquet"], 0);
    said(other.path(), &["export", "-o", "again.jsonl", "--format", "preference"], 0);
    let sorted = |mut rows: Vec<Value>| {
        rows.sort_by_key(|row| row["id"].as_i64());
        rows
    };
    assert_eq!(sorted(read(other.path(), "again.jsonl")), pairs);

    let stats = said(folder, &["stats"], 0);
    assert_eq!((&stats["kinds"]["comparison"], &stats["people"]["ann"]), (&json!(3), &json!(1)));
    let output = feedback(folder, &["import", "none.jsonl"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("none.jsonl: cannot open the file"));
}

#[test]
fn suspicious_votes_stop_the_data_until_somebody_puts_them_aside() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let rows: Vec<Value> = (0..40)
        .map(|i| {
            let answer = if i < 10 { "Excellent! Excellent! Excellent! Excellent!" } else { "A plain answer." };
            let user = if i < 10 { "fan".to_owned() } else { format!("u{i}") };
            json!({"prompt": format!("Question {i}?"), "completion": format!("{answer} {i}"), "label": true, "user": user})
        })
        .collect();
    write(folder, "rows.jsonl", &rows);
    said(folder, &["import", "rows.jsonl"], 0);
    let report = said(folder, &["check", "--snapshot", "snapshot"], 1);
    assert_eq!(report["reasons"]["degenerate"], 10);
    assert!(!folder.join("snapshot").exists());
    assert_eq!(said(folder, &["check", "--quarantine"], 1)["reasons"]["degenerate"], 10);
    let report = said(folder, &["check", "--snapshot", "snapshot"], 0);
    assert_eq!(
        (&report["reasons"]["quarantined"], report["included"].as_array().unwrap().len()),
        (&json!(10), 30)
    );
    assert_eq!(read(folder, "snapshot/thumbs.jsonl").len(), 30);
    let table = feedback(folder, &["check"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("40 votes, 30 kept"));
}

#[test]
fn near_duplicates_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let row = |i: usize| json!({"prompt": "What is the capital of France?", "completion": format!("Answer {i}."), "label": true});
    write(folder, "rows.jsonl", &(0..5).map(row).collect::<Vec<_>>());
    said(folder, &["import", "rows.jsonl"], 0);
    let found = said(folder, &["dedup", "--keep", "2"], 0);
    assert_eq!(found["clusters"][0]["votes"], 5);
    assert_eq!(found["clusters"][0]["beyond"].as_array().unwrap().len(), 3);
}
