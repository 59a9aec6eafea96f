//! The state machine: what follows from the outcome of a state's work, or from what a person asks for. Pure functions of
//! the run and the serving pointer to the change that the store makes whole or not at all. Leaves the work to `work`, its
//! order in time to `worker`.
//!
//! ```text
//! snapshot → training → candidate → validating → [awaiting_approval] → published → probation → kept | rolled_back
//!      ╰────────┴───────────┴──────────┴→ rejected | failed | cancelled
//! ```
//!
//! **Invariant**: the pointer moves only with a run that the gate has passed, or at a person's word, and in the same
//! transaction as the run and the audit log.

use std::collections::BTreeMap;

use rectify_feedback::store::{Millis, NewEvent, ServingPointer, TrainingRun, Transition};
use serde_json::{Map, Value, json};

use super::arms::Comparison;
use super::detail::Detail;
use super::settings::{Algorithm, is_reward, registry_name};
use super::{ShadowError, State};

/// What came of a state's work.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The data are on the disk.
    Snapshotted {
        /// The method that fits them.
        algorithm: String,
        /// Their hash.
        hash: String,
        /// How many of what.
        counts: BTreeMap<String, u64>,
    },
    /// An adapter is on the disk.
    Trained(Map<String, Value>),
    /// The adapter is a version of the registry.
    Registered(String),
    /// The gate has judged it; the sentence says why.
    Judged {
        /// Whether it may be published.
        passed: bool,
        /// What stands in the way, or that nothing does.
        sentence: String,
    },
    /// A person approves it.
    Approved(String),
    /// The share of requests that runs under it is being compared.
    Begun,
    /// The probation is over and nothing spoke against it.
    Survived(Comparison),
    /// The probation's time is over, but too few people met the candidate for that to mean anything: it goes on until this
    /// many of its answers are known.
    Unmet {
        /// So far.
        comparison: Comparison,
        /// Answers of the candidate that are needed.
        min_answers: u64,
    },
    /// The probation has shown that it is worse.
    Breached(Comparison),
    /// The data are not fit to be trained on.
    Refused(String),
    /// A person stops the run.
    Cancelled(String),
    /// It cannot go on.
    Failed(String),
}

/// How outcomes are acted upon.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// A person decides after the gate.
    pub manual: bool,
    /// Share of new requests that a candidate on probation answers.
    pub share: f64,
}

/// What the store is to change.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The run.
    pub run: Option<TrainingRun>,
    /// The pointer, if it moves.
    pub serving: Option<ServingPointer>,
    /// When the pointer that this follows from was set: it must still be that one.
    pub serving_was: Millis,
    /// For the audit log.
    pub events: Vec<NewEvent>,
}

impl Change {
    /// As the store takes it.
    pub fn transition(&self) -> Transition<'_> {
        let serving_was = Some(self.serving_was);
        Transition {
            run: self.run.as_ref(),
            serving: self.serving.as_ref(),
            serving_was,
            events: &self.events,
        }
    }
}

/// `demo@3`, or `demo@base`.
pub fn label(name: &str, version: Option<&str>) -> String {
    format!("{name}@{}", version.unwrap_or("base"))
}

/// A run that begins.
pub fn start(
    id: String,
    pointer: &ServingPointer,
    (trigger, algorithm): (&str, Option<Algorithm>),
    now: Millis,
) -> Change {
    let mut run = TrainingRun {
        folder: id.clone(),
        id,
        state: State::Snapshot.as_str().to_owned(),
        trigger: trigger.to_owned(),
        algorithm: algorithm.map(Algorithm::as_str).unwrap_or_default().to_owned(),
        adapter: pointer.name.clone(),
        base_version: label(&pointer.name, pointer.version.as_deref()),
        ..TrainingRun::default()
    };
    Detail { until: now, ..Detail::default() }.put(&mut run);
    let event = event("run_started", &run, json!({"trigger": trigger, "base_version": run.base_version}));
    Change { run: Some(run), serving: None, serving_was: pointer.since, events: vec![event] }
}

