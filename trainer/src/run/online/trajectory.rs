//! Twenty steps on fixed completions and rewards beside TRL's GRPO and RLOO and a PPO in PyTorch:
//! `fixtures/trajectory_online.py`.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rectify_engine::SamplingParams;
use serde_json::Value;

use super::learner::Learner;
use super::{Grpo, Online, OnlineMethod, Ppo, Rloo, Sampler};
use crate::config::{LoraConfig, LrScheduler, ModelStart, RolloutConfig, TrainConfig, Tuning};
use crate::data::{Splits, read_prompts};
use crate::error::TrainError;
use crate::rewards::{Judge, Judged, Judges};
use crate::rollout::{Completion, PromptSeed};
use crate::run::model::Model;
use crate::run::tests::{log, run_until};
use crate::run::trainer::Trainer;
use crate::{GrpoConfig, PpoConfig, RlooConfig};

/// Gives the fixture's completions, rollout after rollout; the rewards of the last one given are the judge's.
struct Fixed {
    prompts: Vec<Vec<u32>>,
    rollouts: Value,
    next: Mutex<usize>,
    rewards: Arc<Mutex<Vec<f64>>>,
}

impl Sampler for Fixed {
    fn sample(
        &self,
        _: &Model,
        prompts: &[PromptSeed<'_>],
        _: &SamplingParams,
        num_completions: usize,
    ) -> Result<Vec<Vec<Completion>>, TrainError> {
        let mut next = self.next.lock().unwrap();
        let rollout = &self.rollouts[*next];
        *next += 1;
        let mut rewards = self.rewards.lock().unwrap();
        rewards.clear();
        let mut seen = vec![0; self.prompts.len()];
        let mut completion = |prompt: usize| {
            let sample = &rollout[prompt][seen[prompt]];
            seen[prompt] += 1;
            rewards.push(sample["reward"].as_f64().unwrap());
            let tokens: Vec<u32> = serde_json::from_value(sample["tokens"].clone()).unwrap();
            let is_complete = tokens.last() == Some(&2);
            Completion { logprobs: vec![0.0; tokens.len()], tokens, text: String::new(), is_complete }
        };
        let of_prompt = |prompt: &PromptSeed<'_>| {
            let index = self.prompts.iter().position(|ids| ids == prompt.ids).unwrap();
            (0..num_completions).map(|_| completion(index)).collect()
        };
        Ok(prompts.iter().map(of_prompt).collect())
    }
}

struct Rewards(Arc<Mutex<Vec<f64>>>);

