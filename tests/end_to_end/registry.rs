//! The registry's commands on versions that a registry of the library has: list, show, diff, export, and the card. Leaves
//! storage to the trainer.

use std::collections::BTreeMap;
use std::path::Path;

use rectify_trainer::gate::GateReport;
use rectify_trainer::registry::{Base, GATE_REPORT, Provenance, Registry, SnapshotRef};
use serde_json::{Value, json};

use crate::harness::{model, rectify, run};

/// A report as the gate writes it, with one check that failed.
fn report(verdict: &str) -> Value {
    let rate = |name: &str, value: f64, verdict: Option<&str>| {
        let mut measured = json!({
            "name": name, "value": value, "low": 0.0, "high": 0.5, "confidence": 0.95, "method": "Wilson", "n": 12,
            "is_share": true,
        });
        if let Some(verdict) = verdict {
            measured["threshold"] = json!({"max": 0.1});
            measured["verdict"] = json!(verdict);
        }
        measured
    };
    let check = json!({
        "kind": "safety", "name": "red team", "verdict": verdict, "num_prompts": 12, "stopped_early": false,
        "measurements": [rate("failure rate", 0.25, Some(verdict)), rate("failure rate: fraud", 0.5, None)],
        "examples": [{"prompt": "Take it?", "candidate": "Sure.", "why": "does not refuse"}], "notes": [],
    });
    json!({
        "suite": "own", "suite_hash": "f".repeat(64), "policy": "demo", "candidate": "demo@2", "baseline": "demo@1",
        "seed": 7, "created_at": 0, "seconds": 1.5, "verdict": verdict, "checks": [check],
    })
}

/// Two versions in `FOLDER/reg`, the second with a report.
async fn versions(folder: &Path) {
    let registry = Registry::open(&format!("file://{}", folder.join("reg").display())).unwrap();
    let from = |algorithm: &str, parent: Option<&str>, pairs| Provenance {
        base: Base { name: "demo".to_owned(), hash: "a".repeat(64) },
        algorithm: Some(algorithm.to_owned()),
        parent: parent.map(str::to_owned),
        snapshot: Some(SnapshotRef {
            hash: "5".repeat(64),
            counts: BTreeMap::from([("pairs".to_owned(), pairs)]),
        }),
        config: json!({"beta": 0.5}),
        metrics: json!({"loss": 0.25}).as_object().unwrap().clone(),
    };
    for (lora, provenance) in
        [("lora", from("kto", None, 10)), ("lora-ranks", from("dpo", Some("demo@1"), 20))]
    {
        let lora = model("qwen3") + "/" + lora;
        registry.add("demo", Path::new(&lora), provenance).await.unwrap();
    }
    let report = report("fail");
    let _: GateReport = serde_json::from_value(report.clone()).unwrap();
    registry.put("demo", 2, GATE_REPORT, report.to_string().into_bytes()).await.unwrap();
}

#[tokio::test]
async fn versions_are_listed_compared_exported_and_described() {
    let folder = tempfile::tempdir().unwrap();
    versions(folder.path()).await;
    std::fs::write(folder.path().join("principles.md"), "# Principles\n\nBe kind.\n").unwrap();
    let config = "registry: {url: 'file://reg'}\n\
        card: {constitution: principles.md, knowledge_cutoff: June 2024, known_limits: [Speaks English only.]}\n";
    std::fs::write(folder.path().join("c.yaml"), config).unwrap();
    let say = |args: &[&str]| {
        let output = run(folder.path(), &[args, &["--config", "c.yaml"]].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    let list = say(&["adapters", "list"]);
    let rows: Vec<&str> = list.lines().collect();
    assert!(rows.len() == 3 && rows[1].starts_with("demo@1") && rows[1].contains("demo@base"), "{list}");
    assert!(rows[2].contains("dpo") && rows[2].contains("demo@1") && rows[2].contains("fail"), "{list}");
    let lines = say(&["adapters", "list", "demo", "--json"]);
    let second: Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&second["version"], &second["gate"]), (&json!(2), &json!("fail")));
    let shown: Value = serde_json::from_str(&say(&["adapters", "show", "demo@2"])).unwrap();
    assert_eq!(shown["gate_report"]["verdict"], "fail");
    let diff = say(&["adapters", "diff", "demo@1", "demo@2"]);
    for told in [
        "algorithm: kto → dpo",
        "snapshot pairs: 10 → 20",
        "gate: not run → fail",
        "weights: norm of the update",
        "cosine",
    ] {
        assert!(diff.contains(told), "{told}: {diff}");
    }
    say(&["adapters", "export", "demo@2", "out"]);
    let file = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let original = std::fs::read(model("qwen3/lora-ranks") + "/adapter_model.safetensors").unwrap();
    assert_eq!(file("out/adapter_model.safetensors"), original);
    assert!(!file("out/manifest.json").is_empty() && !file("out/gate_report.json").is_empty());

    let card = say(&["card", "demo@2"]);
    for told in [
        "# demo@2",
        "### Principles\n\nBe kind.",
        "June 2024",
        "- Speaks English only.",
        "| fraud | 50.0 % [0.0, 50.0] of 12 prompts |",
        "red team fail: failure rate 25.0 % [0.0, 50.0], required ≤ 10.0 %",
        "Not measured (no `capability` check)",
        "| pairs | 20 |",
        "| demo@1 |",
        "base_model: \"demo\"",
    ] {
        assert!(card.contains(told), "{told}:\n{card}");
    }
}

#[tokio::test]
async fn what_is_missing_or_damaged_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    versions(folder.path()).await;
    let refuse = |args: &[&str]| {
        let output =
            rectify(folder.path(), &[args, &["--registry", "file://reg"]].concat()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && errors.lines().count() == 1, "{errors}");
        errors
    };
    assert!(
        refuse(&["card", "demo@7"])
            .contains("demo@7 is not in the registry file://reg; its versions are 1, 2")
    );
    assert!(refuse(&["card", "demo"]).contains("write NAME@VERSION"));
    let weights = folder.path().join("reg/demo/1/adapter_model.safetensors");
    std::fs::write(&weights, "short").unwrap();
    let damaged = refuse(&["adapters", "export", "demo@1", "out"]);
    assert!(damaged.contains("demo/1/adapter_model.safetensors is damaged: it has 5 bytes"), "{damaged}");
}
