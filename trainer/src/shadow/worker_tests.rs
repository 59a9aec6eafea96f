//! The loop in time, on a real store and with work that is only counted: crashed in every state, before its work and after
//! it, cancelled, approved, beside another process.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rectify_feedback::store::{
    CompletionRecord, FeedbackKind, FeedbackRecord, Millis, Store, TrainingRun, now,
};
use serde_json::Map;
use tokio::runtime::Runtime;

use super::arms::{ArmStats, Comparison};
use super::machine::{Outcome, Rules};
use super::worker::{Schedule, Work, Worker};
use super::{Detail, Place, Remote, ShadowError, State, ops};

/// What outlives a process: how often each state's work was done, and the registry.
#[derive(Debug, Default)]
struct Disk {
    done: Vec<State>,
    versions: Vec<String>,
    /// Answers of the candidate that the store knows of.
    answers: u64,
}

/// When a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    Never,
    Before(State),
    Behind(State),
}

struct Counted {
    disk: Arc<Mutex<Disk>>,
    crash: Crash,
    passes: bool,
    breaks: bool,
}

impl Counted {
    fn work<T>(&mut self, state: State, work: impl FnOnce(&mut Disk) -> T) -> T {
        assert!(self.crash != Crash::Before(state), "the process ends");
        let mut disk = self.disk.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        disk.done.push(state);
        let outcome = work(&mut disk);
        drop(disk);
        assert!(self.crash != Crash::Behind(state), "the process ends");
        outcome
    }
}

impl Work for Counted {
    fn snapshot(&mut self, run: &TrainingRun, _: &AtomicBool) -> Result<Outcome, ShadowError> {
        let algorithm = if run.algorithm.is_empty() { "dpo" } else { &run.algorithm }.to_owned();
        Ok(self.work(State::Snapshot, |_| Outcome::Snapshotted {
            algorithm,
            hash: "abc".to_owned(),
            counts: BTreeMap::new(),
        }))
    }

    fn train(&mut self, _: &TrainingRun, _: &AtomicBool) -> Result<Option<Outcome>, ShadowError> {
        Ok(Some(self.work(State::Training, |_| Outcome::Trained(Map::new()))))
    }

    fn register(&mut self, run: &TrainingRun) -> Result<Outcome, ShadowError> {
        Ok(self.work(State::Candidate, |disk| {
            // Once for a run, as the registry knows by the content.
            if !disk.versions.contains(&run.id) {
                disk.versions.push(run.id.clone());
            }
            Outcome::Registered(disk.versions.len().to_string())
        }))
    }

    fn validate(&mut self, _: &TrainingRun, _: &AtomicBool) -> Result<Option<Outcome>, ShadowError> {
        let passed = self.passes;
        let sentence = if passed { "every check passed" } else { "length fail" }.to_owned();
        Ok(Some(self.work(State::Validating, |_| Outcome::Judged { passed, sentence })))
    }

    fn observe(&mut self, _: &TrainingRun, _: Millis) -> Result<Comparison, ShadowError> {
        let breach = self.breaks.then(|| "the reward is worse".to_owned());
        Ok(self.work(State::Probation, |disk| {
            let mut canary = ArmStats::default();
            (0..disk.answers).for_each(|_| canary.length.add(10.0));
            Comparison { breach, canary, ..Comparison::default() }
        }))
    }
}

/// A machine with a disk, on which processes come and go.
struct Machine {
    runtime: Runtime,
    folder: tempfile::TempDir,
    disk: Arc<Mutex<Disk>>,
    schedule: Schedule,
}