impl Judge for Rewards {
    fn rewards(&self, completions: &[Judged<'_>]) -> Result<Vec<f64>, TrainError> {
        let rewards = self.0.lock().unwrap().clone();
        assert_eq!(rewards.len(), completions.len());
        Ok(rewards)
    }
}

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trajectory_online.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn train(folder: &Path) -> TrainConfig {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lora = LoraConfig { lora_r: 4, lora_alpha: 8.0, lora_dropout: 0.0, ..LoraConfig::default() };
    TrainConfig {
        model: ModelStart::Folder(root.join("../tests/fixtures/models/llama/policy")),
        tuning: Tuning::Lora(lora),
        output_dir: folder.to_owned(),
        num_threads: 2,
        learning_rate: 5e-3,
        lr_scheduler_type: LrScheduler::Cosine,
        warmup_steps: 2,
        max_grad_norm: 0.5,
        max_steps: 20,
        per_device_train_batch_size: 8,
        logging_steps: 1,
        save_steps: 0,
        ..TrainConfig::default()
    }
}

/// The model with the fixture's adapter.
fn model(train: &TrainConfig) -> Model {
    let mut model = Model::load(train, false).unwrap();
    let is_a = |name: &str| name.ends_with(".lora_A.weight");
    let params = &mut model.tape.params;
    let mut names: Vec<String> =
        params.tensors().map(|(part, ..)| part.name.clone()).filter(|name| is_a(name)).collect();
    names.sort();
    for param in params.trainable_mut().filter(|param| is_a(&param.parts[0].name)) {
        let phase = 1.3 * names.iter().position(|name| *name == param.parts[0].name).unwrap() as f64;
        for (index, value) in param.data.iter_mut().enumerate() {
            *value = (0.1 * (0.7 * index as f64 + phase).sin()) as f32;
        }
    }
    model
}

fn online(train: &TrainConfig, model: &Model, rollouts: &str) -> Online {
    let fixture = fixture();
    let file = train.output_dir.join("prompts.jsonl");
    let prompts: Vec<String> = serde_json::from_value(fixture["prompts"].clone()).unwrap();
    let lines: String = prompts.iter().map(|prompt| format!("{{\"prompt\": \"{prompt}\"}}\n")).collect();
    std::fs::write(&file, lines).unwrap();
    let (prompts, _) = read_prompts(&file, &model.encoder, 100).unwrap();
    let rewards = Arc::default();
    let sampler = Fixed {
        prompts: prompts.iter().map(|prompt| prompt.ids.clone()).collect(),
        rollouts: fixture[rollouts].clone(),
        next: Mutex::new(0),
        rewards: Arc::clone(&rewards),
    };
    Online {
        prompts: Splits { train: prompts, eval: Vec::new() },
        num_left_out: 0,
        sampler: Box::new(sampler),
        judges: Judges::one("fixed", Box::new(Rewards(rewards))),
        sampling: SamplingParams::default(),
        seed: 1,
    }
}

/// Trains, and compares every number of every step of the fixture.
fn check<L: Learner>(case: &str, train: &TrainConfig, model: Model, online: Online, learner: L) {
    let method = OnlineMethod::new(train, online, learner).unwrap();
    let trainer = Trainer { name: "test", settings: train, method, model };
    run_until(usize::MAX, |control| trainer.run(Value::Null, control)).unwrap();
    let fixture = fixture();
    let (got, want) = (log(&train.output_dir), fixture[case].as_array().unwrap());
    assert_eq!((got.len(), want.len()), (20, 20));
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        for (key, want) in want.as_object().unwrap() {
            let want = want.as_f64().unwrap();
            let got = got[key].as_f64().unwrap_or_else(|| panic!("{case}, step {}: no {key}", step + 1));
            // A loss is a small difference of terms of the size of an advantage.
            let size = if key.starts_with("loss") { 0.1 } else { 1e-2 };
            let bound = 0.01 * want.abs().max(size);
            assert!((got - want).abs() <= bound, "{case}, step {}: {key} is {got}, but {want}", step + 1);
        }
    }
}

#[test]
fn grpo_follows_trl() {
    let folder = tempfile::tempdir().unwrap();
    let train = train(folder.path());
    let config = GrpoConfig {
        num_generations: 4,
        num_iterations: 2,
        beta: 0.04,
        epsilon_high: Some(0.28),
        entropy_coef: 0.01,
        vllm_importance_sampling_correction: false,
        rollout: RolloutConfig { max_completion_length: 8, ..RolloutConfig::default() },
        train: train.clone(),
        ..GrpoConfig::default()
    };
    let model = model(&train);
    let online = online(&train, &model, "group_rollouts");
    check("grpo", &train, model, online, Grpo::new(&config));
}

#[test]
fn rloo_follows_trl() {
    let folder = tempfile::tempdir().unwrap();
    let train = train(folder.path());
    let config = RlooConfig {
        num_generations: 4,
        num_iterations: 2,
        beta: 0.05,
        normalize_advantages: true,
        train: train.clone(),
        ..RlooConfig::default()
    };
    let model = model(&train);
    let online = online(&train, &model, "group_rollouts");
    check("rloo", &train, model, online, Rloo::new(&config));
}

#[test]
fn ppo_follows_pytorch() {
    let folder = tempfile::tempdir().unwrap();
    let train = train(folder.path());
    let config = PpoConfig {
        gamma: 0.98,
        lam: 0.9,
        ent_coef: 0.01,
        target: 0.5,
        horizon: 100.0,
        max_kl: 0.0,
        train: train.clone(),
        ..PpoConfig::default()
    };
    let mut model = model(&train);
    let online = online(&train, &model, "ppo_rollouts");
    let learner = Ppo::load(&config, &mut model).unwrap();
    check("ppo", &train, model, online, learner);
}
