//! Runs that are killed, that meet a full disk or a damaged checkpoint, that stop early or are stopped; and what they
//! leave for others. Tests only.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{log, model, root, run, run_until, settings, sft, weights};
use crate::{LoraConfig, PackingStrategy, Progress, SftConfig, TrainConfig, TrainError, Tuning, train_sft};

fn lora() -> Tuning {
    Tuning::Lora(LoraConfig { lora_r: 4, ..LoraConfig::default() })
}

fn adapter(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("adapter_model.safetensors")).unwrap()
}

/// A run with everything that a checkpoint must keep.
fn full_run(folder: &Path) -> SftConfig {
    sft(TrainConfig {
        tuning: lora(),
        eval_split: 0.2,
        eval_steps: 3,
        load_best_model_at_end: true,
        max_steps: 24,
        logging_steps: 2,
        save_steps: 1,
        save_total_limit: 3,
        per_device_train_batch_size: 2,
        group_by_length: true,
        ..settings("llama/policy", "trajectory_sft.jsonl", folder)
    })
}

/// Not a test: what the child processes of the tests below run.
#[test]
fn child() {
    let Some(folder) = std::env::var_os("RECTIFY_TEST_CHILD").map(PathBuf::from) else { return };
    let mut config = full_run(&folder);
    config.train.resume = true;
    config.train.num_threads = 1;
    let outcome = run_until(usize::MAX, |control| train_sft(&config, control));
    std::fs::write(folder.join("outcome"), outcome.map_or_else(|error| error.to_string(), |_| "done".into()))
        .unwrap();
}

/// This test binary running [`child`], by a shell that says `first` before.
fn child_process(folder: &Path, first: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("{first} exec \"$0\" run::tests::robustness::child --exact --nocapture");
    command.args(["-c", &script]).arg(std::env::current_exe().unwrap());
    command.env("RECTIFY_TEST_CHILD", folder).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been() {
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(&full_run(whole.path()));
    let mut kills = 0;
    for attempt in 0u64.. {
        assert!(attempt < 40, "no end in sight");
        let mut child = child_process(killed.path(), "").spawn().unwrap();
        // Somewhere among the checkpoints, and mostly in the middle of writing one.
        let deadline = Instant::now() + Duration::from_millis(60 + 37 * (attempt % 7) + 40 * attempt);
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if ended.is_some() {
            break;
        }
    }
    assert_eq!(std::fs::read_to_string(killed.path().join("outcome")).unwrap(), "done");
    assert!(kills > 0, "the run was too fast to be killed");
    assert!(adapter(whole.path()) == adapter(killed.path()));
    assert_eq!(log(whole.path()), log(killed.path()));
}

#[test]
fn a_run_that_ends_twice_logs_its_end_once() {
    // Evaluated after the last step because that is due, and because it is the last.
    for eval_steps in [3, 7] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = full_run(folder.path());
        config.train.eval_steps = eval_steps;
        let first = run(&config);
        let (lines, weights) = (log(folder.path()), adapter(folder.path()));
        assert!(first.best_step.is_some_and(|best| best < 24), "the best weights are to be loaded again");
        // As if it had been killed before the output was whole.
        std::fs::remove_file(folder.path().join("adapter_model.safetensors")).unwrap();
        config.train.resume = true;
        let second = run(&config);
        assert_eq!(log(folder.path()), lines);
        assert!(adapter(folder.path()) == weights);
        assert_eq!((first.best_step, first.metrics), (second.best_step, second.metrics));
    }
}