impl Machine {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let rules = Rules { manual: false, share: 0.1 };
        let (every, probation) = (Duration::ZERO, Duration::ZERO);
        let schedule = Schedule {
            automatic: false,
            every,
            min_records: 1,
            reward_min_records: None,
            probation,
            min_answers: 0,
            rules,
        };
        Self { runtime, folder: tempfile::tempdir().unwrap(), disk: Arc::default(), schedule }
    }

    fn store(&self) -> Store {
        let url = format!("sqlite://{}", self.folder.path().join("feedback.db").display());
        self.runtime.block_on(Store::open(&url)).unwrap()
    }

    fn process(&self, store: &Store, crash: Crash, passes: bool, breaks: bool) -> Worker<Counted> {
        let place = Place {
            name: "demo".to_owned(),
            folder: self.folder.path().join("training"),
            store: store.clone(),
            remote: Remote::new(self.runtime.handle().clone()),
            holder: "one".to_owned(),
            changed: Arc::default(),
            wake: Arc::default(),
            stop: Arc::default(),
        };
        Worker::new(place, self.schedule, Counted { disk: Arc::clone(&self.disk), crash, passes, breaks })
    }

    fn start(&self, store: &Store) -> TrainingRun {
        self.runtime.block_on(ops::start(store, "demo", ("ann", None))).unwrap()
    }

    /// `num` people vote.
    fn vote(&self, store: &Store, num: usize) {
        let id = ops::new_run_id();
        let completion = CompletionRecord { id: id.clone(), ..CompletionRecord::default() };
        let vote = |number| FeedbackRecord {
            id: format!("{id}-{number}"),
            created_at: now(),
            completion_id: id.clone(),
            choice: 0,
            kind: FeedbackKind::Thumb { up: true },
            user: Some(format!("u-{id}-{number}")),
            comment: None,
            tags: Map::new(),
            policy_version: "demo@base".to_owned(),
            replaces: None,
            superseded: false,
            quarantined: None,
        };
        let votes: Vec<FeedbackRecord> = (0..num).map(vote).collect();
        self.runtime.block_on(store.import(&[completion], &votes)).unwrap();
        // The clock counts milliseconds: what comes now is later.
        std::thread::sleep(Duration::from_millis(3));
    }

    fn run(&self, store: &Store, id: &str) -> (State, TrainingRun) {
        let run = self.runtime.block_on(store.run(id)).unwrap().unwrap();
        (run.state.parse().unwrap(), run)
    }

    fn active(&self, store: &Store) -> (Option<String>, Option<String>) {
        let pointer = self.runtime.block_on(ops::pointer(store, "demo")).unwrap();
        (pointer.version, pointer.canary)
    }
}

/// Works until there is nothing to do now.
fn settle(worker: &mut Worker<Counted>) {
    while worker.look().unwrap() {}
}

const WORKING: [State; 5] =
    [State::Snapshot, State::Training, State::Candidate, State::Validating, State::Probation];

#[test]
fn a_process_that_ends_in_any_state_is_followed_by_one_that_goes_on() {
    for state in WORKING {
        for crash in [Crash::Before(state), Crash::Behind(state)] {
            let machine = Machine::new();
            let store = machine.store();
            let id = machine.start(&store).id;
            let mut first = machine.process(&store, crash, true, false);
            assert!(catch_unwind(AssertUnwindSafe(|| settle(&mut first))).is_err(), "{crash:?}");
            assert_eq!(machine.run(&store, &id).0, state, "{crash:?}");
            assert_eq!(machine.active(&store).0, None, "{crash:?}");
            drop((first, store));

            let store = machine.store();
            settle(&mut machine.process(&store, Crash::Never, true, false));
            assert_eq!(machine.run(&store, &id).0, State::Kept, "{crash:?}");
            assert_eq!(machine.active(&store), (Some("1".to_owned()), None), "{crash:?}");
            let disk = machine.disk.lock().unwrap();
            assert_eq!(disk.versions.len(), 1, "{crash:?}: {disk:?}");
            let again = usize::from(crash == Crash::Behind(state));
            assert_eq!(disk.done.len(), WORKING.len() + again, "{crash:?}: {disk:?}");
            machine.runtime.block_on(store.check()).unwrap();
        }
    }
}

#[test]
fn what_the_gate_or_the_probation_refuses_is_never_active() {
    for (passes, breaks, end) in [(false, false, State::Rejected), (true, true, State::RolledBack)] {
        let machine = Machine::new();
        let store = machine.store();
        let id = machine.start(&store).id;
        settle(&mut machine.process(&store, Crash::Never, passes, breaks));
        let (state, run) = machine.run(&store, &id);
        assert_eq!((state, machine.active(&store)), (end, (None, None)));
        assert!(Detail::of(&run).reason.is_some());
        let events = machine.runtime.block_on(store.events(0, 100)).unwrap();
        assert_eq!(events.last().map(|event| event.kind.as_str()), Some(end.as_str()));
    }
}

