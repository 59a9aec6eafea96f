//! Whole training runs on the tiny models of `tests/fixtures`: beside TRL, interrupted and resumed, accumulated, stopped.

mod robustness;
mod rounds;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    BaseDtype, Control, LoraConfig, LrScheduler, ModelStart, Progress, RewardConfig, SftConfig, TrainConfig,
    TrainError, TrainReport, Tuning, train_reward, train_sft,
};
use serde_json::Value;

pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn model(name: &str) -> ModelStart {
    ModelStart::Folder(root().join("../tests/fixtures/models").join(name))
}

pub(super) fn data(name: &str) -> Vec<PathBuf> {
    vec![root().join("fixtures").join(name)]
}

/// The settings of `fixtures/trajectory.py`.
pub(super) fn settings(model_name: &str, data_name: &str, output_dir: &Path) -> TrainConfig {
    TrainConfig {
        model: model(model_name),
        data: data(data_name),
        output_dir: output_dir.to_owned(),
        num_threads: 2,
        learning_rate: 3e-3,
        lr_scheduler_type: LrScheduler::Cosine,
        warmup_steps: 3,
        weight_decay: 0.1,
        max_grad_norm: 0.7,
        max_steps: 20,
        max_length: 48,
        per_device_train_batch_size: 6,
        logging_steps: 1,
        save_steps: 0,
        ..TrainConfig::default()
    }
}

fn sft(train: TrainConfig) -> SftConfig {
    SftConfig { train, ..SftConfig::default() }
}

pub(super) fn run_until(
    stop_at: usize,
    run: impl FnOnce(&mut Control<'_>) -> Result<TrainReport, TrainError>,
) -> Result<TrainReport, TrainError> {
    let stop = AtomicBool::new(false);
    let mut progress = |event: &Progress| {
        if let Progress::Step(info) = event
            && info.step == stop_at
        {
            stop.store(true, Ordering::Relaxed);
        }
    };
    run(&mut Control { progress: &mut progress, stop: &stop })
}

fn run(config: &SftConfig) -> TrainReport {
    run_until(usize::MAX, |control| train_sft(config, control)).unwrap()
}

pub(super) fn log(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("train_log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(super) fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model.safetensors")).unwrap()
}

fn check_against_trl(case: &str, keys: &[&str], folder: &Path) {
    let text = std::fs::read_to_string(root().join("fixtures/trajectory.json")).unwrap();
    let fixture: Value = serde_json::from_str(&text).unwrap();
    let want = fixture[case].as_array().unwrap();
    let got = log(folder);
    assert_eq!(got.len(), want.len());
    assert!(want[0]["loss"].as_f64() > want[19]["loss"].as_f64(), "the fixture learns");
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        for key in keys {
            // Rewards that cancel leave the noise of their difference.
            let noise =
                if *key == "mean_reward" { 0.01 * want["margin"].as_f64().unwrap().abs() } else { 0.0 };
            let (got, want) = (got[*key].as_f64().unwrap(), want[*key].as_f64().unwrap());
            // TRL rounds what it logs to four digits or so.
            let bound = 0.01 * want.abs().max(1e-3).max(noise);
            assert!((got - want).abs() <= bound, "{case}, step {}: {key} is {got}, TRL's {want}", step + 1);
        }
    }
}

#[test]
fn sft_on_prompts_and_completions_follows_trl() {
    let folder = tempfile::tempdir().unwrap();
    run(&sft(settings("qwen3/policy", "trajectory_sft.jsonl", folder.path())));
    let keys = ["loss", "grad_norm", "learning_rate", "mean_token_accuracy", "num_tokens"];
    check_against_trl("sft", &keys, folder.path());
}

#[test]
fn sft_on_messages_follows_trl() {
    let folder = tempfile::tempdir().unwrap();
    run(&sft(settings("llama/policy", "trajectory_messages.jsonl", folder.path())));
    check_against_trl("messages", &["loss", "grad_norm", "learning_rate", "num_tokens"], folder.path());
}

fn reward(train: TrainConfig) -> RewardConfig {
    RewardConfig { train, center_rewards_coefficient: 0.01, min_eval_accuracy: 0.6 }
}

