//! What people ask of the loop, from whichever process: start, cancel and approve a run, promote and roll back a version.
//! Each is one transaction of the store; servers follow the pointer. Leaves who may ask to the server.

use rectify_feedback::store::{ServingPointer, Store, TrainingRun, now};

use super::machine::{self, Change, Outcome, Rules};
use super::settings::Algorithm;
use super::worker::pointer_of;
use super::{ShadowError, State};
use crate::registry::Registry;

/// Runs that are looked through for one that has not ended.
const RECENT: u32 = 50;
/// How often a change is tried again when somebody else was faster.
const ATTEMPTS: usize = 5;

/// A new run's id; later ones sort behind earlier ones.
pub fn new_run_id() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("run-{:011x}-{}", now(), &random[..8])
}

/// The oldest run that has not ended. `runs` are newest first.
///
/// # Errors
/// [`ShadowError::State`] for a state this release does not know.
pub fn open_run(runs: &[TrainingRun]) -> Result<Option<&TrainingRun>, ShadowError> {
    let mut open = None;
    for run in runs {
        if !run.state.parse::<State>()?.is_final() {
            open = Some(run);
        }
    }
    Ok(open)
}

/// The pointer of the policy `name`.
///
/// # Errors
/// The store's.
pub async fn pointer(store: &Store, name: &str) -> Result<ServingPointer, ShadowError> {
    Ok(store.serving(name).await?.unwrap_or_else(|| pointer_of(name)))
}

async fn open(store: &Store, name: &str) -> Result<Option<TrainingRun>, ShadowError> {
    let runs: Vec<TrainingRun> =
        store.runs(RECENT).await?.into_iter().filter(|run| run.adapter == name).collect();
    open_run(&runs).map(|run| run.cloned())
}

async fn existing(store: &Store, id: &str) -> Result<TrainingRun, ShadowError> {
    let missing = || ShadowError::NotFound(format!("there is no training run `{id}`"));
    store.run(id).await?.ok_or_else(missing)
}

/// Starts a run now, of the configured method unless another is named.
///
/// # Errors
/// [`ShadowError::Refused`] while another one goes on.
pub async fn start(
    store: &Store,
    name: &str,
    (by, algorithm): (&str, Option<Algorithm>),
) -> Result<TrainingRun, ShadowError> {
    if let Some(run) = open(store, name).await? {
        let (id, state) = (run.id, run.state);
        return Err(ShadowError::Refused(format!(
            "the run {id} has not ended: it is in the state {state}; cancel it first, or wait"
        )));
    }
    let change = machine::start(new_run_id(), &pointer(store, name).await?, (by, algorithm), now());
    commit_run(store, &change).await
}

/// Stops a run; what is served stays as it is.
///
/// # Errors
/// [`ShadowError::Refused`] if it has ended or is on probation.
pub async fn cancel(store: &Store, id: &str, by: &str) -> Result<TrainingRun, ShadowError> {
    settle(store, id, |_| Outcome::Cancelled(by.to_owned()), Rules { manual: false, share: 0.0 }).await
}

/// Publishes a version that waits for a person.
///
/// # Errors
/// [`ShadowError::Refused`] if the run does not wait.
pub async fn approve(store: &Store, id: &str, by: &str, share: f64) -> Result<TrainingRun, ShadowError> {
    settle(store, id, |_| Outcome::Approved(by.to_owned()), Rules { manual: true, share }).await
}

async fn settle(
    store: &Store,
    id: &str,
    outcome: impl Fn(&TrainingRun) -> Outcome,
    rules: Rules,
) -> Result<TrainingRun, ShadowError> {
    for _ in 0..ATTEMPTS {
        let run = existing(store, id).await?;
        let pointer = pointer(store, &run.adapter).await?;
        let change = machine::advance(&run, &pointer, outcome(&run), rules, now())?;
        match commit_run(store, &change).await {
            Err(ShadowError::Stale(_)) => {}
            done => return done,
        }
    }
    Err(ShadowError::Stale(id.to_owned()))
}

async fn commit_run(store: &Store, change: &Change) -> Result<TrainingRun, ShadowError> {
    let run = store.commit(change.transition()).await?;
    run.ok_or_else(|| ShadowError::Broken("the store did not answer with the run".to_owned()))
}

/// Makes a version of the registry the active one (`base`: none).
///
/// # Errors
/// [`ShadowError::NotFound`] if the registry has no such version.
pub async fn promote(
    store: &Store,
    registry: &Registry,
    name: &str,
    version: &str,
    by: &str,
) -> Result<ServingPointer, ShadowError> {
    let version = match version {
        "base" => None,
        number => {
            let number: u64 = number.parse().map_err(|_| {
                ShadowError::NotFound(format!("`{number}` is no version of {name}: give a number, or base"))
            })?;
            // Its manifest is what makes it a version.
            registry.manifest(name, number).await?;
            Some(number.to_string())
        }
    };
    change_pointer(store, name, |pointer, open| machine::promote(pointer, open, version.clone(), by, now()))
        .await
}

/// Takes the candidate on probation back, or goes back to the version before.
///
/// # Errors
/// [`ShadowError::Refused`] if there is nothing to go back to.
pub async fn roll_back(store: &Store, name: &str, by: &str) -> Result<ServingPointer, ShadowError> {
    change_pointer(store, name, |pointer, open| machine::roll_back(pointer, open, by, now())).await
}

async fn change_pointer(
    store: &Store,
    name: &str,
    change: impl Fn(&ServingPointer, Option<&TrainingRun>) -> Result<Change, ShadowError>,
) -> Result<ServingPointer, ShadowError> {
    for _ in 0..ATTEMPTS {
        let (pointer, run) = (pointer(store, name).await?, open(store, name).await?);
        let change = change(&pointer, run.as_ref())?;
        match store.commit(change.transition()).await.map_err(ShadowError::from) {
            Err(ShadowError::Stale(_)) => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(change.serving.unwrap_or(pointer)),
        }
    }
    Err(ShadowError::Stale(name.to_owned()))
}
