//! The engine as others see it: a closed set of commands in, one channel of events per request out. Leaves the loop
//! behind it to `engine`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::events::{Bell, EventReceiver, EventSender, channel};
use crate::ids::{ModelId, RequestId};
use crate::model::adapter::{Adapter, AdapterInfo};
use crate::request::{Event, GenerateRequest, ScoreRequest};
use crate::{AdapterLoader, EngineError};

/// What can be asked of the engine thread.
#[derive(Debug)]
pub enum Command {
    /// Generate with a policy; events go to `events` until `Done` or `Failed`.
    Generate(RequestId, ModelId, Box<GenerateRequest>, EventSender),
    /// Score; `Scored` events, then `Done` or `Failed`.
    Score(RequestId, Box<ScoreRequest>, EventSender),
    /// Forget a request and free its blocks at once.
    Abort(RequestId),
    /// Let requests find an adapter by its name.
    InstallAdapter {
        /// The policy it is for.
        policy: ModelId,
        /// Read and packed elsewhere.
        adapter: Arc<Adapter>,
        /// Replace an adapter of the same name.
        replace: bool,
        /// The answer.
        reply: oneshot::Sender<Result<AdapterInfo, EngineError>>,
    },
    /// Forget an adapter; running sequences keep theirs.
    UnloadAdapter {
        /// The policy it is for.
        policy: ModelId,
        /// Its name.
        name: String,
        /// The answer.
        reply: oneshot::Sender<Result<(), EngineError>>,
    },
    /// The loaded adapters of a policy.
    Adapters(ModelId, oneshot::Sender<Vec<AdapterInfo>>),
    /// A snapshot of queues and counters, and of a policy's blocks.
    Stats(ModelId, oneshot::Sender<EngineStats>),
    /// Finish what runs, refuse what comes; answers when idle.
    Drain(oneshot::Sender<()>),
}

/// Queue lengths and counters at one moment over all models, and one policy's blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Requests not yet admitted.
    pub waiting: usize,
    /// Sequences admitted and not finished.
    pub running: usize,
    /// KV blocks of the policy.
    pub total_blocks: usize,
    /// Of those, referenced by a sequence.
    pub used_blocks: usize,
    /// Most blocks ever referenced at once.
    pub peak_used_blocks: usize,
    /// Steps run.
    pub steps: u64,
    /// Groups preempted.
    pub preemptions: u64,
    /// Tokens taken from the prefix cache, of prompts and of texts to score.
    pub prefix_hit_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Time in the models' forward passes.
    pub forward_time: Duration,
    /// Time in drawing tokens from their logits.
    pub sampling_time: Duration,
}

/// A cheap, cloneable way to talk to the engine thread about one of its policies; [`EngineHandle::of`] gives those of the
/// others. Reward models are everybody's.
#[derive(Clone)]
pub struct EngineHandle {
    commands: mpsc::Sender<Command>,
    bell: Arc<Bell>,
    next_id: Arc<std::sync::atomic::AtomicU64>,
    policy: ModelId,
    /// By policy.
    loaders: Arc<[Arc<dyn AdapterLoader>]>,
}

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineHandle").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// The events of one request. Dropping it aborts the request.
#[derive(Debug)]
pub struct EventStream {
    id: RequestId,
    events: EventReceiver,
    commands: mpsc::Sender<Command>,
    ended: bool,
}

impl EventStream {
    /// The next event; `None` after `Done` or `Failed`, or if the engine's thread ended.
    pub async fn next(&mut self) -> Option<Event> {
        let event = std::future::poll_fn(|context| self.events.poll_next(context)).await;
        self.note(event)
    }

    /// [`EventStream::next`] for callers outside an async runtime.
    pub fn next_blocking(&mut self) -> Option<Event> {
        let event = self.events.next_blocking();
        self.note(event)
    }

    fn note(&mut self, event: Option<Event>) -> Option<Event> {
        self.ended |= matches!(event, None | Some(Event::Done(_) | Event::Failed(_)));
        event
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        if !self.ended {
            // A full queue is no reason to wait: the engine also notices the closed channel at its next event.
            let _ = self.commands.try_send(Command::Abort(self.id));
        }
    }
}

/// Commands that may wait before senders are held back.
pub const COMMAND_QUEUE: usize = 1024;

