//! The loop in time: one thread that starts runs when they are due, does the work of the state a run is in, and commits
//! what follows. Whatever it knows is in the store: after a crash it goes on from there. Leaves the work itself to `work`
//! and what follows from it to `machine`.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rectify_feedback::store::{Millis, ServingPointer, TrainingRun, VoteFilter, now};

use super::arms::Comparison;
use super::detail::Detail;
use super::machine::{self, Change, Outcome, Rules};
use super::place::Place;
use super::settings::{Algorithm, is_reward};
use super::{ShadowError, State};

/// How long a lease holds if its holder falls silent.
const LEASE: Duration = Duration::from_secs(30);
/// How often a lease is renewed and a running run looked at.
const WATCH: Duration = Duration::from_secs(1);
/// How long to wait after the store or the registry did not answer, at most.
const MAX_PATIENCE: Duration = Duration::from_secs(60);
/// Runs that are looked through for one that has not ended.
const RECENT: u32 = 50;

/// The work of the states. Whatever is interrupted is done again: each call must be able to find what an earlier one left.
pub trait Work: Send {
    /// Chooses the data up to the run's `until` and writes them down.
    ///
    /// # Errors
    /// What stands in the way; the run fails.
    fn snapshot(&mut self, run: &TrainingRun, stop: &AtomicBool) -> Result<Outcome, ShadowError>;
    /// Trains on the snapshot; `None` if it was stopped and may go on later.
    ///
    /// # Errors
    /// As [`Work::snapshot`].
    fn train(&mut self, run: &TrainingRun, stop: &AtomicBool) -> Result<Option<Outcome>, ShadowError>;
    /// Adds the adapter to the registry, once.
    ///
    /// # Errors
    /// As [`Work::snapshot`].
    fn register(&mut self, run: &TrainingRun) -> Result<Outcome, ShadowError>;
    /// Judges the version; `None` if it was stopped.
    ///
    /// # Errors
    /// As [`Work::snapshot`].
    fn validate(&mut self, run: &TrainingRun, stop: &AtomicBool) -> Result<Option<Outcome>, ShadowError>;
    /// Compares the arms since `since`.
    ///
    /// # Errors
    /// As [`Work::snapshot`].
    fn observe(&mut self, run: &TrainingRun, since: Millis) -> Result<Comparison, ShadowError>;
}

/// When runs start, and how long a probation lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Whether runs start by themselves.
    pub automatic: bool,
    /// Least time between the starts of two runs.
    pub every: Duration,
    /// New votes that make a run worth while.
    pub min_records: u64,
    /// New votes that make a new reward model worth while; `None` for none unless by hand.
    pub reward_min_records: Option<u64>,
    /// How long a candidate is compared before it is kept.
    pub probation: Duration,
    /// Answers that it has given by then; with fewer the comparison goes on.
    pub min_answers: u64,
    /// How outcomes are acted upon.
    pub rules: Rules,
}

/// The loop.
pub struct Worker<W> {
    place: Place,
    schedule: Schedule,
    work: W,
    /// Held from the first look on.
    lock: Option<File>,
}

impl<W: Work> Worker<W> {
    /// A loop that does `work`.
    pub fn new(place: Place, schedule: Schedule, work: W) -> Self {
        Self { place, schedule, work, lock: None }
    }

    /// Runs until `stop`, on this thread and with its priority.
    pub fn run(mut self) {
        let mut patience = WATCH;
        while !self.place.stop.load(Ordering::Relaxed) {
            let pause = match self.look() {
                Ok(true) => {
                    patience = WATCH;
                    continue;
                }
                Ok(false) => {
                    patience = WATCH;
                    WATCH
                }
                Err(error) => {
                    tracing::warn!(%error, wait = ?patience, "the shadow loop cannot go on now");
                    let pause = patience;
                    patience = (2 * patience).min(MAX_PATIENCE);
                    pause
                }
            };
            self.pause(pause);
        }
        let (store, name, holder) = (self.place.store.clone(), self.lease_name(), self.place.holder.clone());
        // Another process need not wait for the lease to run out.
        let _ = self.place.remote.wait(async move { store.release(&name, &holder).await });
    }

