//! Online runs on the demo's policy: they raise the reward they are given, resume, and end well when they diverge.

use std::path::{Path, PathBuf};

use crate::config::{LoraConfig, LrScheduler, ModelStart, RolloutConfig, TrainConfig, Tuning};
use crate::run::tests::{log, run_until};
use crate::{
    GrpoConfig, OnlineDpoConfig, PpoConfig, RaftConfig, RlooConfig, SpinConfig, TrainError, train_grpo,
    train_online_dpo, train_ppo, train_raft, train_rloo, train_spin,
};

/// Questions as the demo's policy knows them.
fn prompts(folder: &Path) -> PathBuf {
    let path = folder.join("prompts.jsonl");
    let questions =
        ["How do I reset the lamp?", "What is 3 + 4?", "Where is my parcel?", "Say yes or no: is it on?"];
    let lines: String = questions
        .iter()
        .map(|question| format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"{question}\"}}]}}\n"))
        .collect();
    std::fs::write(&path, lines).unwrap();
    path
}

fn train(folder: &Path) -> TrainConfig {
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/demo/policy");
    TrainConfig {
        model: ModelStart::Folder(policy),
        tuning: Tuning::Lora(LoraConfig { lora_r: 8, lora_alpha: 16.0, ..LoraConfig::default() }),
        data: vec![prompts(folder)],
        output_dir: folder.join("out"),
        num_threads: 2,
        learning_rate: 1e-2,
        lr_scheduler_type: LrScheduler::Constant,
        max_steps: 16,
        per_device_train_batch_size: 32,
        logging_steps: 1,
        save_steps: 0,
        ..TrainConfig::default()
    }
}

fn rollout(reward: &str) -> RolloutConfig {
    RolloutConfig {
        reward: vec![reward.parse().unwrap()],
        max_completion_length: 24,
        kv_cache_mib: 32,
        ..RolloutConfig::default()
    }
}

fn grpo(folder: &Path) -> GrpoConfig {
    // At 1e-2 one seed in seven collapsed after having more than doubled its reward; at half of it six of six rose alike.
    let train = TrainConfig { learning_rate: 5e-3, ..train(folder) };
    GrpoConfig { train, rollout: rollout("length:4"), ..GrpoConfig::default() }
}

/// A metric of every line of the log.
fn metric(folder: &Path, name: &str) -> Vec<f64> {
    log(&folder.join("out")).iter().filter_map(|line| line[name].as_f64()).collect()
}

/// The mean of some of the first and of the last values.
fn ends(values: &[f64]) -> (f64, f64) {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    (mean(&values[..2]), mean(&values[values.len() - 2..]))
}

#[test]
fn grpo_raises_its_reward() {
    let folder = tempfile::tempdir().unwrap();
    let report = run_until(usize::MAX, |control| train_grpo(&grpo(folder.path()), control)).unwrap();
    assert_eq!(report.steps, 16);
    raises(folder.path());
    assert_eq!(metric(folder.path(), "rewards/length/mean"), metric(folder.path(), "reward"));
    // What the engine says of its samples is what the trainer says of them, up to bfloat16 products.
    let differences = metric(folder.path(), "sampling/sampling_logp_difference/mean");
    assert!(differences.iter().all(|difference| *difference < 1e-2), "{differences:?}");
    assert!(folder.path().join("out/adapter_model.safetensors").is_file());
}

/// Rewards in the beginning and in the end.
fn raises(folder: &Path) {
    let rewards = metric(folder, "reward");
    let (before, after) = ends(&rewards);
    assert!(after > before + 0.12, "{rewards:?}");
}

#[test]
fn rloo_raises_its_reward() {
    let folder = tempfile::tempdir().unwrap();
    let (train, rollout) = (train(folder.path()), rollout("length:4"));
    let config = RlooConfig { num_generations: 8, train, rollout, ..RlooConfig::default() };
    run_until(usize::MAX, |control| train_rloo(&config, control)).unwrap();
    raises(folder.path());
}

fn ppo(folder: &Path) -> PpoConfig {
    let (train, rollout) = (train(folder), rollout("length:4"));
    PpoConfig { num_ppo_epochs: 2, max_kl: 0.0, train, rollout, ..PpoConfig::default() }
}

