//! Answers that must not change: greedy, equal to the prompt's `answer`, or to the baseline's where it has none. Leaves answers
//! that may be worded in several ways to `capability`.

use super::rate::{RateCheck, RateLimits};
use super::*;

/// `canary`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Canary {
    /// What reports call it.
    #[serde(default)]
    name: Option<String>,
    /// The prompts.
    prompts: String,
    /// Most changed answers, as a share.
    #[serde(default)]
    max: f64,
}

impl Check for Canary {
    says!("canary");

    fn validate(&self, set: &PromptSet) -> Result<(), String> {
        in_range("max", self.max, 0.0..=1.0)?;
        asks(set)
    }

    fn run(&self, session: &mut Session<'_>) -> Result<Findings, GateError> {
        let sampling = session.suite.sampling.greedy();
        let set = &session.suite.prompts[&self.prompts];
        let is_open =
            set.questions.iter().any(|question| question.answer.is_none() && !question.has_patterns());
        // Greedy answers of the baseline, where they are what must stay.
        let mut before = Vec::new();
        if is_open {
            let answers = session.answers(Arm::Baseline, &self.prompts, 0..set.len(), sampling)?;
            before.extend(answers.into_iter().flatten().map(|answer| answer.text));
        }
        let fault = |index: usize, question: &Question, answer: &str| {
            if let Some(wanted) = &question.answer {
                return (answer.trim() != wanted.trim())
                    .then(|| format!("is not `{}`", shortened(wanted, 80)));
            }
            if question.has_patterns() {
                return question.fault(answer);
            }
            let was = before.get(index).map_or("", String::as_str);
            (answer.trim() != was.trim()).then(|| format!("was `{}`", shortened(was, 80)))
        };
        RateCheck {
            set: &self.prompts,
            sampling,
            what: "changed answers",
            limits: RateLimits { max: Some(self.max), ..RateLimits::default() },
            require: Require::Point,
            fault,
        }
        .run(session)
    }
}
