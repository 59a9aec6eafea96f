//! A rate of failures over prompts, as a whole, by category and beside the baseline's: what `safety`, `benign_refusal` and
//! `canary` share. Leaves what a failure is to them.

use std::collections::BTreeMap;
use std::ops::Range;

use super::*;

/// What a rate may be. The baseline is asked only where a limit is relative to it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RateLimits {
    /// Most failures.
    pub(super) max: Option<f64>,
    /// Most of one category.
    pub(super) max_category: Option<f64>,
    /// Most points above the baseline's rate on the same prompts.
    pub(super) max_increase: Option<f64>,
}

impl RateLimits {
    /// With `max` where the suite limits the whole in no way.
    pub(super) fn or_max(self, max: f64) -> Self {
        Self { max: self.max.or(self.max_increase.is_none().then_some(max)), ..self }
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let Self { max, max_category, max_increase } = *self;
        let limits = [("max", max), ("max_category", max_category), ("max_increase", max_increase)];
        limits.iter().try_for_each(|(key, limit)| in_range(key, limit.unwrap_or_default(), 0.0..=1.0))
    }
}

/// What a check of a rate asks for.
pub(super) struct RateCheck<'a, F> {
    pub(super) set: &'a str,
    pub(super) sampling: Sampling,
    /// What is counted: `failure rate`.
    pub(super) what: &'static str,
    pub(super) limits: RateLimits,
    pub(super) require: Require,
    /// Why an answer to the question of this index is a failure.
    pub(super) fault: F,
}

/// What was asked so far.
struct Rates<'a, F> {
    check: &'a RateCheck<'a, F>,
    /// Failures of each prompt's answers, as a share.
    failures: Vec<f64>,
    /// The baseline's, if it is asked.
    before: Vec<f64>,
    by_category: BTreeMap<String, Vec<f64>>,
    examples: Vec<AnswerExample>,
}

impl<F: Fn(usize, &Question, &str) -> Option<String>> RateCheck<'_, F> {
    pub(super) fn run(&self, session: &mut Session<'_>) -> Result<Findings, GateError> {
        let mut rates = Rates {
            check: self,
            failures: Vec::new(),
            before: Vec::new(),
            by_category: BTreeMap::new(),
            examples: Vec::new(),
        };
        let (measurements, num_prompts) = in_parts(session, self.set, &mut rates)?;
        Ok(Findings { measurements, num_prompts, examples: rates.examples, notes: Vec::new() })
    }
}

impl<F: Fn(usize, &Question, &str) -> Option<String>> InParts for Rates<'_, F> {
    fn ask(&mut self, session: &mut Session<'_>, range: Range<usize>) -> Result<(), GateError> {
        let check = self.check;
        let mut ask = |arm| session.answers(arm, check.set, range.clone(), check.sampling);
        let answers = ask(Arm::Candidate)?;
        let before = check.limits.max_increase.map(|_| ask(Arm::Baseline)).transpose()?;
        let questions = &session.suite.prompts[check.set].questions;
        for (index, answers) in range.clone().zip(answers) {
            let question = &questions[index];
            let mut failed = 0;
            for answer in &answers {
                if let Some(why) = (check.fault)(index, question, &answer.text) {
                    failed += 1;
                    self.examples.push(example(question, &answer.text, None, why));
                }
            }
            let share = f64::from(failed) / answers.len() as f64;
            self.failures.push(share);
            if let Some(category) = &question.category {
                self.by_category.entry(category.clone()).or_default().push(share);
            }
        }
        for (index, answers) in range.zip(before.into_iter().flatten()) {
            let fails = |answer: &Completion| (check.fault)(index, &questions[index], &answer.text).is_some();
            self.before
                .push(answers.iter().filter(|answer| fails(answer)).count() as f64 / answers.len() as f64);
        }
        Ok(())
    }

    fn measure(&self, alpha: f64) -> Vec<Measurement> {
        let measure = |name: &str, values: &[f64]| {
            Measurement::new(name, stats::wilson(values, alpha), alpha, "Wilson", values.len()).share()
        };
        let RateCheck { what, require, limits, .. } = *self.check;
        let mut whole = measure(what, &self.failures);
        if let Some(max) = limits.max {
            whole = whole.judged(Threshold::at_most(max), require);
        }
        let mut measured = Vec::new();
        if let Some(max) = limits.max_increase {
            let pairs: Vec<(f64, f64)> =
                self.failures.iter().copied().zip(self.before.iter().copied()).collect();
            let (name, interval) = (format!("change of {what}"), stats::paired_difference(&pairs, alpha));
            let change = Measurement::new(&name, interval, alpha, "Newcombe, paired", pairs.len()).share();
            measured.push(whole.beside(mean(&self.before)));
            measured.push(change.judged(Threshold::at_most(max), require));
        } else {
            measured.push(whole);
        }
        let of_category = |(category, values): (&String, &Vec<f64>)| {
            let measured = measure(&format!("{what}: {category}"), values);
            match limits.max_category {
                Some(max) => measured.judged(Threshold::at_most(max), require),
                None => measured,
            }
        };
        measured.extend(self.by_category.iter().map(of_category));
        measured
    }
}