#[test]
fn ppo_raises_its_reward_and_leaves_its_critic_beside_the_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = ppo(folder.path());
    config.train.max_steps = 24;
    run_until(usize::MAX, |control| train_ppo(&config, control)).unwrap();
    raises(folder.path());
    let read = |file: &str| std::fs::read(folder.path().join("out").join(file)).unwrap();
    let (adapter, critic) = (read("adapter_model.safetensors"), read("value_head.safetensors"));
    let names = |bytes: &[u8]| {
        let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
        tensors.names().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(names(&adapter).iter().all(|name| name.contains(".lora_")));
    assert_eq!(names(&critic), ["v_head.summary.weight"]);
    let critic = safetensors::SafeTensors::deserialize(&critic).unwrap();
    assert!(critic.tensor("v_head.summary.weight").unwrap().data().iter().any(|byte| *byte != 0));
}

#[test]
fn ppo_mixes_pretraining_in_and_resumes_with_its_coefficient() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let config = |folder: &Path| {
        let mut config = ppo(folder);
        config.train.max_steps = 6;
        config.train.per_device_train_batch_size = 4;
        config.horizon = 50.0;
        config.ptx_coef = 0.5;
        config.ptx_data = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trajectory_sft.jsonl")];
        config
    };
    run_until(usize::MAX, |control| train_ppo(&config(folders[0].path()), control)).unwrap();
    let mut parts = config(folders[1].path());
    let report = run_until(3, |control| train_ppo(&parts, control)).unwrap();
    assert_eq!((report.stopped, report.steps), (true, 4));
    parts.train.resume = true;
    run_until(usize::MAX, |control| train_ppo(&parts, control)).unwrap();
    let [whole, parts] = folders.each_ref().map(|folder| log(&folder.path().join("out")));
    assert_eq!(whole, parts);
    assert!(whole.iter().all(|line| line["loss/ptx_avg"].is_number()));
    let coefficients: Vec<f64> = metric(folders[0].path(), "objective/kl_coef");
    assert!(coefficients.windows(2).all(|pair| pair[0] != pair[1]), "{coefficients:?}");
}

#[test]
fn a_policy_whose_loss_is_no_number_ends_with_its_last_good_weights() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = ppo(folder.path());
    config.train.learning_rate = 1e30;
    config.train.max_grad_norm = 0.0;
    let error = run_until(usize::MAX, |control| train_ppo(&config, control)).unwrap_err().to_string();
    assert!(error.contains("restored and saved"), "{error}");
}

#[test]
fn raft_and_online_preferences_raise_their_reward() {
    let folder = tempfile::tempdir().unwrap();
    let mut train = train(folder.path());
    train.per_device_train_batch_size = 4;
    let raft = RaftConfig {
        num_generations: 8,
        train: train.clone(),
        rollout: rollout("length:4"),
        ..RaftConfig::default()
    };
    run_until(usize::MAX, |control| train_raft(&raft, control)).unwrap();
    raises(folder.path());
    let config = OnlineDpoConfig {
        num_generations: 8,
        train,
        rollout: rollout("length:4"),
        ..OnlineDpoConfig::default()
    };
    run_until(usize::MAX, |control| train_online_dpo(&config, control)).unwrap();
    raises(folder.path());
}

#[test]
fn self_play_moves_the_policy_towards_the_humans_answers() {
    let folder = tempfile::tempdir().unwrap();
    let mut train = train(folder.path());
    let file = folder.path().join("answers.jsonl");
    let turn = |role: &str, content: &str| format!("{{\"role\": \"{role}\", \"content\": \"{content}\"}}");
    let (question, answer) = (turn("user", "Where is my parcel?"), turn("assistant", "I will look for it."));
    let lines = [
        format!("{{\"prompt\": [{question}], \"completion\": [{answer}]}}\n"),
        format!("{{\"messages\": [{question}, {answer}]}}\n"),
    ];
    std::fs::write(&file, lines.concat()).unwrap();
    train.data = vec![file];
    train.per_device_train_batch_size = 2;
    // Once the policy says what the human said, steps as long as the others' take it away again.
    train.learning_rate = 3e-3;
    let rollout = RolloutConfig { reward: Vec::new(), ..rollout("json") };
    let config = SpinConfig { num_iterations: 3, train, rollout, ..SpinConfig::default() };
    run_until(usize::MAX, |control| train_spin(&config, control)).unwrap();
    let logprobs = metric(folder.path(), "logps/chosen");
    assert!(logprobs[logprobs.len() - 1] > logprobs[0] + 1.0, "{logprobs:?}");
}

