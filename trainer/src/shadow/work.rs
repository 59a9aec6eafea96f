//! The work of the states on real parts: the store's votes, the trainer, the registry and the gate. Every piece is written
//! so that doing it again after a crash comes to the same end. Leaves when it is done to `worker`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rectify_engine::AdapterRef;
use rectify_engine::model::adapter::Adapter;
use rectify_feedback::store::{Millis, Store, TrainingRun};
use serde_json::{Map, Value};

use super::arms::Comparison;
use super::detail::Detail;
use super::machine::Outcome;
use super::observe::Observed;
use super::remote::Remote;
use super::settings::{Algorithm, Settings, is_reward, registry_name, reward_name};
use super::snapshot;
use super::worker::Work;
use super::{ShadowError, label, ops};
use crate::card::{self, Statement};
use crate::config::{ModelStart, Tuning};
use crate::gate::{self, Bench, GateControl, Subject, Suite};
use crate::registry::{self, Base, Manifest, Provenance, Registry, SnapshotRef, Version};
use crate::run::progress::{Control, Progress};
use crate::{
    RewardSpec, TrainError, TrainReport, train_dpo, train_grpo, train_kto, train_ppo, train_reward, train_sft,
};

/// Steps between checkpoints, for settings that name none: a crash costs no more than these.
const SAVE_STEPS: usize = 50;

/// The loop's work.
pub struct LoopWork {
    /// What it is told.
    pub settings: Settings,
    /// The votes.
    pub store: Store,
    /// Where versions go.
    pub registry: Registry,
    /// The way to both.
    pub remote: Remote,
    /// The engine to measure with.
    pub bench: Bench,
    /// What a candidate must pass.
    pub suite: Suite,
    /// What model cards say that only people know.
    pub statement: Statement,
    /// Told how training goes on.
    pub progress: Box<dyn FnMut(&Progress) + Send>,
    observed: Option<Observed>,
}

impl LoopWork {
    /// Work that has observed nothing yet.
    pub fn new(
        settings: Settings,
        (store, registry, remote): (Store, Registry, Remote),
        (bench, suite): (Bench, Suite),
        statement: Statement,
        progress: Box<dyn FnMut(&Progress) + Send>,
    ) -> Self {
        Self { settings, store, registry, remote, bench, suite, statement, progress, observed: None }
    }

    /// The adapter of a version, `None` for the base.
    fn subject(&self, version: Option<&str>) -> Result<Subject, ShadowError> {
        let adapter = version.map(|version| self.adapter(version)).transpose()?;
        let adapter = adapter.map(|adapter| AdapterRef::Private(Arc::new(adapter)));
        Ok(Subject { label: label(&self.settings.name, version), adapter })
    }

    fn adapter(&self, version: &str) -> Result<Adapter, ShadowError> {
        let folder = self.fetch(version)?;
        Ok(self.bench.engine.read_adapter(&self.settings.name, &folder)?.with_version(version))
    }

    /// The folder of a run's files on this machine.
    fn folder(&self, run: &TrainingRun) -> PathBuf {
        self.settings.runs.join(&run.folder)
    }

    /// The folder of a version's adapter on this machine.
    fn fetch(&self, version: &str) -> Result<PathBuf, ShadowError> {
        self.fetch_of(self.settings.name.clone(), number(version)?)
    }

    fn fetch_of(&self, name: String, number: u64) -> Result<PathBuf, ShadowError> {
        let registry = self.registry.clone();
        let cache = self.settings.cache.clone();
        self.remote.wait(async move { registry.fetch(&name, number, &cache).await })
    }

    /// Settings of the run's method: the configured ones, and what the loop decides.
    fn methods(&self, run: &TrainingRun, algorithm: Algorithm) -> Result<super::Methods, ShadowError> {
        let mut methods = self.settings.methods.clone();
        let folder = self.folder(run);
        let from_last = self.settings.from_last && algorithm != Algorithm::Reward;
        let init_adapter = match (from_last, version_of(&run.base_version)) {
            (true, Some(version)) => Some(self.fetch(version)?),
            _ => None,
        };
        if algorithm.is_online()
            && let Some(reward) = self.newest_reward(run)?
        {
            for rollout in [&mut methods.ppo.rollout, &mut methods.grpo.rollout] {
                rollout.reward = vec![reward.clone()];
            }
        }
        let train = methods.train(algorithm);
        train.model = ModelStart::Held(self.settings.base.clone());
        train.data = vec![snapshot::folder(&folder).join(format!("{}.jsonl", algorithm.data()))];
        train.output_dir = adapter_folder(&folder);
        train.resume = true;
        train.num_threads = self.settings.threads;
        if train.save_steps == 0 {
            train.save_steps = SAVE_STEPS;
        }
        let Tuning::Lora(lora) = &mut train.tuning else {
            return Err(ShadowError::config(
                "use_peft",
                "set it to true: the loop trains adapters of the served base",
            ));
        };
        lora.init_adapter = init_adapter;
        lora.reference = if algorithm.is_online() { Default::default() } else { self.settings.reference };
        Ok(methods)
    }

