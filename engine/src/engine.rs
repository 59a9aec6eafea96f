//! The engine's thread: commands in, steps run, events out. This file owns the loop and what happens to a request as a
//! whole; `engine/admission` checks what comes in, `engine/outputs` turns what a step made into events, `engine/judging` what
//! reward models said. Leaves decisions
//! to the scheduler, the sampler and the strategy.

mod admission;
mod judging;
mod outputs;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use rectify_kernels::Pool;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use crate::adapters::AdapterStore;
use crate::batch::Executor;
use crate::events::Bell;
use crate::generation::Generating;
use crate::handle::{Command, EngineStats};
use crate::ids::{ModelId, RequestId};
use crate::metrics::{EngineMetrics, Names, Outcome, RewardMetrics};
use crate::sampler::Sampler;
use crate::scheduler::{Load, Scheduler, Step};
use crate::scoring::{RewardModel, Scoring};
use crate::{EngineConfig, EngineError, EngineHandle, EngineParts, PolicyParts, RewardWeights, TokenBytes};

/// All engine state. Lives on one thread; see [`start`].
pub struct Engine {
    /// By [`ModelId`].
    executors: Vec<Box<dyn Executor>>,
    /// The first of the models, in the same order.
    policies: Vec<Policy>,
    rewards: Vec<RewardModel>,
    scheduler: Scheduler,
    sampler: Sampler,
    pool: Arc<Pool>,
    requests: HashMap<RequestId, Request>,
    /// Refilled each step.
    step: Step,
    /// Refilled each step, by model.
    loads: Vec<Load>,
    /// Seeds of requests that name none.
    seeds: StdRng,
    /// Waiting for the engine to be idle; while there are any, or were, new requests are refused.
    drains: Vec<oneshot::Sender<()>>,
    is_draining: bool,
    /// Of all requests' readers.
    bell: Arc<Bell>,
    metrics: EngineMetrics,
    num_steps: u64,
    generated_tokens: u64,
    forward_time: Duration,
    sampling_time: Duration,
}

/// A policy beside its weights.
struct Policy {
    adapters: AdapterStore,
    token_bytes: Arc<dyn TokenBytes>,
    eos_token_ids: Vec<u32>,
}

impl Policy {
    /// A policy and its weights.
    fn of(parts: PolicyParts) -> (Self, Box<dyn Executor>) {
        let adapters = AdapterStore::new(parts.name, parts.adapters);
        let (token_bytes, eos_token_ids) = (parts.token_bytes, parts.eos_token_ids);
        (Self { adapters, token_bytes, eos_token_ids }, parts.executor)
    }
}

/// A request being served.
#[derive(Debug)]
enum Request {
    Generating(Box<Generating>),
    Scoring(Scoring),
}

