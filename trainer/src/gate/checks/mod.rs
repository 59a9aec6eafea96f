//! The checks, one file each, and what they share: their entry in a suite, looking after each part of the prompts, rates by
//! category. Leaves asking to [`super::bench`] and intervals to [`super::stats`].

mod benign_refusal;
mod canary;
mod capability;
mod diversity;
mod kl;
mod length;
mod perplexity;
mod rate;
mod safety;
mod win_rate;

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use benign_refusal::BenignRefusal;
use canary::Canary;
use capability::Capability;
use diversity::Diversity;
use kl::Kl;
use length::Length;
use perplexity::Perplexity;
use safety::Safety;
use win_rate::WinRate;

use super::bench::{Arm, Likelihood, Session};
use super::error::GateError;
use super::prompts::{PromptSet, Question, shortened};
use super::report::{AnswerExample, CheckReport, MAX_EXAMPLES, Measurement};
use super::stats::{self, Interval};
use super::suite::Sampling;
use super::verdict::{Require, Threshold, Verdict};
use crate::rollout::Completion;

/// Characters of an answer in a report.
const EXAMPLE_CHARS: usize = 400;

/// What a check needs to be part of a suite.
pub(super) trait Check {
    /// The name of its kind, as suites write it.
    fn kind(&self) -> &'static str;
    /// What the suite calls it.
    fn name(&self) -> Option<&str>;
    /// The set of prompts it asks.
    fn prompts(&self) -> &str;
    /// Its own sampling.
    fn sampling(&self) -> Option<Sampling> {
        None
    }
    /// Refuses thresholds out of range and prompts that it cannot use.
    fn validate(&self, set: &PromptSet) -> Result<(), String>;
    /// Measures.
    fn run(&self, session: &mut Session<'_>) -> Result<Findings, GateError>;
}

/// What a check says of itself by the fields that all of them have: `name`, `prompts` and, if it samples as it likes,
/// `sampling`.
macro_rules! says {
    ($kind:literal) => {
        fn kind(&self) -> &'static str {
            $kind
        }

        fn name(&self) -> Option<&str> {
            self.name.as_deref()
        }

        fn prompts(&self) -> &str {
            &self.prompts
        }
    };
    ($kind:literal, sampling) => {
        says!($kind);

        fn sampling(&self) -> Option<Sampling> {
            self.sampling
        }
    };
}
use says;

/// What a check found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) measurements: Vec<Measurement>,
    /// Prompts that were asked.
    pub(super) num_prompts: usize,
    pub(super) examples: Vec<AnswerExample>,
    pub(super) notes: Vec<String>,
}