#[test]
fn an_online_run_resumes_at_the_border_of_a_rollout_to_the_bit() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let config = |folder: &Path| {
        let mut config = grpo(folder);
        config.train.max_steps = 4;
        config.train.per_device_train_batch_size = 8;
        config.steps_per_generation = 2;
        config.num_generations = 4;
        config.beta = 0.05;
        config
    };
    run_until(usize::MAX, |control| train_grpo(&config(folders[0].path()), control)).unwrap();
    let mut parts = config(folders[1].path());
    let report = run_until(1, |control| train_grpo(&parts, control)).unwrap();
    assert_eq!((report.stopped, report.steps), (true, 2), "the second step learns from the same rollout");
    parts.train.resume = true;
    run_until(usize::MAX, |control| train_grpo(&parts, control)).unwrap();
    let [whole, parts] = folders.each_ref().map(|folder| log(&folder.path().join("out")));
    assert_eq!(whole, parts);
    assert!(whole.iter().all(|line| line["kl"].is_number() && line["entropy"].is_number()));
}

#[test]
fn a_run_that_leaves_its_reference_behind_ends_with_its_last_good_weights() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = grpo(folder.path());
    config.beta = 1e-3;
    config.max_kl = 0.5;
    config.train.learning_rate = 0.03;
    let error = run_until(usize::MAX, |control| train_grpo(&config, control)).unwrap_err();
    assert!(matches!(error, TrainError::Restored { .. }), "{error}");
    let sentence = error.to_string();
    assert!(sentence.contains("above max_kl 0.5: raise beta") && sentence.contains("restored"), "{sentence}");
    assert!(folder.path().join("out/adapter_model.safetensors").is_file());
}

#[test]
fn what_cannot_work_is_said_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |change: fn(&mut GrpoConfig)| {
        let mut config = grpo(folder.path());
        change(&mut config);
        run_until(usize::MAX, |control| train_grpo(&config, control)).unwrap_err().to_string()
    };
    assert!(refused(|config| config.train.tuning = Tuning::Full).contains("use_peft: set it to true"));
    assert!(refused(|config| config.rollout.reward.clear()).contains("reward: name at least one"));
    assert!(refused(|config| config.num_generations = 5).contains("multiple of the 5 of each prompt"));
    assert!(refused(|config| config.rollout.reward_weights = vec![1.0, 2.0]).contains("reward_weights"));
}

#[test]
fn a_reward_model_on_the_same_base_judges_beside_a_program() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/demo/reward");
    let mut config = grpo(folder.path());
    config.train.max_steps = 2;
    config.train.eval_data = config.train.data.clone();
    config.rollout.reward =
        vec![format!("model:{}", demo.display()).parse().unwrap(), "json".parse().unwrap()];
    config.rollout.reward_weights = vec![0.5, 1.0];
    let report = run_until(usize::MAX, |control| train_grpo(&config, control)).unwrap();
    let of = |name: &str| metric(folder.path(), name);
    let (model, json, sum) = (of("rewards/reward/mean"), of("rewards/json/mean"), of("reward"));
    for step in 0..2 {
        assert!(model[step] != 0.0 && (sum[step] - 0.5 * model[step] - json[step]).abs() < 1e-9);
    }
    assert!(report.metrics["eval_reward"].is_number(), "{:?}", report.metrics);
}

#[test]
fn ppo_refuses_a_reward_model_that_says_it_guesses() {
    let folder = tempfile::tempdir().unwrap();
    let rewards = folder.path().join("rm");
    std::fs::create_dir(&rewards).unwrap();
    std::fs::write(rewards.join("train_log.jsonl"), "{\"step\": 9, \"eval_accuracy\": 0.6}\n").unwrap();
    let mut config = ppo(folder.path());
    config.rollout = rollout(&format!("model:{}", rewards.display()));
    let error = run_until(usize::MAX, |control| train_ppo(&config, control)).unwrap_err().to_string();
    assert!(error.contains("right on 60.0 % of its held-out pairs, below 65 %"), "{error}");
}
