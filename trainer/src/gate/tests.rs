//! Suites against a real engine with the tiny models of `tests/fixtures`, whose answers mean nothing: what is tested is
//! asking, measuring and reporting. What the checks say of candidates that are really bad is in `tests/end_to_end`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use rectify_engine::model::assemble::{self, Dtype, ModelsConfig, PolicyConfig, ServedModels};
use rectify_engine::model::source::ModelSource;
use rectify_engine::{AdapterRef, EngineConfig, EngineHandle};

use super::*;

fn fixture(name: &str) -> ModelSource {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models");
    ModelSource::Folder(models.join("qwen3").join(name))
}

/// One engine for all tests, with an adapter and a reward model.
fn bench() -> Bench {
    static ENGINE: OnceLock<(EngineHandle, ServedModels)> = OnceLock::new();
    let start = || {
        let config = ModelsConfig {
            rewards: vec![("judge".to_owned(), fixture("reward-adapter"))],
            dtype: Some(Dtype::Float32),
            kv_memory: 8 << 20,
            threads: Some(1),
            ..ModelsConfig::of(PolicyConfig {
                adapters: vec![("tuned".to_owned(), fixture("lora"))],
                ..PolicyConfig::new(fixture("policy"))
            })
        };
        assemble::start(EngineConfig::default(), config).unwrap()
    };
    let (engine, models) = ENGINE.get_or_init(start).clone();
    Bench { engine, models, training_reward: None }
}

fn base() -> Subject {
    Subject { label: "base".to_owned(), adapter: None }
}

fn tuned() -> Subject {
    Subject { label: "tuned".to_owned(), adapter: Some(AdapterRef::Named("tuned".to_owned())) }
}

fn run_suite(yaml: &str, candidate: Subject, baseline: Subject) -> Result<GateReport, GateError> {
    let suite = Suite::from_yaml(yaml)?;
    let stop = AtomicBool::new(false);
    let mut control = GateControl { progress: &mut |_| {}, stop: &stop };
    run(&suite, &bench(), candidate, baseline, &mut control)
}

const ALL: &str = r#"
name: all
seed: 3
sampling: {max_tokens: 12, samples: 2}
in_flight: 3
prompts:
  few:
    list:
      - {prompt: "one", category: a}
      - {prompt: "two", category: b, answer: "two"}
      - {messages: [{role: user, content: "three"}], category: a}
  exam:
    list:
      - {prompt: "one", answer: "x"}
      - {prompt: "two", choices: [a, b], answer: b}
      - {prompt: "three", expect: "."}
  texts: {list: [{text: "one two three four"}, {prompt: "five", answer: "six"}]}
checks:
  - win_rate: {prompts: few}
  - safety: {prompts: few, max: 1}
  - benign_refusal: {prompts: few}
  - capability: {prompts: exam}
  - perplexity: {prompts: texts}
  - kl: {prompts: few}
  - length: {prompts: few}
  - diversity: {prompts: few, max_repetition: 1}
  - canary: {prompts: exam, name: fixed, max: 1}
"#;

fn value(report: &GateReport, check: &str) -> f64 {
    let check = report.checks.iter().find(|c| c.name == check).unwrap();
    check.measurements[0].interval.value
}

#[test]
fn a_candidate_that_is_its_own_baseline_changes_nothing() {
    let report = run_suite(ALL, tuned(), tuned()).unwrap();
    assert_eq!(report.checks.len(), 9);
    for (check, same) in
        [("win_rate", 0.5), ("capability", 0.0), ("perplexity", 1.0), ("length", 1.0), ("diversity", 1.0)]
    {
        assert_eq!(value(&report, check), same, "{check}");
    }
    let kl = run_suite(ALL, base(), tuned()).unwrap();
    // The log-probabilities of sampling and of reading are the same bits.
    assert_eq!(value(&kl, "kl"), 0.0);
}

#[test]
fn an_adapter_is_measured_and_not_the_policy_without_it() {
    let report = run_suite(ALL, tuned(), base()).unwrap();
    assert!(value(&report, "kl") > 0.0);
    assert_ne!(value(&report, "perplexity"), 1.0);
    let by_category: Vec<&str> = report.checks[1].measurements.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(by_category, ["failure rate", "failure rate: a", "failure rate: b"]);
}

#[test]
fn canaries_are_told_apart_by_the_whole_conversation() {
    let turns = |first: &str| {
        format!(
            "{{messages: [{{role: user, content: {first}}}, {{role: assistant, content: b}}, {{role: user, content: c}}]}}"
        )
    };
    let yaml = format!(
        "name: s\nsampling: {{max_tokens: 8}}\nprompts: {{p: {{list: [{}, {}]}}}}\nchecks: [{{canary: {{prompts: p}}}}]",
        turns("a long beginning"),
        turns("x")
    );
    assert_eq!(run_suite(&yaml, tuned(), tuned()).unwrap().verdict, Verdict::Pass);
    assert_eq!(value(&run_suite(&yaml, base(), tuned()).unwrap(), "canary"), 1.0);
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let [first, second] = [(); 2].map(|()| run_suite(ALL, tuned(), base()).unwrap());
    assert_eq!((first.checks, first.suite_hash), (second.checks, second.suite_hash));
}

