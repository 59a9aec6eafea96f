//! The state machine without models: what follows from what, and that no order of outcomes, crashes and people's wishes
//! publishes anything that neither the gate nor a person let through.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rectify_feedback::store::{Millis, ServingPointer, TrainingRun};
use serde_json::Map;

use super::arms::Comparison;
use super::machine::{self, Change, Outcome, Rules};
use super::{Algorithm, Detail, ShadowError, State, pointer_of};

const AUTOMATIC: Rules = Rules { manual: false, share: 0.1 };
const MANUAL: Rules = Rules { manual: true, share: 0.1 };

fn breach() -> Comparison {
    Comparison { breach: Some("the share of bad votes is worse".to_owned()), ..Comparison::default() }
}

/// What good work in a state comes to.
fn good(state: State, next_version: u64) -> Option<Outcome> {
    Some(match state {
        State::Snapshot => Outcome::Snapshotted {
            algorithm: "dpo".to_owned(),
            hash: "abc".to_owned(),
            counts: BTreeMap::from([("pairs".to_owned(), 300)]),
        },
        State::Training => Outcome::Trained(Map::new()),
        State::Candidate => Outcome::Registered(next_version.to_string()),
        State::Validating => Outcome::Judged { passed: true, sentence: "every check passed".to_owned() },
        State::AwaitingApproval => Outcome::Approved("ann".to_owned()),
        State::Published => Outcome::Begun,
        State::Probation => Outcome::Survived(Comparison::default()),
        _ => return None,
    })
}

/// A store of one policy, with what is known besides: versions that exist and versions that were let through.
#[derive(Clone, Debug)]
struct World {
    runs: Vec<TrainingRun>,
    pointer: ServingPointer,
    versions: u64,
    let_through: BTreeSet<String>,
    now: Millis,
}

impl World {
    fn new() -> Self {
        Self {
            runs: Vec::new(),
            pointer: pointer_of("demo"),
            versions: 0,
            let_through: BTreeSet::new(),
            now: 1000,
        }
    }

    fn open(&self) -> Option<&TrainingRun> {
        self.runs.iter().find(|run| !run.state.parse::<State>().unwrap().is_final())
    }

    fn state(&self) -> Option<State> {
        self.open().map(|run| run.state.parse().unwrap())
    }

    fn last(&self) -> (&TrainingRun, State) {
        let run = self.runs.last().unwrap();
        (run, run.state.parse().unwrap())
    }

    /// As the store does: whole, or not at all.
    fn commit(&mut self, change: Change) {
        assert_eq!(change.events.len(), 1, "{change:?}");
        if let Some(serving) = change.serving {
            assert!(serving.since > self.pointer.since, "a pointer that cannot be told from the one before");
            self.pointer = serving;
        }
        if let Some(run) = change.run {
            match self.runs.iter_mut().find(|known| known.id == run.id) {
                Some(known) => {
                    assert!(
                        !known.state.parse::<State>().unwrap().is_final(),
                        "a run that had ended changed"
                    );
                    *known = run;
                }
                None => self.runs.push(run),
            }
        }
    }

    fn start(&mut self) {
        if self.open().is_none() {
            let id = format!("run-{}", self.runs.len());
            self.commit(machine::start(id, &self.pointer, ("test", None), self.now));
        }
    }

    fn work(&mut self, outcome: Outcome, rules: Rules) {
        let Some(run) = self.open().cloned() else { return };
        let passed = matches!(outcome, Outcome::Judged { passed: true, .. } | Outcome::Approved(_));
        let registered = matches!(outcome, Outcome::Registered(_));
        if let Ok(change) = machine::advance(&run, &self.pointer, outcome, rules, self.now) {
            self.versions += u64::from(registered);
            if passed {
                self.let_through.extend(run.version);
            }
            self.commit(change);
        }
    }

    fn by_hand(&mut self, change: Result<Change, ShadowError>, version: Option<String>) {
        if let Ok(change) = change {
            self.let_through.extend(version);
            self.commit(change);
        }
    }