/// What follows from `outcome` for a run in its state.
///
/// # Errors
/// [`ShadowError::Refused`] if the outcome is none of this state; nothing changes then.
pub fn advance(
    run: &TrainingRun,
    pointer: &ServingPointer,
    outcome: Outcome,
    rules: Rules,
    now: Millis,
) -> Result<Change, ShadowError> {
    let state: State = run.state.parse()?;
    let mut detail = Detail::of(run);
    let mut run = run.clone();
    let mut serving = None;
    let name = registry_name(&run);
    let candidate = run.version.clone();
    let (next, kind, body) = match (state, outcome) {
        (State::Snapshot, Outcome::Snapshotted { algorithm, hash, counts }) => {
            let body = json!({"algorithm": algorithm, "snapshot": hash, "counts": counts});
            (run.algorithm, run.snapshot, detail.counts) = (algorithm, Some(hash), counts);
            (State::Training, "snapshot", body)
        }
        (State::Training, Outcome::Trained(metrics)) => {
            detail.metrics = metrics;
            (State::Candidate, "trained", json!({"metrics": detail.metrics}))
        }
        (State::Candidate, Outcome::Registered(version)) => {
            let body = json!({"version": label(&name, Some(&version))});
            run.version = Some(version);
            (State::Validating, "candidate", body)
        }
        (State::Validating, Outcome::Judged { passed, sentence }) => {
            let body = json!({"version": label(&name, candidate.as_deref()), "gate": sentence});
            detail.gate = Some(sentence.clone());
            match (passed, rules.manual) {
                (false, _) => {
                    detail.reason = Some(sentence);
                    (State::Rejected, "rejected", body)
                }
                // A reward model answers nobody: it waits in the registry for runs that learn from it.
                (true, _) if is_reward(&run) => (State::Kept, "kept", body),
                (true, true) => (State::AwaitingApproval, "awaiting_approval", body),
                (true, false) => {
                    serving = Some(on_probation(pointer, &candidate, rules, now));
                    (State::Published, "published", body)
                }
            }
        }
        (State::AwaitingApproval, Outcome::Approved(by)) => {
            let body = json!({"version": label(&name, candidate.as_deref()), "by": by});
            detail.approved_by = Some(by);
            serving = Some(on_probation(pointer, &candidate, rules, now));
            (State::Published, "published", body)
        }
        (State::Published, Outcome::Begun) => {
            detail.probation_since = Some(now);
            let body = json!({"version": label(&name, candidate.as_deref()), "share": pointer.share});
            (State::Probation, "probation", body)
        }
        (State::Probation, Outcome::Survived(comparison)) => {
            let body =
                json!({"version": label(&name, candidate.as_deref()), "answers": comparison.canary.length.n});
            detail.comparison = Some(comparison);
            serving = Some(active(pointer, candidate.clone(), now));
            (State::Kept, "kept", body)
        }
        (State::Probation, Outcome::Unmet { comparison, min_answers }) => {
            let answers = comparison.canary.length.n;
            let body = json!({"version": label(&name, candidate.as_deref()), "answers": answers, "min_answers": min_answers});
            detail.comparison = Some(comparison);
            detail.extended_at = Some(now);
            (State::Probation, "probation_extended", body)
        }
        (State::Probation, Outcome::Breached(comparison)) => {
            let body = json!({"version": label(&name, candidate.as_deref()), "reason": comparison.breach, "by": "probation"});
            detail.reason.clone_from(&comparison.breach);
            detail.comparison = Some(comparison);
            serving = Some(without_canary(pointer, now));
            (State::RolledBack, "rolled_back", body)
        }
        (State::Snapshot | State::Training, Outcome::Refused(reason)) => {
            detail.reason = Some(reason.clone());
            (State::Rejected, "rejected", json!({"reason": reason}))
        }
        (state, Outcome::Cancelled(by)) if !state.is_final() && !state.is_public() => {
            detail.reason = Some(format!("cancelled by {by}"));
            (State::Cancelled, "cancelled", json!({"by": by}))
        }
        (state, Outcome::Failed(error)) if !state.is_final() => {
            if state.is_public() {
                serving = Some(without_canary(pointer, now));
            }
            let body = json!({"error": error, "state": state.as_str()});
            run.error = Some(error);
            (State::Failed, "failed", body)
        }
        (state, outcome) => {
            let what = match outcome {
                Outcome::Cancelled(_) if state.is_public() => {
                    "be cancelled: roll the adapter back".to_owned()
                }
                Outcome::Cancelled(_) => "be cancelled: it has ended".to_owned(),
                Outcome::Approved(_) => "be approved: it does not wait for that".to_owned(),
                other => format!("go on with {other:?}"),
            };
            return Err(ShadowError::Refused(format!(
                "the run {} is in the state {state} and cannot {what}",
                run.id
            )));
        }
    };
    run.state = next.as_str().to_owned();
    detail.put(&mut run);
    let event = event(kind, &run, body);
    Ok(Change { run: Some(run), serving, serving_was: pointer.since, events: vec![event] })
}

