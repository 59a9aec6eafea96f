//! The shadow trainer from the configuration: its settings, its data folder, its engine. Leaves the loop to the trainer.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rectify_trainer::gate::{Bench, Suite};
use rectify_trainer::registry::base_hash;
use rectify_trainer::shadow::{
    Algorithm, LoopWork, Methods, Place, Remote, Rules, Schedule, Settings, Worker, holder,
};
use rectify_trainer::{HeldModel, RewardSpec, TrainError};

use super::{Learning, cache};
use crate::boot::Booted;
use crate::cli::train::{RunMetrics, section};
use crate::cli::{CliError, statement};
use crate::config::{Approval, Config, Start};
use crate::demo;

/// What a worker is made from.
pub struct Parts<'a> {
    /// Store, registry, folders.
    pub learning: &'a Learning,
    /// The engine, and the base in memory.
    pub booted: &'a Booted,
    /// The configuration.
    pub config: &'a Config,
    /// Ends it.
    pub stop: Arc<AtomicBool>,
}

/// The shadow trainer, ready to run on a thread of its own. Called inside a runtime, whose threads serve its store.
///
/// # Errors
/// [`CliError::Usage`] naming the section and key that cannot work, or the file that is missing.
pub fn worker(parts: &Parts<'_>) -> Result<Worker<LoopWork>, CliError> {
    let Parts { learning, booted, config, stop } = parts;
    let shadow = &config.shadow;
    let name = booted.models.policy_name.to_string();
    let base = HeldModel {
        source: booted.source.clone(),
        weights: booted.weights.clone(),
        dtype: Some(booted.models.weight_dtype),
    };
    let refuse = |error: &dyn std::fmt::Display| CliError::Usage(error.to_string());
    let suite = suite(config)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let settings = Settings {
        base_hash: base_hash(&base.source).map_err(|error| refuse(&error))?,
        name: name.clone(),
        base,
        algorithm: shadow.algorithm,
        methods: methods(config)?,
        from_last: shadow.start == Start::Last,
        reference: shadow.reference.into(),
        threads: shadow.threads.unwrap_or(cores.saturating_sub(1)).max(1),
        quality: config.quality.clone(),
        min_reward_accuracy: shadow.min_reward_accuracy,
        limits: config.probation.limits,
        runs: learning.runs.clone(),
        cache: cache(config),
    };
    let remote = Remote::new(tokio::runtime::Handle::current());
    let place = Place {
        name,
        folder: learning.runs.clone(),
        store: learning.store.clone(),
        remote: remote.clone(),
        holder: holder(&learning.runs),
        changed: Arc::clone(&learning.changed),
        wake: Arc::clone(&learning.wake),
        stop: Arc::clone(stop),
    };
    let schedule = Schedule {
        automatic: shadow.automatic,
        every: shadow.every.0,
        min_records: shadow.min_records,
        reward_min_records: shadow.reward_min_records,
        probation: config.gate.probation.0,
        min_answers: config.probation.min_answers,
        rules: Rules { manual: shadow.approval == Approval::Manual, share: config.probation.share },
    };
    let bench = Bench { engine: booted.engine.clone(), models: booted.models.clone(), training_reward: None };
    let mut metrics = RunMetrics::default();
    let work = LoopWork::new(
        settings,
        (learning.store.clone(), learning.registry.clone(), remote),
        (bench, suite),
        statement(&config.card)?,
        Box::new(move |event| metrics.record(event)),
    );
    Ok(Worker::new(place, schedule, work))
}

/// The suite that candidates must pass: the configured one, or the demo's for the demo.
fn suite(config: &Config) -> Result<Suite, CliError> {
    let suite = match &config.gate.suite {
        Some(path) => Suite::load(path),
        None if config.is_demo() => Suite::from_yaml(demo::SUITE),
        None => {
            let message = "configuration: `gate.suite` is missing: the shadow trainer publishes only what a suite has judged; \
                           assets/suites/starter.yaml is one to begin with";
            return Err(CliError::Usage(message.to_owned()));
        }
    };
    suite.map_err(|error| CliError::Usage(error.to_string()))
}

/// The settings of each method, checked as far as they can be before there are data.
fn methods(config: &Config) -> Result<Methods, CliError> {
    let mut methods = Methods {
        dpo: section("dpo", &config.dpo.0)?,
        kto: section("kto", &config.kto.0)?,
        sft: section("sft", &config.sft.0)?,
        ppo: section("ppo", &config.ppo.0)?,
        grpo: section("grpo", &config.grpo.0)?,
        reward: section("reward_model", &config.reward_model.0)?,
    };
    // Whatever the configured method is: a run of another one can be asked for by hand.
    let reward = reward(config)?;
    for rollout in [&mut methods.ppo.rollout, &mut methods.grpo.rollout] {
        if rollout.reward.is_empty() {
            rollout.reward.extend(reward.clone());
        }
    }
    let refuse = |error: TrainError| CliError::Usage(format!("configuration: {error}"));
    match config.shadow.algorithm {
        Algorithm::Auto => methods
            .dpo
            .validate()
            .and_then(|()| methods.kto.validate())
            .and_then(|()| methods.sft.train.validate()),
        Algorithm::Dpo => methods.dpo.validate(),
        Algorithm::Kto => methods.kto.validate(),
        Algorithm::Sft => methods.sft.train.validate(),
        Algorithm::Ppo => methods.ppo.validate(),
        Algorithm::Grpo => methods.grpo.validate(),
        Algorithm::Reward => methods.reward.train.validate(),
    }
    .map_err(refuse)?;
    Ok(methods)
}

/// The default reward model as the trainer reads it: a folder. The demo's is written out of the binary first.
fn reward(config: &Config) -> Result<Option<RewardSpec>, CliError> {
    let default = config.reward.default.as_ref().or(config.rewards.keys().next());
    if let Some(section) = default.and_then(|name| config.rewards.get(name)) {
        return Ok(Some(RewardSpec::Model { path: section.path.clone() }));
    }
    if !config.is_demo() {
        return Ok(None);
    }
    let path = cache(config).join(demo::REWARD);
    std::fs::create_dir_all(&path).map_err(|error| CliError::io(&path, "create the folder", &error))?;
    let source = demo::reward();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let bytes = source.require(file)?;
        let path = path.join(file);
        std::fs::write(&path, &*bytes).map_err(|error| CliError::io(&path, "write", &error))?;
    }
    Ok(Some(RewardSpec::Model { path }))
}