#[test]
fn a_full_disk_is_told_and_what_was_saved_goes_on() {
    let (whole, full) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(&full_run(whole.path()));
    let config = full_run(full.path());
    run_until(3, |control| train_sft(&config, control)).unwrap();
    // No file may grow beyond 8 KiB, as if the disk were full; the signal that would say so is ignored.
    assert!(child_process(full.path(), "trap '' XFSZ; ulimit -f 16;").status().unwrap().success());
    let outcome = std::fs::read_to_string(full.path().join("outcome")).unwrap();
    assert!(outcome.starts_with("the checkpoint of step 4 could not be written: "), "{outcome}");
    assert!(outcome.contains("the checkpoint of step 3 is whole"), "{outcome}");
    let names: Vec<_> =
        std::fs::read_dir(full.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().contains(".tmp")), "{names:?}");
    let resumed = SftConfig { train: TrainConfig { resume: true, ..config.train.clone() }, ..config };
    run(&resumed);
    assert!(adapter(whole.path()) == adapter(full.path()));
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let whole = tempfile::tempdir().unwrap();
    run(&full_run(whole.path()));
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("weights.safetensors", |bytes| bytes.truncate(bytes.len() / 2)),
        ("optimizer.safetensors", |bytes| *bytes.last_mut().unwrap() ^= 1),
        ("trainer_state.json", |bytes| bytes.truncate(bytes.len() / 3)),
        ("weights.safetensors", Vec::clear),
    ];
    for (name, damage) in damages {
        let folder = tempfile::tempdir().unwrap();
        let mut config = full_run(folder.path());
        run_until(7, |control| train_sft(&config, control)).unwrap();
        let file = folder.path().join("checkpoint-7").join(name);
        let mut bytes = std::fs::read(&file).unwrap();
        damage(&mut bytes);
        std::fs::write(&file, bytes).unwrap();
        config.train.resume = true;
        let mut heard = Vec::new();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut progress = |event: &Progress| match event {
            Progress::Warning(sentence) => heard.push(sentence.clone()),
            Progress::Started(info) => assert_eq!(info.resumed_steps, 6),
            _ => {}
        };
        train_sft(&config, &mut crate::Control { progress: &mut progress, stop: &stop }).unwrap();
        assert!(
            heard.iter().any(|sentence| sentence.contains("checkpoint-7") && sentence.contains(name)),
            "{heard:?}"
        );
        assert!(adapter(whole.path()) == adapter(folder.path()));
        assert_eq!(log(whole.path()), log(folder.path()));
    }
}

#[test]
fn a_run_with_only_damaged_checkpoints_and_one_that_would_mix_with_another_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = full_run(folder.path());
    config.train.save_steps = 0;
    run_until(2, |control| train_sft(&config, control)).unwrap();
    let again = run_until(usize::MAX, |control| train_sft(&config, control)).unwrap_err().to_string();
    assert!(again.contains("checkpoint of step 2 of an earlier run: resume goes on from it"), "{again}");
    std::fs::write(folder.path().join("checkpoint-2/weights.safetensors"), b"").unwrap();
    config.train.resume = true;
    let damaged = run_until(usize::MAX, |control| train_sft(&config, control)).unwrap_err().to_string();
    assert!(damaged.contains("checkpoint-2: is damaged, and there is no other checkpoint"), "{damaged}");
}

#[test]
fn a_stopped_adapter_run_resumes_to_the_bit() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(&full_run(whole.path()));
    let mut config = full_run(parts.path());
    for stop_at in [5, 9, 20] {
        assert!(run_until(stop_at, |control| train_sft(&config, control)).unwrap().stopped);
        config.train.resume = true;
    }
    let report = run(&config);
    assert!(adapter(whole.path()) == adapter(parts.path()));
    assert_eq!(log(whole.path()), log(parts.path()));
    // The card tells the same numbers, whichever process measured them.
    assert_eq!(
        report.metrics["eval_loss"],
        log(whole.path()).iter().filter_map(|line| line["eval_loss"].as_f64()).fold(f64::INFINITY, f64::min)
    );
}