#[test]
fn reward_modelling_follows_trl() {
    let folder = tempfile::tempdir().unwrap();
    let train = settings("llama/reward", "trajectory_pairs.jsonl", folder.path());
    let config = reward(TrainConfig { max_length: 200, ..train });
    run_until(usize::MAX, |control| train_reward(&config, control)).unwrap();
    let keys = ["loss", "grad_norm", "learning_rate", "accuracy", "margin", "mean_reward"];
    check_against_trl("reward", &keys, folder.path());
}

/// A run with something random in it: order, hold-out and dropout.
fn random_run(folder: &Path, tuning: Tuning) -> SftConfig {
    let train = TrainConfig {
        tuning,
        eval_split: 0.2,
        eval_steps: 4,
        max_steps: 10,
        logging_steps: 3,
        per_device_train_batch_size: 1,
        gradient_accumulation_steps: 2,
        ..settings("llama/policy", "trajectory_sft.jsonl", folder)
    };
    sft(train)
}

#[test]
fn a_resumed_run_gives_the_bits_of_an_uninterrupted_one() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(&random_run(whole.path(), Tuning::Full));
    let mut config = random_run(parts.path(), Tuning::Full);
    for stop_at in [4, 8] {
        let report = run_until(stop_at, |control| train_sft(&config, control)).unwrap();
        assert!(report.stopped);
        assert_eq!(report.steps, stop_at);
        config.train.resume = true;
        config.train.num_threads = 1;
        if stop_at == 4 {
            // What a run leaves that is killed while it saves.
            std::fs::create_dir_all(parts.path().join(".checkpoint-9.tmp")).unwrap();
            std::fs::create_dir_all(parts.path().join("checkpoint-9")).unwrap();
        }
    }
    let report = run(&config);
    assert_eq!((report.steps, report.stopped), (10, false));
    assert_eq!(weights(whole.path()), weights(parts.path()));
    assert_eq!(log(whole.path()), log(parts.path()));
    assert!(!parts.path().join(".checkpoint-9.tmp").exists());
}

#[test]
fn a_checkpoint_of_other_settings_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = random_run(folder.path(), Tuning::Full);
    run_until(2, |control| train_sft(&config, control)).unwrap();
    config.train.resume = true;
    config.train.weight_decay = 0.2;
    let error = run_until(usize::MAX, |control| train_sft(&config, control)).unwrap_err();
    assert!(error.to_string().contains("another weight_decay"), "{error}");
}

#[test]
fn accumulation_is_the_same_as_a_larger_batch() {
    let (large, small) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let run = |folder: &Path, batch: usize, accumulation: usize| {
        let train = TrainConfig {
            per_device_train_batch_size: batch,
            gradient_accumulation_steps: accumulation,
            ..settings("qwen3/policy", "trajectory_sft.jsonl", folder)
        };
        run(&sft(train));
        log(folder)
    };
    for (large, small) in run(large.path(), 4, 1).iter().zip(run(small.path(), 1, 4)) {
        for key in ["loss", "grad_norm"] {
            let (large, small) = (large[key].as_f64().unwrap(), small[key].as_f64().unwrap());
            assert!((large - small).abs() < 1e-4 * large.abs(), "{key}: {large} and {small}");
        }
        assert_eq!(large["num_tokens"], small["num_tokens"]);
    }
}

