//! Right answers of the candidate against the baseline's on the same questions: greedy answers that have `expect` or equal
//! `answer`, and choices by their likelihood. Leaves likelihoods to the engine.

use std::collections::BTreeMap;
use std::ops::Range;

use super::*;

/// `capability`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Capability {
    /// What reports call it.
    #[serde(default)]
    name: Option<String>,
    /// Questions with `answer`, `expect`, or `choices` and `answer`.
    prompts: String,
    /// Most points that the share of right answers may fall.
    #[serde(default = "max_drop")]
    max_drop: f64,
    /// Least share of right answers, whatever the baseline's is.
    #[serde(default)]
    min_accuracy: Option<f64>,
    /// What a pass asks for.
    #[serde(default)]
    require: Option<Require>,
}

fn max_drop() -> f64 {
    0.02
}

impl Check for Capability {
    says!("capability");

    fn validate(&self, set: &PromptSet) -> Result<(), String> {
        in_range("max_drop", self.max_drop, 0.0..=1.0)?;
        in_range("min_accuracy", self.min_accuracy.unwrap_or_default(), 0.0..=1.0)?;
        asks(set)?;
        set.require(|question| match question.answer.is_some() || question.has_patterns() {
            true => Ok(()),
            false => Err("must say by `answer`, `expect` or `choices` what is right"),
        })
    }

    fn run(&self, session: &mut Session<'_>) -> Result<Findings, GateError> {
        let mut exam = Exam {
            check: self,
            require: self.require.unwrap_or(session.suite.require),
            right: Vec::new(),
            by_category: BTreeMap::new(),
            lost: Vec::new(),
        };
        let (measurements, num_prompts) = in_parts(session, &self.prompts, &mut exam)?;
        Ok(Findings { measurements, num_prompts, examples: exam.lost, notes: Vec::new() })
    }
}

/// What was asked so far.
struct Exam<'a> {
    check: &'a Capability,
    require: Require,
    /// Candidate and baseline.
    right: Vec<(f64, f64)>,
    by_category: BTreeMap<String, Vec<(f64, f64)>>,
    /// What the baseline knew.
    lost: Vec<AnswerExample>,
}

/// An answer and whether it is right.
struct Graded {
    text: String,
    is_right: bool,
}

impl InParts for Exam<'_> {
    fn ask(&mut self, session: &mut Session<'_>, range: Range<usize>) -> Result<(), GateError> {
        let candidate = grade(session, Arm::Candidate, &self.check.prompts, range.clone())?;
        let baseline = grade(session, Arm::Baseline, &self.check.prompts, range.clone())?;
        let questions = &session.suite.prompts[&self.check.prompts].questions[range];
        for ((question, ours), theirs) in questions.iter().zip(candidate).zip(baseline) {
            let share = |graded: &Graded| f64::from(u8::from(graded.is_right));
            let pair = (share(&ours), share(&theirs));
            self.right.push(pair);
            if let Some(category) = &question.category {
                self.by_category.entry(category.clone()).or_default().push(pair);
            }
            if theirs.is_right && !ours.is_right {
                let why = "the baseline was right".to_owned();
                self.lost.push(example(question, &ours.text, Some(&theirs.text), why));
            }
        }
        Ok(())
    }

    fn measure(&self, alpha: f64) -> Vec<Measurement> {
        let n = self.right.len();
        let interval = stats::paired_difference(&self.right, alpha);
        let change = Measurement::new("change of accuracy", interval, alpha, "Newcombe, paired", n);
        let change = change.share().judged(Threshold::at_least(-self.check.max_drop), self.require);
        let accuracy = |name: &str, pairs: &[(f64, f64)]| {
            let (ours, theirs): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
            Measurement::new(name, stats::wilson(&ours, alpha), alpha, "Wilson", pairs.len())
                .share()
                .beside(mean(&theirs))
        };
        let whole = accuracy("accuracy", &self.right);
        let whole = match self.check.min_accuracy {
            Some(min) => whole.judged(Threshold::at_least(min), self.require),
            None => whole,
        };
        let of_category = |(category, pairs): (&String, &Vec<(f64, f64)>)| {
            accuracy(&format!("accuracy: {category}"), pairs)
        };
        [change, whole].into_iter().chain(self.by_category.iter().map(of_category)).collect()
    }
}

/// Answers of one arm, graded.
fn grade(
    session: &mut Session<'_>,
    arm: Arm,
    set: &str,
    range: Range<usize>,
) -> Result<Vec<Graded>, GateError> {
    let questions = &session.suite.prompts[set].questions;
    let mut graded = Vec::with_capacity(range.len());
    // Runs of questions of one kind, so that each run is asked at once.
    let mut begin = range.start;
    while begin < range.end {
        let is_choice = |index: usize| !questions[index].choices.is_empty();
        let end = (begin..range.end).find(|&i| is_choice(i) != is_choice(begin)).unwrap_or(range.end);
        if is_choice(begin) {
            graded.extend(choose(session, arm, &questions[begin..end])?);
        } else {
            let answers = session.answers(arm, set, begin..end, session.suite.sampling.greedy())?;
            for (question, answers) in questions[begin..end].iter().zip(answers) {
                let text = answers.into_iter().next().map(|answer| answer.text).unwrap_or_default();
                graded.push(Graded { is_right: is_right(question, &text), text });
            }
        }
        begin = end;
    }
    Ok(graded)
}

/// The likeliest choice of each question: the sum over its tokens, the end of the answer included.
fn choose(session: &Session<'_>, arm: Arm, questions: &[Question]) -> Result<Vec<Graded>, GateError> {
    let mut texts = Vec::new();
    for question in questions {
        for choice in &question.choices {
            texts.push(session.continuation(question, choice)?);
        }
    }
    let mut sums = session.logprobs(arm, &texts)?.into_iter().map(|logprobs| logprobs.iter().sum::<f64>());
    let mut graded = Vec::with_capacity(questions.len());
    for question in questions {
        let scored = question.choices.iter().map(|choice| (sums.next().unwrap_or(f64::NAN), choice));
        let best = scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, choice)| choice.clone());
        let text = best.unwrap_or_default();
        graded.push(Graded { is_right: question.answer.as_ref() == Some(&text), text });
    }
    Ok(graded)
}

/// Patterns first; without any, `answer` up to case, spaces and a last full stop.
fn is_right(question: &Question, text: &str) -> bool {
    let plain = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        words.join(" ").trim_end_matches('.').to_lowercase()
    };
    let fits = question.answer.as_ref().is_none_or(|answer| plain(answer) == plain(text));
    if question.has_patterns() { question.fault(text).is_none() } else { fits }
}