#[test]
fn patience_stops_a_run_and_its_output_is_the_best() {
    let folder = tempfile::tempdir().unwrap();
    // Learning on two lines by heart makes the others worse.
    let train = TrainConfig {
        eval_split: 0.5,
        eval_steps: 1,
        early_stopping_patience: 3,
        max_steps: 200,
        learning_rate: 2e-2,
        lr_scheduler_type: crate::LrScheduler::Constant,
        warmup_steps: 0,
        ..settings("llama/policy", "trajectory_sft.jsonl", folder.path())
    };
    let report = run(&sft(train.clone()));
    let losses: Vec<f64> = log(folder.path()).iter().filter_map(|line| line["eval_loss"].as_f64()).collect();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(report.steps < 200 && losses.len() == report.steps, "{report:?}");
    let best_step = report.best_step.unwrap();
    assert_eq!((losses[best_step - 1], report.steps - best_step), (best, 3));
    assert_eq!(report.metrics["eval_loss"], best);
    assert!(!folder.path().join("best.safetensors").exists());
    // The output is what a run of so many steps leaves.
    let short = tempfile::tempdir().unwrap();
    let output_dir = short.path().to_owned();
    let train = TrainConfig { output_dir, early_stopping_patience: 0, max_steps: best_step, ..train };
    run(&sft(train));
    assert!(weights(folder.path()) == weights(short.path()));
}

#[test]
fn comparing_evaluations_without_any_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let train = TrainConfig {
        load_best_model_at_end: true,
        eval_steps: 2,
        ..settings("llama/policy", "trajectory_sft.jsonl", folder.path())
    };
    let error = run_until(usize::MAX, |control| train_sft(&sft(train.clone()), control)).unwrap_err();
    assert!(error.to_string().starts_with("load_best_model_at_end: give eval_data or eval_split"), "{error}");
    let error = run_until(usize::MAX, |control| {
        train_sft(&sft(TrainConfig { eval_steps: 0, ..train.clone() }), control)
    });
    assert!(error.unwrap_err().to_string().starts_with("eval_steps: "));
}

#[test]
fn packed_is_unpacked() {
    let losses = |packing: bool, batch: usize, folder: &Path| {
        let train = TrainConfig {
            per_device_train_batch_size: batch,
            max_length: 96,
            ..settings("qwen3/policy", "trajectory_sft.jsonl", folder)
        };
        let config = SftConfig { packing, packing_strategy: PackingStrategy::Bfd, ..sft(train) };
        run(&config);
        log(folder)
    };
    let (packed, unpacked) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Each step sees all of the data, in bins or not.
    let (packed, unpacked) = (losses(true, 100, packed.path()), losses(false, 100, unpacked.path()));
    for (packed, unpacked) in packed.iter().zip(&unpacked) {
        for key in ["loss", "grad_norm", "mean_token_accuracy"] {
            let (packed, unpacked) = (packed[key].as_f64().unwrap(), unpacked[key].as_f64().unwrap());
            assert!((packed - unpacked).abs() <= 1e-4 * unpacked.abs(), "{key}: {packed} and {unpacked}");
        }
        assert_eq!(packed["num_tokens"], unpacked["num_tokens"]);
    }
}

#[test]
fn a_dry_run_shows_three_examples_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output_dir = folder.path().join("out");
    let train =
        TrainConfig { dry_run: true, ..settings("qwen3/policy", "trajectory_sft.jsonl", &output_dir) };
    let mut shown = Vec::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut progress = |event: &Progress| {
        if let Progress::Example(example) = event {
            shown.push(example.clone());
        }
    };
    train_sft(&sft(train), &mut crate::Control { progress: &mut progress, stop: &stop }).unwrap();
    assert_eq!(shown.len(), 3);
    let [(prompt, false), (completion, true)] = shown[0].texts[0].pieces.as_slice() else {
        panic!("{shown:?}")
    };
    assert!(prompt.contains("What is 2 + 2?") && prompt.ends_with("assistant\n"), "{prompt}");
    assert_eq!(completion, "2 + 2 = 4.<|im_end|>\n");
    assert!(!output_dir.exists());
}

/// Says on standard error that a test did not run.
fn skip(reason: &str) {
    eprintln!("SKIPPED: {reason}");
}