    /// The newest reward model that was there when the run began and is right often enough.
    fn newest_reward(&self, run: &TrainingRun) -> Result<Option<RewardSpec>, ShadowError> {
        let (registry, name) = (self.registry.clone(), reward_name(&self.settings.name));
        let manifests = self.remote.wait(async move {
            let mut manifests = Vec::new();
            for version in registry.versions(&name).await? {
                manifests.push(registry.manifest(&name, version).await?);
            }
            Ok::<_, ShadowError>(manifests)
        })?;
        let until = Detail::of(run).until;
        let may_judge = |manifest: &&Manifest| {
            let accuracy = accuracy(&manifest.provenance.metrics).unwrap_or(0.0);
            manifest.created_at < until && accuracy >= self.settings.min_reward_accuracy
        };
        let Some(newest) = manifests.iter().rev().find(may_judge) else { return Ok(None) };
        let path = self.fetch_of(newest.name.clone(), newest.version)?;
        Ok(Some(RewardSpec::Model { path }))
    }

    /// The served reward model that the run's adapter learnt from, if it did: another one is to judge it.
    fn training_reward(&self, run: &TrainingRun) -> Result<Option<String>, ShadowError> {
        let is_online = Algorithm::named(&run.algorithm).is_some_and(Algorithm::is_online);
        if !is_online || self.newest_reward(run)?.is_some() {
            return Ok(None);
        }
        Ok(self.bench.models.rewards.first().map(ToString::to_string))
    }

    /// The version that holds this adapter of this run already, if the run was interrupted behind its registration.
    fn registered(&self, run: &TrainingRun, provenance: &Provenance) -> Result<Option<u64>, ShadowError> {
        let hash = content_hash(&adapter_folder(&self.folder(run)))?;
        let (registry, name, wanted) =
            (self.registry.clone(), registry_name(run), provenance.snapshot.clone());
        self.remote.wait(async move {
            let Some(last) = registry.versions(&name).await?.pop() else { return Ok(None) };
            let manifest = registry.manifest(&name, last).await?;
            let is_ours = manifest.content_hash == hash && manifest.provenance.snapshot == wanted;
            Ok::<_, ShadowError>(is_ours.then_some(last))
        })
    }

    fn put(&self, version: u64, file: &'static str, bytes: Vec<u8>) -> Result<(), ShadowError> {
        let (registry, name) = (self.registry.clone(), self.settings.name.clone());
        self.remote.wait(async move { registry.put(&name, version, file, bytes).await })
    }
}

impl Work for LoopWork {
    fn snapshot(&mut self, run: &TrainingRun, _: &AtomicBool) -> Result<Outcome, ShadowError> {
        let (store, until) = (self.store.clone(), Detail::of(run).until);
        let policy = self.settings.name.clone();
        let votes = self.remote.wait(async move { snapshot::votes(&store, policy, until).await })?;
        let algorithm = Algorithm::named(&run.algorithm).unwrap_or(self.settings.algorithm);
        let about = (algorithm, run.base_version.clone());
        let taken = snapshot::take(&votes, &self.settings, about, &self.folder(run))?;
        let chosen = match taken.refused {
            Some(reason) => Err(reason),
            None => algorithm.choose(&taken.counts),
        };
        Ok(match chosen {
            Err(reason) => Outcome::Refused(reason),
            Ok(algorithm) => Outcome::Snapshotted {
                algorithm: algorithm.as_str().to_owned(),
                hash: taken.hash,
                counts: taken.counts,
            },
        })
    }

    fn train(&mut self, run: &TrainingRun, stop: &AtomicBool) -> Result<Option<Outcome>, ShadowError> {
        let unknown =
            || ShadowError::Broken(format!("the run {} has no known method: `{}`", run.id, run.algorithm));
        let algorithm = Algorithm::named(&run.algorithm).ok_or_else(unknown)?;
        let methods = self.methods(run, algorithm)?;
        let control = &mut Control { progress: &mut *self.progress, stop };
        let trained = match algorithm {
            Algorithm::Auto | Algorithm::Dpo => train_dpo(&methods.dpo, control),
            Algorithm::Kto => train_kto(&methods.kto, control),
            Algorithm::Sft => train_sft(&methods.sft, control),
            Algorithm::Ppo => train_ppo(&methods.ppo, control),
            Algorithm::Grpo => train_grpo(&methods.grpo, control),
            Algorithm::Reward => train_reward(&methods.reward, control),
        };
        let report: TrainReport = match trained {
            Err(error @ TrainError::RewardAccuracy { .. }) => {
                return Ok(Some(Outcome::Refused(error.to_string())));
            }
            trained => trained?,
        };
        Ok((!report.stopped).then_some(Outcome::Trained(report.metrics)))
    }