#[test]
fn adapters_learn_and_are_written_for_peft() {
    let folder = tempfile::tempdir().unwrap();
    let lora = Tuning::Lora(LoraConfig { lora_r: 4, lora_alpha: 8.0, ..LoraConfig::default() });
    run(&random_run(folder.path(), lora));
    let log = log(folder.path());
    assert!(log[0]["loss"].as_f64() > log[log.len() - 2]["loss"].as_f64(), "{log:?}");
    let bytes = std::fs::read(folder.path().join("adapter_model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    assert_eq!(tensors.tensor(name).unwrap().shape()[0], 4);
    assert!(tensors.names().iter().all(|name| name.contains(".lora_")));
    let config = std::fs::read_to_string(folder.path().join("adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!((&config["task_type"], &config["r"]), (&"CAUSAL_LM".into(), &4.into()));
}

#[test]
fn checkpointed_adapters_on_four_bits_resume_to_the_bits_of_plain_ones() {
    let (plain, checkpointed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = |folder: &Path| {
        let lora = LoraConfig { base_dtype: BaseDtype::Nf4, lora_dropout: 0.1, ..LoraConfig::default() };
        random_run(folder, Tuning::Lora(lora))
    };
    run(&config(plain.path()));
    let mut config = config(checkpointed.path());
    run_until(5, |control| train_sft(&config, control)).unwrap();
    config.train.gradient_checkpointing = true;
    config.train.resume = true;
    run(&config);
    let adapter = |folder: &Path| std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    assert_eq!(adapter(plain.path()), adapter(checkpointed.path()));
    assert_eq!(log(plain.path()), log(checkpointed.path()));
}

#[test]
fn a_reward_adapter_carries_its_head() {
    let folder = tempfile::tempdir().unwrap();
    let train = TrainConfig {
        tuning: Tuning::Lora(LoraConfig::default()),
        max_length: 0,
        eval_data: data("trajectory_pairs.jsonl"),
        ..settings("llama/policy", "trajectory_pairs.jsonl", folder.path())
    };
    let report = run_until(usize::MAX, |control| train_reward(&reward(train), control)).unwrap();
    assert_eq!(report.metrics["eval_accuracy"], 1.0);
    let bytes = std::fs::read(folder.path().join("adapter_model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("base_model.model.score.weight").unwrap().shape(), [1, 64]);
    let card = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
    assert!(card.contains("library_name: peft") && card.contains("eval_accuracy"), "{card}");
}

#[test]
fn a_reward_model_that_learned_nothing_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let flipped = folder.path().join("flipped.jsonl");
    let text = std::fs::read_to_string(&data("trajectory_pairs.jsonl")[0]).unwrap();
    let text = text
        .replace("\"chosen\"", "\"x\"")
        .replace("\"rejected\"", "\"chosen\"")
        .replace("\"x\"", "\"rejected\"");
    std::fs::write(&flipped, text).unwrap();
    let train = TrainConfig {
        max_length: 200,
        eval_data: vec![flipped],
        ..settings("llama/reward", "trajectory_pairs.jsonl", &folder.path().join("out"))
    };
    let error = run_until(usize::MAX, |control| train_reward(&reward(train), control)).unwrap_err();
    assert!(error.to_string().contains("labels are noisy or the task is subjective"), "{error}");
}

#[test]
fn a_diverging_run_stops_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let train = TrainConfig {
        learning_rate: 1e30,
        warmup_steps: 0,
        max_grad_norm: 0.0,
        ..settings("llama/policy", "trajectory_sft.jsonl", folder.path())
    };
    let error = run_until(usize::MAX, |control| train_sft(&sft(train), control)).unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { .. }), "{error}");
    assert!(error.to_string().contains("lower learning_rate"), "{error}");
}

#[test]
fn bad_lines_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.jsonl");
    for (line, part) in [
        ("{\"text\": \"fine\"}\n{\"txt\": 1}\n", "bad.jsonl:2"),
        ("{\"text\": \"fine\"}\nnot json\n", "bad.jsonl:2"),
        ("", "data: no example"),
    ] {
        std::fs::write(&file, line).unwrap();
        let train = TrainConfig {
            data: vec![file.clone()],
            ..settings("llama/policy", "trajectory_sft.jsonl", &folder.path().join("out"))
        };
        let error = run_until(usize::MAX, |control| train_sft(&sft(train), control)).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn training_starts_from_a_configuration_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = root().join("../tests/fixtures/models/llama/policy/config.json");
    let run_with = |seed: u64, name: &str| {
        let train = TrainConfig {
            model: ModelStart::Init(config.clone()),
            seed,
            max_steps: 2,
            ..settings("", "trajectory_sft.jsonl", &folder.path().join(name))
        };
        run(&sft(train));
        weights(&folder.path().join(name))
    };
    assert_eq!(run_with(1, "a"), run_with(1, "b"));
    assert_ne!(run_with(1, "a"), run_with(2, "c"));
    assert!(folder.path().join("a/tokenizer.json").is_file());
}
