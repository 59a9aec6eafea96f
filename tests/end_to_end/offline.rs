//! The commands that work on files: generation in every format, killed and resumed, in shards; scoring; the benchmark's
//! report. Leaves their options in full to the server crate's tests.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, close, expected, model, number, rectify, run, text};

const PROMPTS: usize = 24;

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn prompts(folder: &Path) {
    let line = |i: usize| {
        if i.is_multiple_of(2) {
            json!({"prompt": format!("Question number {i}?")})
        } else {
            let system = json!({"role": "system", "content": "Be brief."});
            json!({"messages": [system, {"role": "user", "content": format!("Question number {i}?")}]})
        }
    };
    let lines: Vec<String> = (0..PROMPTS).map(|i| line(i).to_string()).collect();
    std::fs::write(folder.join("prompts.jsonl"), lines.join("\n") + "\n").unwrap();
}

/// `generate` on the llama fixture; `more` are further options.
fn generate(output: &str, more: &[&str]) -> Vec<String> {
    let (policy, reward) = (model("llama/policy"), format!("helpful={}", model("llama/reward-adapter")));
    let fixed = ["generate", "-i", "prompts.jsonl", "-o", output, "-n", "4", "--max-tokens", "24"];
    let models = ["--policy", &policy, "--reward", &reward, "--dtype", "float32"];
    fixed.iter().chain(&models).chain(more).map(|&word| word.to_owned()).collect()
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn best_pairs_and_all_tell_the_same_story() {
    let folder = tempfile::tempdir().unwrap();
    prompts(folder.path());
    for keep in ["best", "pairs", "all"] {
        run(folder.path(), &words(&generate(&format!("{keep}.jsonl"), &["--keep", keep])));
    }
    let read = |keep: &str| lines(&folder.path().join(format!("{keep}.jsonl")));
    let (best, pairs, all) = (read("best"), read("pairs"), read("all"));
    assert_eq!((best.len(), all.len()), (PROMPTS, PROMPTS));
    for (best, all) in best.iter().zip(&all) {
        let candidates = all["candidates"].as_array().unwrap();
        assert_eq!(candidates.len(), 4);
        let selected = &candidates[all["selected"].as_u64().unwrap() as usize];
        assert!(candidates.iter().all(|c| number(&c["reward"]) <= number(&selected["reward"])));
        let turns = best["messages"].as_array().unwrap();
        assert_eq!(turns.last().unwrap(), &json!({"role": "assistant", "content": selected["text"]}));
        assert_eq!(turns[..turns.len() - 1], all["prompt"].as_array().unwrap()[..]);
    }
    assert!(!pairs.is_empty());
    for pair in &pairs {
        let of_prompt = all.iter().find(|all| all["line"] == pair["line"]).unwrap();
        let texts: Vec<&str> =
            of_prompt["candidates"].as_array().unwrap().iter().map(|c| text(&c["text"])).collect();
        for side in ["chosen", "rejected"] {
            assert!(texts.contains(&text(&pair[side][0]["content"])), "{pair}");
        }
        assert!(number(&pair["reward_chosen"]) > number(&pair["reward_rejected"]), "{pair}");
    }
}

#[test]
fn a_killed_run_resumes_without_losing_or_repeating_a_line() {
    let folder = tempfile::tempdir().unwrap();
    prompts(folder.path());
    run(folder.path(), &words(&generate("whole.jsonl", &["--keep", "all"])));
    let whole = std::fs::read(folder.path().join("whole.jsonl")).unwrap();
    let path = folder.path().join("broken.jsonl");
    let size = || std::fs::metadata(&path).map_or(0, |file| file.len());
    let (args, mut kills) = (generate("broken.jsonl", &["--keep", "all"]), 0);
    loop {
        let mut args = args.clone();
        args.extend((kills > 0).then(|| "--resume".to_owned()));
        let before = size();
        let mut child = rectify(folder.path(), &words(&args))
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            assert!(Instant::now() < deadline, "it does not get on");
            if kills < 3 && size() > before {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        match ended {
            Some(status) => {
                assert!(status.success());
                break;
            }
            None => kills += 1,
        }
    }
    assert!(kills > 0, "it was never killed in the middle");
    assert!(
        std::fs::read(&path).unwrap() == whole,
        "after {kills} kills the file differs from an undisturbed run's"
    );
}

#[test]
fn shards_together_are_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    prompts(folder.path());
    run(folder.path(), &words(&generate("whole.jsonl", &[])));
    let mut joined = Vec::new();
    for shard in ["0/3", "1/3", "2/3"] {
        let name = format!("part-{}.jsonl", &shard[..1]);
        run(folder.path(), &words(&generate(&name, &["--shard", shard])));
        joined.extend(lines(&folder.path().join(name)));
    }
    joined.sort_by_key(|line| line["line"].as_u64().unwrap());
    assert_eq!(joined, lines(&folder.path().join("whole.jsonl")));
}

#[test]
fn scores_of_a_file_are_pytorchs() {
    let folder = tempfile::tempdir().unwrap();
    let conversations = expected("llama")["reward"]["conversations"].as_array().unwrap().clone();
    let line = |case: &Value| {
        let mut turns = case["messages"].as_array().unwrap().clone();
        turns.push(json!({"role": "assistant", "content": case["answer"]}));
        json!({"messages": turns, "kept": "as it is"}).to_string()
    };
    let input: Vec<String> = conversations.iter().map(line).collect();
    std::fs::write(folder.path().join("in.jsonl"), input.join("\n")).unwrap();
    let reward = format!("own={}", model("llama/reward"));
    let policy = model("llama/policy");
    let args = [
        "score",
        "-i",
        "in.jsonl",
        "-o",
        "out.jsonl",
        "--policy",
        &policy,
        "--reward",
        &reward,
        "--dtype",
        "float32",
    ];
    run(folder.path(), &args);
    let scored = lines(&folder.path().join("out.jsonl"));
    let found: Vec<f64> = scored.iter().map(|line| number(&line["reward"])).collect();
    let wanted: Vec<f64> = conversations.iter().map(|case| number(&case["score"])).collect();
    close(&found, &wanted, 1e-4);
    assert!(scored.iter().all(|line| line["kept"] == "as it is"));
}

#[test]
fn the_benchmark_prints_one_json_object_with_its_share_of_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let policy = model("llama/policy");
    let shape = ["--prompt-len", "32", "--gen-len", "8", "--n", "4", "--repeats", "1", "--json"];
    let args: Vec<&str> = ["bench", "generate", "--policy", &policy].into_iter().chain(shape).collect();
    let output = run(folder.path(), &args);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["n"], 4);
    for key in ["tokens_per_s", "prefill_s", "limit_tokens_per_s", "share_of_limit"] {
        assert!(number(&report[key]) > 0.0, "{key}: {report}");
    }
    let share = number(&report["tokens_per_s"]) / number(&report["limit_tokens_per_s"]);
    assert!((share - number(&report["share_of_limit"])).abs() < 0.01, "{report}");
}
