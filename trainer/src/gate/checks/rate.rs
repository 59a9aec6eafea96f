//! A rate of failures over prompts, as a whole and by category: what `safety`, `benign_refusal` and `canary` share. Leaves
//! what a failure is to them.

use std::collections::BTreeMap;
use std::ops::Range;

use super::*;

/// What a check of a rate asks for.
pub(super) struct RateCheck<'a, F> {
    pub(super) set: &'a str,
    pub(super) sampling: Sampling,
    /// What is counted: `failure rate`.
    pub(super) what: &'static str,
    pub(super) max: f64,
    /// Most of one category.
    pub(super) max_category: Option<f64>,
    pub(super) require: Require,
    /// Why an answer to the question of this index is a failure.
    pub(super) fault: F,
}

/// What was asked so far.
struct Rates<'a, F> {
    check: &'a RateCheck<'a, F>,
    /// Failures of each prompt's answers, as a share.
    failures: Vec<f64>,
    by_category: BTreeMap<String, Vec<f64>>,
    examples: Vec<AnswerExample>,
}

impl<F: Fn(usize, &Question, &str) -> Option<String>> RateCheck<'_, F> {
    pub(super) fn run(&self, session: &mut Session<'_>) -> Result<Findings, GateError> {
        let mut rates =
            Rates { check: self, failures: Vec::new(), by_category: BTreeMap::new(), examples: Vec::new() };
        let (measurements, num_prompts) = in_parts(session, self.set, &mut rates)?;
        Ok(Findings { measurements, num_prompts, examples: rates.examples, notes: Vec::new() })
    }
}

impl<F: Fn(usize, &Question, &str) -> Option<String>> InParts for Rates<'_, F> {
    fn ask(&mut self, session: &mut Session<'_>, range: Range<usize>) -> Result<(), GateError> {
        let check = self.check;
        let answers = session.answers(Arm::Candidate, check.set, range.clone(), check.sampling)?;
        for (index, answers) in range.zip(answers) {
            let question = &session.suite.prompts[check.set].questions[index];
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
        Ok(())
    }

    fn measure(&self, alpha: f64) -> Vec<Measurement> {
        let measure = |name: &str, values: &[f64]| {
            Measurement::new(name, stats::wilson(values, alpha), alpha, "Wilson", values.len()).share()
        };
        let RateCheck { what, require, .. } = *self.check;
        let whole = measure(what, &self.failures).judged(Threshold::at_most(self.check.max), require);
        let of_category = |(category, values): (&String, &Vec<f64>)| {
            let measured = measure(&format!("{what}: {category}"), values);
            match self.check.max_category {
                Some(max) => measured.judged(Threshold::at_most(max), require),
                None => measured,
            }
        };
        std::iter::once(whole).chain(self.by_category.iter().map(of_category)).collect()
    }
}