    fn pause(&self, time: Duration) {
        let wake = Arc::clone(&self.place.wake);
        let waited = async move {
            let _ = tokio::time::timeout(time, wake.notified()).await;
            Ok::<(), ShadowError>(())
        };
        if self.place.remote.wait(waited).is_err() {
            std::thread::sleep(time);
        }
    }

    fn lease_name(&self) -> String {
        format!("shadow/{}", self.place.name)
    }

    /// Does what is to be done now; whether there may be more at once.
    ///
    /// # Errors
    /// What is worth trying again.
    pub fn look(&mut self) -> Result<bool, ShadowError> {
        if self.lock.is_none() {
            self.lock = self.place.lock()?;
        }
        let (store, lease, holder) = (self.place.store.clone(), self.lease_name(), self.place.holder.clone());
        if self.lock.is_none()
            || !self.place.remote.wait(async move { store.lease(&lease, &holder, LEASE).await })?
        {
            return Ok(false);
        }
        let (store, name) = (self.place.store.clone(), self.place.name.clone());
        let (runs, pointer) = self.place.remote.wait(async move {
            Ok::<_, ShadowError>((store.runs(RECENT).await?, store.serving(&name).await?))
        })?;
        let runs: Vec<TrainingRun> = runs.into_iter().filter(|run| run.adapter == self.place.name).collect();
        let pointer = pointer.unwrap_or_else(|| pointer_of(&self.place.name));
        match super::ops::open_run(&runs)? {
            Some(run) => self.proceed(run, &pointer),
            None => self.start_if_due(&runs, &pointer),
        }
    }