    fn check(&self) {
        for version in self.pointer.version.iter().chain(&self.pointer.canary) {
            assert!(
                self.let_through.contains(version),
                "{version} is served, but nobody let it through: {self:?}"
            );
            assert!(version.parse::<u64>().unwrap() <= self.versions, "{version} is no version");
        }
        let public = self.open().filter(|_| self.state().is_some_and(State::is_public));
        assert_eq!(self.pointer.canary, public.and_then(|run| run.version.clone()), "{self:?}");
        assert_eq!(self.pointer.canary.is_some(), self.pointer.share > 0.0, "{self:?}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Start,
    Work { manual: bool },
    Crash,
    Bad(u8),
    Any(u8),
    Promote(u64),
    RollBack,
    Cancel,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Start),
        8 => any::<bool>().prop_map(|manual| Step::Work { manual }),
        2 => Just(Step::Crash),
        2 => any::<u8>().prop_map(Step::Bad),
        2 => any::<u8>().prop_map(Step::Any),
        1 => (0..4u64).prop_map(Step::Promote),
        1 => Just(Step::RollBack),
        1 => Just(Step::Cancel),
    ]
}

proptest! {
    #[test]
    fn nothing_is_served_that_nobody_let_through_and_every_run_comes_to_an_end(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let mut world = World::new();
        for step in steps {
            world.now += 1;
            let next = world.versions + 1;
            match step {
                Step::Start => world.start(),
                Step::Work { manual } => {
                    if let Some(outcome) = world.state().and_then(|state| good(state, next)) {
                        world.work(outcome, if manual { MANUAL } else { AUTOMATIC });
                    }
                }
                // Work that was done and not committed leaves nothing behind.
                Step::Crash => {
                    let mut lost = world.clone();
                    if let Some(outcome) = lost.state().and_then(|state| good(state, next)) {
                        lost.work(outcome, AUTOMATIC);
                        lost.check();
                    }
                }
                Step::Bad(which) => {
                    let outcomes = [
                        Outcome::Judged { passed: false, sentence: "length fail".to_owned() },
                        Outcome::Breached(breach()),
                        Outcome::Refused("a flood".to_owned()),
                        Outcome::Failed("the disk is full".to_owned()),
                    ];
                    world.work(outcomes[usize::from(which) % outcomes.len()].clone(), AUTOMATIC);
                }
                // The outcome of some other state, as from a worker that lost its lease.
                Step::Any(which) => {
                    let state = State::ALL[usize::from(which) % State::ALL.len()];
                    if let Some(outcome) = good(state, next) {
                        world.work(outcome, AUTOMATIC);
                    }
                }
                Step::Promote(version) if version <= world.versions => {
                    let version = (version > 0).then(|| version.to_string());
                    let open = world.open().cloned();
                    let change = machine::promote(&world.pointer, open.as_ref(), version.clone(), "ann", world.now);
                    world.by_hand(change, version);
                }
                Step::Promote(_) => {}
                Step::RollBack => {
                    let open = world.open().cloned();
                    let change = machine::roll_back(&world.pointer, open.as_ref(), "ann", world.now);
                    world.by_hand(change, None);
                }
                Step::Cancel => world.work(Outcome::Cancelled("ann".to_owned()), AUTOMATIC),
            }
            world.check();
        }
        for _ in 0..State::ALL.len() {
            let Some(state) = world.state() else { break };
            world.now += 1;
            let outcome = good(state, world.versions + 1);
            world.work(outcome.expect("an open run has work to do"), AUTOMATIC);
            world.check();
        }
        prop_assert_eq!(world.state(), None);
    }
}

/// A world whose run has reached `state`.
fn at(state: State, rules: Rules) -> World {
    let mut world = World::new();
    world.start();
    while world.last().1 != state {
        let outcome = good(world.last().1, world.versions + 1).expect("on the way");
        world.work(outcome, rules);
    }
    world
}