#[test]
fn reports_survive_json_and_show_what_was_measured() {
    let mut report = run_suite(ALL, tuned(), base()).unwrap();
    report.candidate = "<b>tuned</b>".to_owned();
    let text = serde_json::to_string(&report).unwrap();
    let again: GateReport = serde_json::from_str(&text).unwrap();
    assert_eq!(again.checks.len(), report.checks.len());
    assert_eq!(again.verdict, report.verdict);
    let page = report.html();
    assert!(page.contains("&lt;b&gt;tuned&lt;&#x2f;b&gt;") && !page.contains("<b>tuned"), "{page}");
    for check in &report.checks {
        assert!(page.contains(&check.measurements[0].measured()), "{}", check.name);
        assert!(report.table().contains(&check.measurements[0].measured()), "{}", check.name);
    }
    assert!(!page.contains("http"), "the page needs nothing else");
}

#[test]
fn a_report_whose_intervals_are_open_is_read_back() {
    let yaml = "name: s\nsampling: {max_tokens: 2}\nprompts: {p: {list: [{prompt: a}]}}\nchecks: [{length: {prompts: p}}]";
    let report = run_suite(yaml, tuned(), tuned()).unwrap();
    let Interval { low, high, .. } = report.checks[0].measurements[0].interval;
    assert_eq!((low, high), (f64::NEG_INFINITY, f64::INFINITY), "one prompt tells nothing");
    let again: GateReport = serde_json::from_slice(&serde_json::to_vec(&report).unwrap()).unwrap();
    assert_eq!(again.checks, report.checks);
}

#[test]
fn a_rate_can_be_limited_by_the_baselines() {
    let check = |wanted: &str, candidate, baseline| {
        let yaml = format!(
            "name: s\nsampling: {{max_tokens: 8}}\nprompts: {{p: {{list: [{{prompt: one, expect: '{wanted}'}}]}}}}\n\
             checks: [{{safety: {{prompts: p, max_increase: 0.1}}}}]"
        );
        run_suite(&yaml, candidate, baseline).unwrap().checks.remove(0)
    };
    // As many failures as before, however many: no increase.
    let same = check("never said", base(), base());
    let [rate, change] = &same.measurements[..] else { panic!("{same:?}") };
    assert_eq!((rate.interval.value, rate.baseline, rate.verdict), (1.0, Some(1.0), None));
    assert_eq!((change.name.as_str(), change.interval.value), ("change of failure rate", 0.0));
    assert_eq!(same.verdict, Verdict::Pass);
    // What the base says is right, so the adapter that says something else is worse, and the base is better.
    let said = regex::escape(&same.examples[0].candidate).replace('\'', "''");
    let worse = check(&said, tuned(), base());
    assert_eq!(
        (worse.measurements[1].interval.value, worse.verdict),
        (1.0, Verdict::Inconclusive),
        "{worse:?}"
    );
    let better = check(&said, base(), tuned());
    assert_eq!((better.measurements[1].interval.value, better.verdict), (-1.0, Verdict::Pass), "{better:?}");
}

#[test]
fn early_certainty_ends_a_check_and_says_so() {
    let list: String =
        (0..40).map(|i| format!("      - {{prompt: \"p {i}\", expect: \"never said\"}}\n")).collect();
    let yaml = |early| {
        format!(
            "name: s\nearly_stop: {early}\nsampling: {{max_tokens: 2}}\nprompts:\n  p:\n    list:\n{list}checks: [{{safety: {{prompts: p}}}}]"
        )
    };
    let stopped = &run_suite(&yaml(true), base(), base()).unwrap().checks[0];
    assert_eq!((stopped.verdict, stopped.num_prompts, stopped.stopped_early), (Verdict::Fail, 10, true));
    assert!(stopped.measurements[0].confidence > 0.99 && stopped.examples.len() == 5);
    let whole = &run_suite(&yaml(false), base(), base()).unwrap().checks[0];
    assert_eq!((whole.verdict, whole.num_prompts, whole.stopped_early), (Verdict::Fail, 40, false));
    assert_eq!(whole.measurements[0].confidence, 0.95);
}