    fn register(&mut self, run: &TrainingRun) -> Result<Outcome, ShadowError> {
        let detail = Detail::of(run);
        let config = Algorithm::named(&run.algorithm)
            .map(|algorithm| Ok::<_, ShadowError>(self.methods(run, algorithm)?.to_json(algorithm)));
        let provenance = Provenance {
            base: Base { name: self.settings.name.clone(), hash: self.settings.base_hash.clone() },
            algorithm: Some(run.algorithm.clone()),
            parent: version_of(&run.base_version).map(|_| run.base_version.clone()),
            snapshot: run.snapshot.clone().map(|hash| SnapshotRef { hash, counts: detail.counts }),
            config: config.transpose()?.unwrap_or_default(),
            metrics: detail.metrics,
        };
        if let Some(version) = self.registered(run, &provenance)? {
            return Ok(Outcome::Registered(version.to_string()));
        }
        let (registry, name) = (self.registry.clone(), registry_name(run));
        let folder = adapter_folder(&self.folder(run));
        let version = self.remote.wait(async move { registry.add(&name, &folder, provenance).await })?;
        Ok(Outcome::Registered(version.to_string()))
    }

    fn validate(&mut self, run: &TrainingRun, stop: &AtomicBool) -> Result<Option<Outcome>, ShadowError> {
        if is_reward(run) {
            return Ok(Some(judge_reward(&Detail::of(run), self.settings.min_reward_accuracy)));
        }
        let missing = || ShadowError::Broken(format!("the run {} has no version to judge", run.id));
        let version = run.version.as_deref().ok_or_else(missing)?;
        let (store, name) = (self.store.clone(), self.settings.name.clone());
        let pointer = self.remote.wait(async move { ops::pointer(&store, &name).await })?;
        let (candidate, baseline) = (self.subject(Some(version))?, self.subject(pointer.version.as_deref())?);
        let mut control = GateControl { progress: &mut |_| {}, stop };
        let bench = Bench { training_reward: self.training_reward(run)?, ..self.bench.clone() };
        let report = match gate::run(&self.suite, &bench, candidate, baseline, &mut control) {
            Ok(report) => report,
            Err(_) if stop.load(std::sync::atomic::Ordering::Relaxed) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let number = number(version)?;
        let json = serde_json::to_vec_pretty(&report).unwrap_or_default();
        self.put(number, registry::GATE_REPORT, json)?;
        let card = {
            let (registry, statement) = (self.registry.clone(), self.statement.clone());
            let version = Version { name: self.settings.name.clone(), number };
            self.remote.wait(async move { card::compose(&registry, &version, &statement).await })?
        };
        self.put(number, registry::MODEL_CARD, card.into_bytes())?;
        for check in &report.checks {
            let verdict = check.verdict.as_str();
            metrics::counter!("rectify_gate_checks_total", "check" => check.name.clone(), "verdict" => verdict).increment(1);
        }
        metrics::counter!("rectify_gate_verdicts_total", "verdict" => report.verdict.as_str()).increment(1);
        Ok(Some(Outcome::Judged { passed: report.passed(), sentence: report.reasons() }))
    }

    fn observe(&mut self, run: &TrainingRun, since: Millis) -> Result<Comparison, ShadowError> {
        let mut observed = match self.observed.take() {
            Some(observed) if observed.is_of(&run.id) => observed,
            _ => Observed::new(&run.id, &self.settings.name, since),
        };
        let (store, refusals) = (self.store.clone(), self.suite.refusal.clone());
        let mut observed = self.remote.wait(async move {
            observed.read(&store, &refusals).await?;
            Ok::<_, ShadowError>(observed)
        })?;
        observed.score(&self.bench);
        let (active, canary) = observed.arms();
        self.observed = Some(observed);
        Ok(Comparison::new(active, canary, &self.settings.limits))
    }
}

fn accuracy(metrics: &Map<String, Value>) -> Option<f64> {
    metrics.get("eval_accuracy")?.as_f64()
}

/// Whether a reward model may judge, by its hold-out.
fn judge_reward(detail: &Detail, required: f64) -> Outcome {
    let accuracy = accuracy(&detail.metrics).unwrap_or(0.0);
    let sentence = format!(
        "right on {:.1} % of held-out pairs; a judge must be on {:.0} %",
        100.0 * accuracy,
        100.0 * required
    );
    Outcome::Judged { passed: accuracy >= required, sentence }
}

/// The PEFT folder that a run makes.
pub(super) fn adapter_folder(run: &Path) -> PathBuf {
    run.join("adapter")
}

/// The registry's hash of an adapter on the disk.
fn content_hash(folder: &Path) -> Result<String, ShadowError> {
    let mut bytes = Vec::new();
    for file in [registry::CONFIG, registry::WEIGHTS] {
        let path = folder.join(file);
        bytes.extend(std::fs::read(&path).map_err(|error| ShadowError::io(&path, error))?);
    }
    Ok(registry::sha256(&bytes))
}

fn number(version: &str) -> Result<u64, ShadowError> {
    version.parse().map_err(|_| ShadowError::NotFound(format!("the version `{version}` is no number")))
}

/// `3` of `demo@3`; nothing of `demo@base`.
fn version_of(label: &str) -> Option<&str> {
    label.rsplit_once('@').map(|(_, version)| version).filter(|version| *version != "base")
}