#[test]
fn a_good_run_is_published_compared_and_kept() {
    let mut world = at(State::Probation, AUTOMATIC);
    assert_eq!((world.pointer.version.clone(), world.pointer.canary.as_deref()), (None, Some("1")));
    assert_eq!(world.pointer.share, 0.1);
    world.work(Outcome::Survived(Comparison::default()), AUTOMATIC);
    assert_eq!((world.pointer.version.as_deref(), world.pointer.canary.clone()), (Some("1"), None));
    assert_eq!(world.last().1, State::Kept);
}

#[test]
fn a_breach_takes_the_candidate_back_and_says_why() {
    let mut world = at(State::Probation, AUTOMATIC);
    world.work(Outcome::Breached(breach()), AUTOMATIC);
    let (run, state) = world.last();
    assert_eq!(
        (state, world.pointer.version.clone(), world.pointer.canary.clone()),
        (State::RolledBack, None, None)
    );
    assert_eq!(Detail::of(run).reason.as_deref(), Some("the share of bad votes is worse"));
}

#[test]
fn people_decide_where_they_are_asked_to() {
    let mut world = at(State::AwaitingApproval, MANUAL);
    assert_eq!(world.pointer.canary, None);
    world.work(Outcome::Approved("ann".to_owned()), MANUAL);
    assert_eq!(world.pointer.canary.as_deref(), Some("1"));
    let mut promoted = at(State::AwaitingApproval, MANUAL);
    let change = machine::promote(&promoted.pointer, promoted.open(), Some("1".to_owned()), "ann", 2000);
    promoted.by_hand(change, Some("1".to_owned()));
    assert_eq!((promoted.last().1, promoted.pointer.version.as_deref()), (State::Kept, Some("1")));
}

#[test]
fn a_rollback_goes_one_version_back_at_a_time() {
    let mut world = at(State::Kept, AUTOMATIC);
    world.start();
    while world.state().is_some() {
        let outcome = good(world.last().1, world.versions + 1).expect("on the way");
        world.work(outcome, AUTOMATIC);
    }
    assert_eq!((world.pointer.version.as_deref(), world.pointer.previous.as_deref()), (Some("2"), Some("1")));
    for version in [Some("1"), None] {
        let change = machine::roll_back(&world.pointer, None, "ann", 3000);
        world.by_hand(change, None);
        assert_eq!(world.pointer.version.as_deref(), version);
    }
    let refusal = machine::roll_back(&world.pointer, None, "ann", 3000).unwrap_err().to_string();
    assert_eq!(refusal, "demo is served without an adapter: there is nothing to roll back");
    let refusal = machine::promote(&world.pointer, None, None, "ann", 3000).unwrap_err().to_string();
    assert_eq!(refusal, "demo@base is the active version already");
}

#[test]
fn a_reward_model_is_kept_without_being_served() {
    let mut world = World::new();
    let start = ("ann", Some(Algorithm::Reward));
    world.commit(machine::start("run".to_owned(), &world.pointer, start, 1));
    for state in [State::Snapshot, State::Training, State::Candidate, State::Validating] {
        assert_eq!(world.last().1, state);
        let outcome = match good(state, 1).expect("work") {
            Outcome::Snapshotted { hash, counts, .. } => {
                Outcome::Snapshotted { algorithm: "reward".to_owned(), hash, counts }
            }
            outcome => outcome,
        };
        world.work(outcome, AUTOMATIC);
    }
    assert_eq!((world.last().1, world.pointer.clone()), (State::Kept, pointer_of("demo")));
}

#[test]
fn what_is_served_cannot_be_cancelled_and_what_has_ended_stays() {
    for (state, part) in [(State::Probation, "roll the adapter back"), (State::Kept, "it has ended")] {
        let world = at(state, AUTOMATIC);
        let (run, outcome) = (world.last().0, Outcome::Cancelled("ann".to_owned()));
        let refusal =
            machine::advance(run, &world.pointer, outcome, AUTOMATIC, 2000).unwrap_err().to_string();
        assert!(refusal.contains(part), "{refusal}");
    }
}