    fn start_if_due(&self, runs: &[TrainingRun], pointer: &ServingPointer) -> Result<bool, ShadowError> {
        if !self.schedule.automatic {
            return Ok(false);
        }
        // A new judge first: what learns from it comes after it.
        let jobs = [
            (Some(Algorithm::Reward), self.schedule.reward_min_records),
            (None, Some(self.schedule.min_records)),
        ];
        for (algorithm, min_records) in jobs {
            let Some(min_records) = min_records else { continue };
            let last = runs.iter().find(|run| is_reward(run) == algorithm.is_some());
            if self.is_due(last, min_records)? {
                self.commit(machine::start(
                    super::ops::new_run_id(),
                    pointer,
                    ("records", algorithm),
                    now(),
                ))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether time and votes enough have come since the last run of a kind.
    fn is_due(&self, last: Option<&TrainingRun>, min_records: u64) -> Result<bool, ShadowError> {
        let waited = last.map_or(Millis::MAX, |run| now() - run.created_at);
        if waited < millis(self.schedule.every) {
            return Ok(false);
        }
        let since = last.map(|run| Detail::of(run).until);
        let filter = VoteFilter { since, policy: Some(self.place.name.clone()), ..VoteFilter::default() };
        let store = self.place.store.clone();
        let new = self.place.remote.wait(async move { store.num_votes(&filter).await })?;
        Ok(new >= min_records.max(1))
    }

    fn proceed(&mut self, run: &TrainingRun, pointer: &ServingPointer) -> Result<bool, ShadowError> {
        let begun = Instant::now();
        let state: State = run.state.parse()?;
        let outcome = match self.outcome(run, state) {
            Ok(Some(outcome)) => outcome,
            Ok(None) => return Ok(false),
            Err(error) if error.is_passing() => return Err(error),
            // A run that was changed meanwhile, cancelled perhaps, is looked at anew.
            Err(ShadowError::Stale(_)) => return Ok(true),
            Err(error) => {
                tracing::error!(run = run.id, state = state.as_str(), %error, "a training run failed");
                Outcome::Failed(error.to_string())
            }
        };
        // The pointer may have moved by hand while the work went on.
        let (store, name) = (self.place.store.clone(), self.place.name.clone());
        let pointer = self
            .place
            .remote
            .wait(async move { store.serving(&name).await })?
            .unwrap_or_else(|| pointer.clone());
        let change = machine::advance(run, &pointer, outcome, self.schedule.rules, now())?;
        match self.commit(change) {
            Err(ShadowError::Stale(_)) => Ok(true),
            Err(error) => Err(error),
            Ok(()) => {
                metrics::histogram!("rectify_training_state_seconds", "state" => state.as_str())
                    .record(begun.elapsed());
                Ok(true)
            }
        }
    }

    fn outcome(&mut self, run: &TrainingRun, state: State) -> Result<Option<Outcome>, ShadowError> {
        match state {
            State::Snapshot => {
                let watch = self.watch(run);
                self.work.snapshot(run, &watch.stop).map(Some)
            }
            State::Training => {
                let watch = self.watch(run);
                self.work.train(run, &watch.stop)
            }
            State::Candidate => self.work.register(run).map(Some),
            State::Validating => {
                let watch = self.watch(run);
                self.work.validate(run, &watch.stop)
            }
            State::Published => Ok(Some(Outcome::Begun)),
            State::Probation => {
                let detail = Detail::of(run);
                let since = detail.probation_since.unwrap_or(run.updated_at);
                let comparison = self.work.observe(run, since)?;
                comparison.report();
                let is_over = now() - since >= millis(self.schedule.probation);
                let min_answers = self.schedule.min_answers;
                let is_met = comparison.canary.length.n >= min_answers;
                Ok(match (&comparison.breach, is_over, is_met) {
                    (Some(_), ..) => Some(Outcome::Breached(comparison)),
                    (None, true, true) => Some(Outcome::Survived(comparison)),
                    (None, true, false) if detail.extended_at.is_none() => {
                        Some(Outcome::Unmet { comparison, min_answers })
                    }
                    _ => None,
                })
            }
            _ => Ok(None),
        }
    }

    fn commit(&self, change: Change) -> Result<(), ShadowError> {
        let store = self.place.store.clone();
        let moved = change.serving.is_some();
        for event in &change.events {
            tracing::info!(event = event.kind, subject = event.subject, body = %event.body, "shadow loop");
            metrics::counter!("rectify_training_events_total", "event" => event.kind.clone()).increment(1);
        }
        self.place.remote.wait(async move { store.commit(change.transition()).await })?;
        if moved {
            self.place.changed.notify_one();
        }
        Ok(())
    }

    /// Renews the lease while work goes on, and stops the work when the run is changed by somebody else, when the lease is
    /// lost, or when the loop is to end.
    fn watch(&self, run: &TrainingRun) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let (place, lease) = (self.place.clone(), self.lease_name());
        let (told, id, revision) = (Arc::clone(&stop), run.id.clone(), run.revision);
        let background = self.place.remote.start(async move {
            let mut silent = Instant::now();
            loop {
                tokio::time::sleep(WATCH.min(Duration::from_millis(250))).await;
                if place.stop.load(Ordering::Relaxed) {
                    told.store(true, Ordering::Relaxed);
                    return;
                }
                if silent.elapsed() < WATCH {
                    continue;
                }
                silent = Instant::now();
                let held = place.store.lease(&lease, &place.holder, LEASE).await;
                let run = place.store.run(&id).await;
                let is_ours = !matches!(held, Ok(false))
                    && run
                        .as_ref()
                        .map_or(true, |run| run.as_ref().is_some_and(|run| run.revision == revision));
                if !is_ours {
                    told.store(true, Ordering::Relaxed);
                    return;
                }
            }
        });
        Watch { stop, _background: background }
    }
}

/// The flag that ends a piece of work, and who sets it.
struct Watch {
    stop: Arc<AtomicBool>,
    _background: super::remote::Background,
}

/// The pointer of a policy that never had an adapter.
pub fn pointer_of(name: &str) -> ServingPointer {
    ServingPointer { name: name.to_owned(), ..ServingPointer::default() }
}

fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}