#[test]
fn a_run_is_watched_and_stopped() {
    let suite = Suite::from_yaml(ALL).unwrap();
    let stop = AtomicBool::new(false);
    let mut seen = Vec::new();
    let mut progress = |now: &GateProgress| {
        seen.push(now.check.clone());
        stop.store(now.check == "benign_refusal", Ordering::Relaxed);
    };
    let mut control = GateControl { progress: &mut progress, stop: &stop };
    let error = run(&suite, &bench(), tuned(), base(), &mut control).unwrap_err().to_string();
    assert_eq!(error, "the evaluation was stopped after 2 of 9 checks");
    assert_eq!(seen.first().map(String::as_str), Some("win_rate"));
}

#[test]
fn the_training_reward_model_judges_only_if_there_is_no_other() {
    let suite = Suite::from_yaml(ALL).unwrap();
    let stop = AtomicBool::new(false);
    let mut control = GateControl { progress: &mut |_| {}, stop: &stop };
    let bench = Bench { training_reward: Some("judge".to_owned()), ..bench() };
    let report = run(&suite, &bench, tuned(), base(), &mut control).unwrap();
    let notes = &report.checks[0].notes;
    assert!(notes[0].contains("judged by `judge`") && notes[1].contains("was trained on"), "{notes:?}");
    let missing = run_suite(&ALL.replace("win_rate: {", "win_rate: {judge: other, "), tuned(), base());
    assert!(missing.unwrap_err().to_string().contains("judge `other` is not among the reward models judge"));
}

#[test]
fn suites_are_refused_by_key_with_what_would_be_right() {
    let refuse = |from: &str, to: &str| {
        assert!(ALL.contains(from), "{from}");
        Suite::from_yaml(&ALL.replace(from, to)).unwrap_err().to_string()
    };
    for (from, to, told) in [
        ("seed: 3", "sead: 3", "`sead` is unknown; did you mean `seed`?"),
        ("in_flight: 3", "in_flight: 0", "`in_flight` is 0"),
        ("benign_refusal:", "benign_refusals:", "did you mean `checks[2].benign_refusal`?"),
        ("safety: {prompts: few, max: 1}", "safety: {prompts: few, mex: 1}", "`checks[1].safety.mex`"),
        (
            "safety: {prompts: few, max: 1}",
            "safety: {prompts: few, max: 5}",
            "`max` is 5, but must be from 0 to 1",
        ),
        (
            "kl: {prompts: few}",
            "kl: {prompts: many}",
            "`prompts` is `many`, which is not among exam, few, texts",
        ),
        ("kl: {prompts: few}", "kl: {prompts: texts}", "is a bare `text`"),
        ("perplexity: {prompts: texts}", "perplexity: {prompts: few}", "must be a `text`"),
        ("length: {prompts: few}", "kl: {prompts: few}", "two checks called `kl`"),
        ("expect: \".\"", "expect: \"(\"", "`expect`: the pattern `(` is no regular expression"),
        ("choices: [a, b], answer: b", "choices: [a, b], answer: c", "`answer` must be one of the `choices`"),
        ("{prompt: \"one\", category: a}", "{category: a}", "one of `prompt`, `messages` and `text`"),
        ("texts: {list: [", "texts: {file: x.jsonl, list: [", "either `file` or `list`"),
    ] {
        let error = refuse(from, to);
        assert!(error.contains(told) && error.lines().count() == 1, "{told}: {error}");
    }
}

#[test]
fn prompts_come_from_files_beside_the_suite() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("suite.yaml");
    let yaml = "name: s\nprompts: {p: {file: p.jsonl}}\nchecks: [{length: {prompts: p}}]\n";
    std::fs::write(&path, yaml).unwrap();
    let missing = Suite::load(&path).unwrap_err().to_string();
    assert!(missing.contains("`prompts.p.file`") && missing.contains("p.jsonl"), "{missing}");
    std::fs::write(folder.path().join("p.jsonl"), "{\"prompt\": \"a\"}\n\n{\"prompt\": \"b\"}\n").unwrap();
    let suite = Suite::load(&path).unwrap();
    assert_eq!((suite.prompts["p"].len(), suite.check_names()), (2, vec!["length".to_owned()]));
    std::fs::write(folder.path().join("p.jsonl"), "{\"prompt\": \"a\"}\n{\"promt\": \"b\"}\n").unwrap();
    let wrong = Suite::load(&path).unwrap_err().to_string();
    assert!(wrong.contains("p.jsonl:2:") && wrong.contains("promt"), "{wrong}");
    // The hash is of the files too.
    std::fs::write(folder.path().join("p.jsonl"), "{\"prompt\": \"c\"}\n").unwrap();
    assert_ne!(Suite::load(&path).unwrap().hash, suite.hash);
}

#[test]
fn the_suites_that_ship_can_be_read() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    for suite in ["demo/suite.yaml", "suites/starter.yaml"] {
        let suite = Suite::load(&assets.join(suite)).unwrap();
        assert!(suite.check_names().len() >= 8, "{}", suite.name);
    }
}
