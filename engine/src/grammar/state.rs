//! A candidate's place in its grammar. The mask of the next token depends on the tokens before it alone, so it is
//! computed on a thread of its own while the model runs: the sampler finds it ready, or waits for what is left. Leaves
//! compilation to the parent.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use llguidance::Matcher;

use super::{Grammar, Mask, cause};

/// Tokens of a step that wait for their masks; more make the engine's thread wait.
const QUEUED: usize = 1024;

/// A place in a grammar and its mask, once they are computed. The cause of a failure is a clause.
#[derive(Clone)]
pub(super) struct Slot(Arc<OnceLock<Result<Place, String>>>);

struct Place {
    matcher: Matcher,
    mask: Mask,
}

impl Slot {
    pub(super) fn new(matcher: Matcher, mask: Mask) -> Self {
        Self(Arc::new(OnceLock::from(Ok(Place { matcher, mask }))))
    }

    fn empty() -> Self {
        Self(Arc::default())
    }

    /// The place, its own or a copy: another candidate may go on from there too.
    fn take(self) -> Result<Matcher, String> {
        match Arc::try_unwrap(self.0).map(OnceLock::into_inner) {
            Ok(place) => {
                place.unwrap_or_else(|| Err("it was not computed".to_owned())).map(|place| place.matcher)
            }
            Err(shared) => match shared.wait() {
                Ok(place) => Ok(place.matcher.clone()),
                Err(cause) => Err(cause.clone()),
            },
        }
    }
}

/// Where a candidate is in its grammar; a clone goes its own way from there. It is kept through preemption, since it
/// depends on the candidate's tokens alone.
#[derive(Clone)]
pub(crate) struct GrammarState {
    slot: Slot,
    masks: MaskThread,
}

impl std::fmt::Debug for GrammarState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrammarState").finish_non_exhaustive()
    }
}

impl GrammarState {
    /// At the beginning.
    pub(crate) fn new(grammar: &Grammar) -> Self {
        Self { slot: grammar.start.clone(), masks: grammar.masks.clone() }
    }

    /// The tokens that may come next, or why that cannot be said; waits for them if they are still computed.
    pub(crate) fn mask(&self) -> Result<&Mask, &str> {
        match self.slot.0.wait() {
            Ok(place) => Ok(&place.mask),
            Err(cause) => Err(cause),
        }
    }

    /// Goes on by `token`; the next mask is computed elsewhere.
    pub(crate) fn advance(&mut self, token: u32) {
        let before = std::mem::replace(&mut self.slot, Slot::empty());
        self.masks.compute(Job { before: Some(before), token, after: self.slot.clone() });
    }
}

/// The thread that computes masks; it ends with the last of these.
#[derive(Clone)]
pub(super) struct MaskThread(SyncSender<Job>);

impl MaskThread {
    pub(super) fn start() -> std::io::Result<Self> {
        let (sender, jobs): (_, Receiver<Job>) = sync_channel(QUEUED);
        let work = move || jobs.into_iter().for_each(Job::run);
        std::thread::Builder::new().name("rectify-grammar".into()).spawn(work)?;
        Ok(Self(sender))
    }

    fn compute(&self, job: Job) {
        // A job that cannot be sent is dropped, which says so in its slot.
        let _ = self.0.send(job);
    }
}

struct Job {
    before: Option<Slot>,
    token: u32,
    after: Slot,
}

impl Job {
    fn run(mut self) {
        let Some(before) = self.before.take() else { return };
        let result = before.take().and_then(|matcher| next(matcher, self.token));
        let _ = self.after.0.set(result);
    }
}

impl Drop for Job {
    /// Whoever waits for the mask is told in any case.
    fn drop(&mut self) {
        let _ = self.after.0.set(Err("its masks are no longer computed".to_owned()));
    }
}

fn next(mut matcher: Matcher, token: u32) -> Result<Place, String> {
    let tell = |error: &dyn std::fmt::Display| cause(&error.to_string());
    // After its end a grammar goes nowhere: with `ignore_eos` only end-of-text tokens follow.
    if !matcher.is_stopped() {
        matcher.consume_token(token).map_err(|error| tell(&error))?;
    }
    let mask = matcher.compute_mask_or_eos().map_err(|error| tell(&error))?;
    Ok(Place { matcher, mask: Mask(mask) })
}