macro_rules! entries {
    ($($(#[$doc:meta])* $key:ident: $check:ty,)*) => {
        /// One check of a suite: a map with the check's kind as its only key.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct CheckEntry { $($(#[$doc])* $key: Option<$check>,)* }

        impl CheckEntry {
            /// The one check that is set.
            pub(super) fn check(&self) -> Result<&dyn Check, String> {
                let all: Vec<&dyn Check> =
                    [$(self.$key.as_ref().map(|check| check as &dyn Check)),*].into_iter().flatten().collect();
                match all[..] {
                    [check] => Ok(check),
                    _ => Err(format!("must have one of {}", [$(stringify!($key)),*].join(", "))),
                }
            }
        }
    };
}

entries! {
    /// The candidate's answers against the baseline's, by a reward model.
    win_rate: WinRate,
    /// Failures on prompts that must be refused.
    safety: Safety,
    /// Refusals of harmless prompts.
    benign_refusal: BenignRefusal,
    /// Right answers, against the baseline's.
    capability: Capability,
    /// Likelihood of given texts, against the baseline's.
    perplexity: Perplexity,
    /// Distance from the policy with adapters off.
    kl: Kl,
    /// Length of answers, against the baseline's.
    length: Length,
    /// Whether answers differ, and do not repeat themselves.
    diversity: Diversity,
    /// Answers that must not change.
    canary: Canary,
}

impl CheckEntry {
    /// What reports call it.
    pub(super) fn name(&self) -> String {
        let name = |check: &dyn Check| check.name().unwrap_or(check.kind()).to_owned();
        self.check().map(name).unwrap_or_default()
    }
}

/// Runs one check of a suite.
pub(super) fn run(
    entry: &CheckEntry,
    index: usize,
    session: &mut Session<'_>,
) -> Result<CheckReport, GateError> {
    let check = entry.check().map_err(|reason| GateError::Check { check: entry.name(), reason })?;
    let num_prompts = session.suite.prompts[check.prompts()].len();
    session.begin(index, &entry.name(), num_prompts)?;
    let found = check.run(session)?;
    let verdict = Verdict::worst(found.measurements.iter().filter_map(|m| m.verdict));
    Ok(CheckReport {
        kind: check.kind().to_owned(),
        name: entry.name(),
        verdict,
        num_prompts: found.num_prompts,
        stopped_early: found.num_prompts < num_prompts,
        measurements: found.measurements,
        examples: found.examples.into_iter().take(MAX_EXAMPLES).collect(),
        notes: found.notes,
    })
}

/// A check that can look at what it has before it has all.
pub(super) trait InParts {
    /// Asks some more questions.
    fn ask(&mut self, session: &mut Session<'_>, range: Range<usize>) -> Result<(), GateError>;
    /// Measures what was asked, with intervals that err no more often than `alpha`.
    fn measure(&self, alpha: f64) -> Vec<Measurement>;
}

/// Asks the questions of a set in parts until the verdict is certain or there are no more; the measurements, and how many
/// questions were asked.
pub(super) fn in_parts(
    session: &mut Session<'_>,
    set: &str,
    check: &mut impl InParts,
) -> Result<(Vec<Measurement>, usize), GateError> {
    let num_prompts = session.suite.prompts[set].len();
    let mut measured = (Vec::new(), 0);
    for (end, alpha) in stats::looks(num_prompts, session.suite.alpha, session.suite.early_stop) {
        check.ask(session, measured.1..end)?;
        measured = (check.measure(alpha), end);
        session.report(end)?;
        // Certain is what stays when the whole interval is asked for.
        let certain = |m: &Measurement| m.threshold.map(|t| t.verdict(&m.interval, Require::LowerBound));
        let verdict = Verdict::worst(measured.0.iter().filter_map(certain));
        if verdict != Verdict::Inconclusive {
            break;
        }
    }
    Ok(measured)
}

impl Measurement {
    pub(super) fn new(name: &str, interval: Interval, alpha: f64, method: &str, n: usize) -> Self {
        Self {
            name: name.to_owned(),
            interval,
            confidence: 1.0 - alpha,
            method: method.to_owned(),
            n,
            baseline: None,
            threshold: None,
            verdict: None,
            is_share: false,
        }
    }

    /// In percent.
    pub(super) fn share(self) -> Self {
        Self { is_share: true, ..self }
    }

    pub(super) fn beside(self, baseline: f64) -> Self {
        Self { baseline: Some(baseline), ..self }
    }

    /// With a verdict.
    pub(super) fn judged(self, threshold: Threshold, require: Require) -> Self {
        Self { verdict: Some(threshold.verdict(&self.interval, require)), threshold: Some(threshold), ..self }
    }
}

fn example(question: &Question, candidate: &str, baseline: Option<&str>, why: String) -> AnswerExample {
    AnswerExample {
        prompt: shortened(&question.last(), EXAMPLE_CHARS),
        category: question.category.clone(),
        candidate: shortened(candidate, EXAMPLE_CHARS),
        baseline: baseline.map(|text| shortened(text, EXAMPLE_CHARS)),
        why,
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Refuses a threshold outside `range`.
fn in_range(key: &str, value: f64, range: std::ops::RangeInclusive<f64>) -> Result<(), String> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(format!("`{key}` is {value}, but must be from {} to {}", range.start(), range.end()))
}

/// Refuses questions that are no conversation.
fn asks(set: &PromptSet) -> Result<(), String> {
    set.require(|question| match question.text {
        Some(_) => Err("is a bare `text`, but answers are to a `prompt` or to `messages`"),
        None => Ok(()),
    })
}
