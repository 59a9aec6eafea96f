//! The gate: a suite of checks that a candidate adapter must pass before it may serve. Each check gives a measurement with
//! its interval, a threshold and a verdict. Both arms answer the same prompts with the same seeds through a running engine,
//! behind everything that people wait for. Leaves publishing to the shadow loop, and the command line to `server`.

mod bench;
mod checks;
mod error;
mod html;
mod prompts;
mod report;
mod stats;
mod suite;
#[cfg(test)]
mod tests;
mod verdict;

use std::sync::atomic::AtomicBool;
use std::time::Instant;

pub(crate) use bench::PRIORITY;
pub use bench::{Bench, Subject};
pub use error::GateError;
pub use report::{AnswerExample, CheckReport, GateReport, Measurement};
pub use stats::Interval;
pub use suite::{Sampling, Suite};
pub use verdict::{Require, Threshold, Verdict};

use bench::Session;

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GateProgress {
    /// The check that is on.
    pub check: String,
    /// Checks that are done.
    pub done: usize,
    /// All of them.
    pub total: usize,
    /// Prompts of this check that are measured.
    pub prompts_done: usize,
    /// All of them; the check may stop before.
    pub num_prompts: usize,
}

/// How a run is watched and stopped.
pub struct GateControl<'a> {
    /// Called as the run goes on.
    pub progress: &'a mut dyn FnMut(&GateProgress),
    /// Becomes true when the run shall stop; it does so between two requests.
    pub stop: &'a AtomicBool,
}

/// Runs a suite. Blocks until the report is there.
///
/// # Errors
/// [`GateError`] if the gate cannot judge; a candidate that is not good enough is a report that says so.
pub fn run(
    suite: &Suite,
    bench: &Bench,
    candidate: Subject,
    baseline: Subject,
    control: &mut GateControl<'_>,
) -> Result<GateReport, GateError> {
    let begun = Instant::now();
    let (candidate_label, baseline_label) = (candidate.label.clone(), baseline.label.clone());
    let mut session = Session::new(suite, bench, candidate, baseline, control);
    let mut reports = Vec::with_capacity(suite.checks.len());
    for (index, entry) in suite.checks.iter().enumerate() {
        reports.push(checks::run(entry, index, &mut session)?);
    }
    Ok(GateReport {
        suite: suite.name.clone(),
        suite_hash: suite.hash.clone(),
        policy: bench.models.policy_name.to_string(),
        candidate: candidate_label,
        baseline: baseline_label,
        seed: suite.seed,
        created_at: chrono::Utc::now().timestamp_millis(),
        seconds: begun.elapsed().as_secs_f64(),
        verdict: Verdict::worst(reports.iter().map(|check| check.verdict)),
        checks: reports,
    })
}