/// A person makes `version` (`None`: the base) the active one. `open` is the run that has not ended, if there is one.
///
/// # Errors
/// [`ShadowError::Refused`] if it is active already and nothing is on probation.
pub fn promote(
    pointer: &ServingPointer,
    open: Option<&TrainingRun>,
    version: Option<String>,
    by: &str,
    now: Millis,
) -> Result<Change, ShadowError> {
    let promoted = label(&pointer.name, version.as_deref());
    if version == pointer.version && pointer.canary.is_none() {
        return Err(ShadowError::Refused(format!("{promoted} is the active version already")));
    }
    let run = open.filter(|run| concerns(run, pointer, version.as_deref())).map(|run| {
        if run.version == version {
            ended(run, State::Kept, format!("promoted by {by}"))
        } else {
            ended(run, State::RolledBack, format!("{promoted} was promoted by {by}"))
        }
    });
    let from = label(&pointer.name, pointer.version.as_deref());
    let serving = active(pointer, version, now);
    let event = NewEvent::new("promoted", promoted, json!({"by": by, "from": from}));
    Ok(Change { run, serving: Some(serving), serving_was: pointer.since, events: vec![event] })
}

/// A person takes the candidate on probation back; without one, the version before becomes active again.
///
/// # Errors
/// [`ShadowError::Refused`] if there is nothing to go back to.
pub fn roll_back(
    pointer: &ServingPointer,
    open: Option<&TrainingRun>,
    by: &str,
    now: Millis,
) -> Result<Change, ShadowError> {
    let (from, serving) = match (&pointer.canary, &pointer.version) {
        (Some(canary), _) => (Some(canary.clone()), without_canary(pointer, now)),
        (None, Some(version)) => {
            let back = ServingPointer { previous: None, ..active(pointer, pointer.previous.clone(), now) };
            (Some(version.clone()), back)
        }
        (None, None) => {
            let reason =
                format!("{} is served without an adapter: there is nothing to roll back", pointer.name);
            return Err(ShadowError::Refused(reason));
        }
    };
    let run = open.filter(|run| is_canary(run, pointer));
    let run = run.map(|run| ended(run, State::RolledBack, format!("rolled back by {by}")));
    let to = label(&pointer.name, serving.version.as_deref());
    let event = NewEvent::new(
        "rolled_back",
        label(&pointer.name, from.as_deref()),
        json!({"by": by, "to": to, "version": label(&pointer.name, from.as_deref())}),
    );
    Ok(Change { run, serving: Some(serving), serving_was: pointer.since, events: vec![event] })
}

/// Whether a promotion of `version` settles the run: it made that version, or its own is on probation.
fn concerns(run: &TrainingRun, pointer: &ServingPointer, version: Option<&str>) -> bool {
    let waits = run.state == State::AwaitingApproval.as_str();
    is_canary(run, pointer) || (waits && version.is_some() && run.version.as_deref() == version)
}

fn is_canary(run: &TrainingRun, pointer: &ServingPointer) -> bool {
    let is_public = run.state.parse().is_ok_and(State::is_public);
    is_public && run.version.is_some() && run.version == pointer.canary
}

fn ended(run: &TrainingRun, state: State, reason: String) -> TrainingRun {
    let mut run = TrainingRun { state: state.as_str().to_owned(), ..run.clone() };
    Detail { reason: Some(reason), ..Detail::of(&run) }.put(&mut run);
    run
}

/// The next moment of a pointer: never one it had before, so that a change can be told from the state before it.
fn moment(pointer: &ServingPointer, now: Millis) -> Millis {
    now.max(pointer.since + 1)
}

fn on_probation(
    pointer: &ServingPointer,
    version: &Option<String>,
    rules: Rules,
    now: Millis,
) -> ServingPointer {
    let since = moment(pointer, now);
    ServingPointer { canary: version.clone(), share: rules.share, since, ..pointer.clone() }
}

fn without_canary(pointer: &ServingPointer, now: Millis) -> ServingPointer {
    ServingPointer { canary: None, share: 0.0, since: moment(pointer, now), ..pointer.clone() }
}

fn active(pointer: &ServingPointer, version: Option<String>, now: Millis) -> ServingPointer {
    // A version that stays active keeps what was before it.
    let previous =
        if version == pointer.version { pointer.previous.clone() } else { pointer.version.clone() };
    ServingPointer { version, previous, ..without_canary(pointer, now) }
}

fn event(kind: &str, run: &TrainingRun, body: Value) -> NewEvent {
    NewEvent::new(kind, run.id.clone(), body)
}