impl Request {
    /// The reward model at this place among those of the request.
    fn judge(&self, judge: usize) -> Option<usize> {
        match self {
            Self::Generating(generating) => {
                Some(generating.aligned.as_ref()?.judging.judges.get(judge)?.model)
            }
            Self::Scoring(scoring) => Some(scoring.reward),
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("rewards", &self.rewards)
            .field("requests", &self.requests.len())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An idle engine.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] if the configuration is out of range, there is no policy, or a reward model has no
    /// score head.
    pub fn new(config: EngineConfig, parts: EngineParts) -> Result<Self, EngineError> {
        config.validate()?;
        if parts.policies.is_empty() {
            return Err(EngineError::invalid("model", "there is no policy; give at least one"));
        }
        let mut names: Vec<Arc<str>> = parts.policies.iter().map(|policy| Arc::clone(&policy.name)).collect();
        let (policies, mut executors): (Vec<Policy>, Vec<_>) =
            parts.policies.into_iter().map(Policy::of).unzip();
        let mut rewards: Vec<RewardModel> = Vec::new();
        for reward in parts.rewards {
            let name = reward.name;
            if rewards.iter().any(|other| other.name == name) {
                let message = format!("two reward models are called `{name}`; give each its own name");
                return Err(EngineError::invalid("reward", message));
            }
            let (model, adapter, has_score_head) = match reward.weights {
                RewardWeights::Own(executor) => {
                    let model = ModelId(executors.len() as u16);
                    let has_score_head = executor.spec().has_score_head;
                    executors.push(executor);
                    names.push(Arc::clone(&name));
                    (model, None, has_score_head)
                }
                RewardWeights::Adapter { policy, adapter } => {
                    let has_score_head = adapter.info.has_score_head && policy < policies.len();
                    (ModelId(policy as u16), Some(adapter), has_score_head)
                }
            };
            if !has_score_head {
                let message = format!("`{name}` has no score head, so it cannot be a reward model");
                return Err(EngineError::invalid("reward", message));
            }
            let block_size = executors[model.index()].spec().block_size;
            rewards.push(RewardModel { name, spec: reward.spec, model, adapter, block_size });
        }
        let specs: Vec<_> = executors.iter().map(|executor| executor.spec()).collect();
        if specs.iter().any(|spec| spec.num_blocks == 0 || spec.block_size == 0) {
            return Err(EngineError::invalid("cache", "a KV cache has no blocks; give it more memory"));
        }
        let reward_names: Vec<_> = rewards.iter().map(|reward| Arc::clone(&reward.name)).collect();
        let names = Names { models: &names, num_policies: policies.len(), rewards: &reward_names };
        Ok(Self {
            metrics: EngineMetrics::new(&names),
            scheduler: Scheduler::new(config, &specs),
            sampler: Sampler::default(),
            pool: parts.pool,
            requests: HashMap::new(),
            step: Step::default(),
            loads: Vec::new(),
            seeds: StdRng::from_os_rng(),
            drains: Vec::new(),
            is_draining: false,
            bell: Arc::default(),
            num_steps: 0,
            generated_tokens: 0,
            forward_time: Duration::ZERO,
            sampling_time: Duration::ZERO,
            executors,
            policies,
            rewards,
        })
    }

    /// Serves `commands` until every [`EngineHandle`] and every event stream is gone. Sleeps while there is nothing to do.
    pub fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.report_load();
        loop {
            if self.requests.is_empty() {
                for drained in self.drains.drain(..) {
                    let _ = drained.send(());
                }
                match self.next_command(&mut commands) {
                    Some(command) => self.handle(command),
                    None => return,
                }
            }
            loop {
                match commands.try_recv() {
                    Ok(command) => self.handle(command),
                    Err(TryRecvError::Empty) => break,
                    // Nobody is left to hear an answer.
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.step();
            self.bell.ring();
            self.prepare(false);
        }
    }

    /// Waits for a command, and meanwhile gets ready for what it may ask.
    fn next_command(&mut self, commands: &mut mpsc::Receiver<Command>) -> Option<Command> {
        while self.prepare(true) {
            match commands.try_recv() {
                Ok(command) => return Some(command),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return None,
            }
        }
        commands.blocking_recv()
    }

    fn prepare(&mut self, is_idle: bool) -> bool {
        self.executors.iter_mut().any(|executor| executor.prepare(is_idle))
    }

    /// Runs one step, if there is anything to do.
    fn step(&mut self) {
        if self.requests.is_empty() {
            // What ended between steps, as an aborted request does, is reported by none of them.
            return self.report_load();
        }
        let started = Instant::now();
        let mut step = std::mem::take(&mut self.step);
        self.scheduler.schedule(&mut step);
        if step.is_empty() {
            self.fail_all("requests wait, but none of them can be scheduled");
        }
        let mut begun = started;
        for work in step.models.iter_mut().filter(|work| !work.items.is_empty()) {
            self.run_model(work);
            // Once for all its events.
            self.bell.ring();
            let ended = Instant::now();
            work.time = ended - std::mem::replace(&mut begun, ended);
        }
        self.scheduler.observe(&step);
        let time = started.elapsed();
        self.num_steps += 1;
        let num_seqs = step.models.iter().map(|work| work.items.len()).sum();
        self.metrics.step(step.num_tokens(), num_seqs, time);
        self.report_load();
        self.step = step;
        debug_assert_eq!(self.scheduler.check_integrity(), Ok(()));
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Generate(id, policy, request, events) => {
                self.admit_generation(id, policy, *request, events);
            }
            Command::Score(id, request, events) => self.admit_scoring(id, &request, events),
            Command::Abort(id) => self.end(id, Outcome::Aborted),
            Command::InstallAdapter { policy, adapter, replace, reply } => {
                let _ = reply.send(self.policies[policy.index()].adapters.install(adapter, replace));
            }
            Command::UnloadAdapter { policy, name, reply } => {
                let _ = reply.send(self.policies[policy.index()].adapters.unload(&name));
            }
            Command::Adapters(policy, reply) => {
                let _ = reply.send(self.policies[policy.index()].adapters.infos());
            }
            Command::Stats(policy, reply) => {
                let _ = reply.send(self.stats(policy));
            }
            Command::Drain(reply) => {
                self.is_draining = true;
                self.drains.push(reply);
            }
        }
    }

    /// Forgets a request and frees its blocks. Unknown requests are ignored.
    fn end(&mut self, id: RequestId, outcome: Outcome) {
        if let Some(request) = self.requests.remove(&id) {
            self.scheduler.remove(id);
            let model = match &request {
                Request::Generating(generating) => {
                    self.policies[generating.policy.index()].adapters.policy_name()
                }
                Request::Scoring(scoring) => &self.rewards[scoring.reward].name,
            };
            self.metrics.request(outcome, model);
        }
    }

    /// Ends a request with an error.
    fn fail(&mut self, id: RequestId, error: EngineError) {
        tracing::warn!(request = id.0, %error, "a request failed");
        match self.requests.get(&id) {
            Some(Request::Generating(generating)) => generating.fail(error),
            Some(Request::Scoring(scoring)) => scoring.fail(error),
            None => {}
        }
        self.end(id, Outcome::Failed);
    }

    /// A way out of a state that should not exist: better than a loop without end.
    fn fail_all(&mut self, reason: &str) {
        tracing::error!(reason, "the scheduler is stuck");
        let ids: Vec<RequestId> = self.requests.keys().copied().collect();
        for id in ids {
            self.fail(id, EngineError::Execution(reason.to_owned()));
        }
    }

    /// What is counted of the reward model at this place among those of a request.
    fn reward_metrics(&self, id: RequestId, judge: usize) -> Option<&RewardMetrics> {
        let reward = self.requests.get(&id)?.judge(judge)?;
        Some(self.metrics.reward(reward))
    }

    fn count_failure(&self, id: RequestId, judge: usize) {
        if let Some(metrics) = self.reward_metrics(id, judge) {
            metrics.scorer_failures.increment(1);
        }
    }

    fn next_seed(&mut self) -> u64 {
        self.seeds.next_u64()
    }

    fn stats(&self, policy: ModelId) -> EngineStats {
        let pool = self.scheduler.pool(policy);
        EngineStats {
            waiting: self.scheduler.num_waiting(),
            running: self.scheduler.num_running(),
            total_blocks: pool.num_blocks(),
            used_blocks: pool.num_used(),
            peak_used_blocks: pool.peak_used(),
            steps: self.num_steps,
            preemptions: self.scheduler.num_preemptions(),
            prefix_hit_tokens: self.scheduler.prefix_hit_tokens(),
            generated_tokens: self.generated_tokens,
            forward_time: self.forward_time,
            sampling_time: self.sampling_time,
        }
    }

    fn report_load(&mut self) {
        self.scheduler.loads(&mut self.loads);
        for (model, load) in (0..).map(ModelId).zip(&self.loads) {
            self.metrics.load(model, load, self.scheduler.pool(model));
        }
    }
}

/// Starts an engine on a thread of its own, where `build` makes its parts; returns when they are built. The engine ends
/// when the last handle and the last event stream are gone.
///
/// # Errors
/// What `build` or [`Engine::new`] says, or [`EngineError::Shutdown`] if the thread could not be started or panicked.
pub fn start(
    config: EngineConfig,
    build: impl FnOnce() -> Result<EngineParts, EngineError> + Send + 'static,
) -> Result<EngineHandle, EngineError> {
    let (report, built) = std::sync::mpsc::sync_channel(1);
    let body = move || {
        let engine = build().and_then(|parts| {
            let loaders = parts.policies.iter().map(|policy| Arc::clone(&policy.adapter_loader)).collect();
            let engine = Engine::new(config, parts)?;
            Ok((EngineHandle::new(loaders, Arc::clone(&engine.bell)), engine))
        });
        match engine {
            Ok(((handle, commands), engine)) => {
                let _ = report.send(Ok(handle));
                engine.run(commands);
            }
            Err(error) => {
                let _ = report.send(Err(error));
            }
        }
    };
    std::thread::Builder::new()
        .name("rectify-engine".into())
        .spawn(body)
        .map_err(|error| EngineError::Execution(format!("the engine's thread did not start: {error}")))?;
    built.recv().map_err(|_| EngineError::Shutdown)?
}