impl EngineHandle {
    /// A handle on the first of the policies whose adapters `loaders` read, and the receiving end for the engine's thread.
    /// Readers of events wake by `bell`.
    pub fn new(loaders: Arc<[Arc<dyn AdapterLoader>]>, bell: Arc<Bell>) -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        (Self { commands, bell, next_id: Arc::default(), policy: ModelId::POLICY, loaders }, receiver)
    }

    /// The handle on the policy at this place.
    #[must_use]
    pub fn of(&self, policy: usize) -> Option<Self> {
        let policy = u16::try_from(policy).ok().filter(|&policy| usize::from(policy) < self.loaders.len());
        policy.map(|policy| Self { policy: ModelId(policy), ..self.clone() })
    }

    fn loader(&self) -> Result<&Arc<dyn AdapterLoader>, EngineError> {
        let missing = || EngineError::Execution("the engine has no such policy".to_owned());
        self.loaders.get(self.policy.index()).ok_or_else(missing)
    }

    /// Starts generation.
    ///
    /// # Errors
    /// [`EngineError::Shutdown`] if the engine has stopped; anything else comes as [`Event::Failed`].
    pub async fn generate(&self, request: GenerateRequest) -> Result<EventStream, EngineError> {
        let (command, stream) = self.generation(request);
        self.send(command).await.map(|()| stream)
    }

    /// [`EngineHandle::generate`] for callers outside an async runtime.
    ///
    /// # Errors
    /// As [`EngineHandle::generate`].
    pub fn generate_blocking(&self, request: GenerateRequest) -> Result<EventStream, EngineError> {
        let (command, stream) = self.generation(request);
        self.commands.blocking_send(command).map_err(|_| EngineError::Shutdown).map(|()| stream)
    }

    /// Starts scoring.
    ///
    /// # Errors
    /// As [`EngineHandle::generate`].
    pub async fn score(&self, request: ScoreRequest) -> Result<EventStream, EngineError> {
        let (command, stream) = self.scoring(request);
        self.send(command).await.map(|()| stream)
    }

    /// [`EngineHandle::score`] for callers outside an async runtime.
    ///
    /// # Errors
    /// As [`EngineHandle::generate`].
    pub fn score_blocking(&self, request: ScoreRequest) -> Result<EventStream, EngineError> {
        let (command, stream) = self.scoring(request);
        self.commands.blocking_send(command).map_err(|_| EngineError::Shutdown).map(|()| stream)
    }

    fn generation(&self, request: GenerateRequest) -> (Command, EventStream) {
        // One event per token at most, one per block, and a handful per candidate: the engine never waits for a slow reader.
        let n = request.alignment.as_ref().map_or(request.num_choices, |a| a.n).max(request.num_choices);
        let max_tokens = request.sampling.max_tokens;
        let capacity =
            n.saturating_mul(max_tokens.saturating_add(4)).saturating_add(max_tokens).saturating_add(4);
        self.open(capacity, |id, events| Command::Generate(id, self.policy, Box::new(request), events))
    }

    fn scoring(&self, request: ScoreRequest) -> (Command, EventStream) {
        let num_texts = match &request.input {
            crate::request::ScoreInput::Candidates { candidates, .. } => candidates.len(),
            crate::request::ScoreInput::Texts(texts) => texts.len(),
        };
        self.open(num_texts + 4, |id, events| Command::Score(id, Box::new(request), events))
    }

    fn open(
        &self,
        capacity: usize,
        command: impl FnOnce(RequestId, EventSender) -> Command,
    ) -> (Command, EventStream) {
        let id = RequestId(self.next_id.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let (sender, events) = channel(capacity.max(16), Arc::clone(&self.bell));
        let stream = EventStream { id, events, commands: self.commands.clone(), ended: false };
        (command(id, sender), stream)
    }

    async fn send(&self, command: Command) -> Result<(), EngineError> {
        self.commands.send(command).await.map_err(|_| EngineError::Shutdown)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.map_err(|_| EngineError::Shutdown)
    }

    /// Reads a PEFT folder and packs it for the policy, on this thread: steps go on meanwhile. The adapter is nobody's yet;
    /// requests may bring it along ([`crate::AdapterRef::Private`]), or [`EngineHandle::install_adapter`] names it.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the file and what is wrong in it.
    pub fn read_adapter(&self, name: &str, path: &Path) -> Result<Adapter, EngineError> {
        self.loader()?.load(name, path)
    }

    /// Lets requests find an adapter by its name; with `replace`, in place of one of the same name.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`]; nothing changes then.
    pub async fn install_adapter(
        &self,
        adapter: Arc<Adapter>,
        replace: bool,
    ) -> Result<AdapterInfo, EngineError> {
        let policy = self.policy;
        self.ask(|reply| Command::InstallAdapter { policy, adapter, replace, reply }).await?
    }

    /// Reads a PEFT folder on a thread of its own and installs it.
    ///
    /// # Errors
    /// [`EngineError::Load`] or [`EngineError::InvalidRequest`]; nothing changes then.
    pub async fn load_adapter(
        &self,
        name: String,
        path: PathBuf,
        replace: bool,
    ) -> Result<AdapterInfo, EngineError> {
        let loader = Arc::clone(self.loader()?);
        let (reply, read) = oneshot::channel();
        std::thread::Builder::new()
            .name("rectify-adapter".into())
            .spawn(move || drop(reply.send(loader.load(&name, &path))))
            .map_err(|error| EngineError::Execution(format!("a thread did not start: {error}")))?;
        let adapter =
            read.await.map_err(|_| EngineError::Execution("reading the adapter panicked".into()))??;
        self.install_adapter(Arc::new(adapter), replace).await
    }

    /// Forgets an adapter; running sequences keep theirs.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub async fn unload_adapter(&self, name: String) -> Result<(), EngineError> {
        let policy = self.policy;
        self.ask(|reply| Command::UnloadAdapter { policy, name, reply }).await?
    }

    /// The loaded adapters.
    ///
    /// # Errors
    /// [`EngineError::Shutdown`].
    pub async fn adapters(&self) -> Result<Vec<AdapterInfo>, EngineError> {
        self.ask(|reply| Command::Adapters(self.policy, reply)).await
    }

    /// A snapshot of queues and counters, and of the policy's blocks.
    ///
    /// # Errors
    /// [`EngineError::Shutdown`].
    pub async fn stats(&self) -> Result<EngineStats, EngineError> {
        self.ask(|reply| Command::Stats(self.policy, reply)).await
    }

    /// Lets what runs finish and refuses what comes; returns when the engine is idle.
    ///
    /// # Errors
    /// [`EngineError::Shutdown`].
    pub async fn drain(&self) -> Result<(), EngineError> {
        self.ask(Command::Drain).await
    }
}