#[test]
fn a_candidate_that_nobody_has_met_is_not_kept_for_it() {
    let mut machine = Machine::new();
    machine.schedule.min_answers = 5;
    let store = machine.store();
    let id = machine.start(&store).id;
    let mut worker = machine.process(&store, Crash::Never, true, false);
    for (answers, end) in [(0, State::Probation), (4, State::Probation), (5, State::Kept)] {
        machine.disk.lock().unwrap().answers = answers;
        settle(&mut worker);
        assert_eq!(machine.run(&store, &id).0, end, "{answers} answers");
    }
    assert_eq!(machine.active(&store), (Some("1".to_owned()), None));
    // The log says once that the probation was extended and why, and on how many answers it was kept.
    let events = machine.runtime.block_on(store.events(0, 100)).unwrap();
    let told: Vec<(&str, u64)> = events
        .iter()
        .filter_map(|event| Some((event.kind.as_str(), event.body["answers"].as_u64()?)))
        .collect();
    assert_eq!(told, [("probation_extended", 0), ("kept", 5)]);
}

#[test]
fn a_judge_and_a_policy_are_trained_when_enough_is_new_for_each_and_the_judge_first() {
    let mut machine = Machine::new();
    let schedule = machine.schedule;
    machine.schedule = Schedule { automatic: true, min_records: 3, reward_min_records: Some(5), ..schedule };
    let store = machine.store();
    let mut worker = machine.process(&store, Crash::Never, true, false);
    let mut known = 0;
    for (votes, wanted) in [
        (2, &[][..]),
        (1, &["dpo"]),
        (2, &["reward"]),
        (3, &["dpo"]),
        (2, &["reward"]),
        (5, &["reward", "dpo"]),
    ] {
        machine.vote(&store, votes);
        settle(&mut worker);
        let mut runs = machine.runtime.block_on(store.runs(100)).unwrap();
        runs.reverse();
        let new: Vec<&str> = runs[known..].iter().map(|run| run.algorithm.as_str()).collect();
        assert_eq!(new, wanted, "after {votes} votes more");
        known = runs.len();
    }
}

#[test]
fn people_cancel_approve_and_promote_from_elsewhere() {
    let mut machine = Machine::new();
    machine.schedule.rules.manual = true;
    let store = machine.store();
    let run = machine.start(&store);
    let refusal = machine.runtime.block_on(ops::start(&store, "demo", ("bob", None))).unwrap_err();
    assert!(refusal.to_string().contains("has not ended"), "{refusal}");
    machine.runtime.block_on(ops::cancel(&store, &run.id, "ann")).unwrap();
    settle(&mut machine.process(&store, Crash::Never, true, false));
    assert_eq!(machine.run(&store, &run.id).0, State::Cancelled);

    let id = machine.start(&store).id;
    let mut worker = machine.process(&store, Crash::Never, true, false);
    settle(&mut worker);
    assert_eq!((machine.run(&store, &id).0, machine.active(&store)), (State::AwaitingApproval, (None, None)));
    machine.runtime.block_on(ops::approve(&store, &id, "ann", 0.25)).unwrap();
    assert_eq!(machine.active(&store), (None, Some("1".to_owned())));
    settle(&mut worker);
    assert_eq!(machine.active(&store), (Some("1".to_owned()), None));
    let pointer = machine.runtime.block_on(ops::roll_back(&store, "demo", "ann")).unwrap();
    assert_eq!(pointer.version, None);
}

#[test]
fn one_process_at_a_time_does_the_work() {
    let machine = Machine::new();
    let store = machine.store();
    let mut first = machine.process(&store, Crash::Never, true, false);
    settle(&mut first);
    machine.start(&store);
    settle(&mut machine.process(&store, Crash::Never, true, false));
    assert!(machine.disk.lock().unwrap().done.is_empty(), "two processes of one machine work in one folder");
    drop(first);
    let machine = Machine::new();
    let store = machine.store();
    machine.runtime.block_on(store.lease("shadow/demo", "another", Duration::from_secs(60))).unwrap();
    machine.start(&store);
    settle(&mut machine.process(&store, Crash::Never, true, false));
    assert!(machine.disk.lock().unwrap().done.is_empty());
}