#[test]
fn peft_and_tensorboard_read_what_a_run_leaves() {
    let Some(python) = std::env::var_os("RECTIFY_TEST_PYTHON") else {
        return skip("RECTIFY_TEST_PYTHON names no Python with peft or tensorboard");
    };
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts.jsonl");
    let lines = ["Once upon a time", "there were words", "and words and words", "at an end"];
    let lines: String = lines.iter().map(|text| format!("{{\"text\": \"{text}\"}}\n")).collect();
    std::fs::write(&texts, lines).unwrap();
    let output_dir = folder.path().join("adapter");
    let train = TrainConfig {
        tuning: lora(),
        data: vec![texts.clone()],
        eval_data: vec![texts.clone()],
        eval_steps: 4,
        ..settings("llama/policy", "trajectory_sft.jsonl", &output_dir)
    };
    // Half of it in another process's time: TensorBoard reads both files as one run.
    let mut config = sft(train);
    run_until(7, |control| train_sft(&config, control)).unwrap();
    config.train.resume = true;
    let report = run(&config);
    let crate::ModelStart::Folder(base) = model("llama/policy") else { unreachable!() };
    let script = root().join("fixtures/load_output.py");
    let mut command = Command::new(python);
    let output = command.arg(script).arg(&output_dir).arg(base).arg(&texts).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    match answer.get("peft_missing") {
        Some(missing) => skip(&format!("PEFT: {missing}")),
        None => {
            assert_eq!(answer["tensors"][0], answer["tensors"][1]);
            let (ours, theirs) =
                (report.metrics["eval_loss"].as_f64().unwrap(), answer["loss"].as_f64().unwrap());
            assert!((ours - theirs).abs() < 1e-4, "{ours} and {theirs}");
        }
    }
    match answer.get("tensorboard_missing") {
        Some(missing) => skip(&format!("TensorBoard: {missing}")),
        None => {
            for (tag, key) in
                [("train/loss", "loss"), ("eval/loss", "eval_loss"), ("train/learning_rate", "learning_rate")]
            {
                let ours: Vec<(u64, f32)> = log(&output_dir)
                    .iter()
                    .filter_map(|line| Some((line["step"].as_u64()?, line[key].as_f64()? as f32)))
                    .collect();
                let theirs: Vec<(u64, f32)> = answer["scalars"][tag]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|event| (event[0].as_u64().unwrap(), event[1].as_f64().unwrap() as f32))
                    .collect();
                assert_eq!(ours, theirs, "{tag}");
            }
        }
    }
}

#[test]
fn the_folder_is_what_peft_vllm_and_the_hub_expect() {
    let folder = tempfile::tempdir().unwrap();
    run(&full_run(folder.path()));
    let config = std::fs::read_to_string(folder.path().join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    // vLLM refuses adapters whose config lacks the first three or has the others otherwise.
    assert!(config["r"].is_u64() && config["lora_alpha"].is_number() && config["target_modules"].is_array());
    assert!(config["modules_to_save"].is_null());
    assert_eq!(
        (&config["bias"], &config["use_dora"], &config["use_rslora"]),
        (&"none".into(), &false.into(), &false.into())
    );
    let card = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
    let front = card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n")).unwrap().0;
    for line in ["library_name: peft", "pipeline_tag: text-generation", "- lora", "- sft"] {
        assert!(front.lines().any(|other| other == line), "{line}: {front}");
    }
    assert!(front.starts_with("base_model: \""), "{front}");
    for part in [
        "| eval_loss | ",
        "| learning_rate | 0.003 |",
        "| lora_r | 4 |",
        "SHA-256",
        "PeftModel.from_pretrained",
        "`trajectory_sft.jsonl`",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
}

#[test]
fn not_a_number_in_training_is_a_sentence_and_the_checkpoint_before_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = full_run(folder.path());
    config.train.learning_rate = 1e38;
    config.train.max_grad_norm = 0.0;
    config.train.load_best_model_at_end = false;
    let error = run_until(usize::MAX, |control| train_sft(&config, control)).unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { .. }), "{error}");
    assert!(
        std::fs::read_dir(folder.path()).unwrap().any(|entry| entry
            .unwrap()
            .path()
            .join("trainer_state.json")
            .is_file())
    );
}
