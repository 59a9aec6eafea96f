//! The likelihood of given texts: perplexity of the candidate over the baseline's. Leaves log-probabilities to the engine.

use super::*;

/// `perplexity`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Perplexity {
    /// What reports call it.
    #[serde(default)]
    name: Option<String>,
    /// Bare `text`s, or prompts with the `answer` that is measured.
    prompts: String,
    /// Most of the ratio.
    #[serde(default = "max_ratio")]
    max_ratio: f64,
    /// What a pass asks for.
    #[serde(default)]
    require: Option<Require>,
}

fn max_ratio() -> f64 {
    1.1
}

impl Check for Perplexity {
    says!("perplexity");

    fn validate(&self, set: &PromptSet) -> Result<(), String> {
        in_range("max_ratio", self.max_ratio, f64::MIN_POSITIVE..=f64::MAX)?;
        set.require(|question| match question.text.is_some() || question.answer.is_some() {
            true => Ok(()),
            false => Err("must be a `text`, or have the `answer` that is measured"),
        })
    }

    fn run(&self, session: &mut Session<'_>) -> Result<Findings, GateError> {
        let questions = &session.suite.prompts[&self.prompts].questions;
        let mut texts = Vec::with_capacity(questions.len());
        for question in questions {
            texts.push(match (&question.text, &question.answer) {
                (None, Some(answer)) => session.continuation(question, answer)?,
                _ => Likelihood { tokens: session.prompt(question)?, num_given: 1 },
            });
        }
        let losses = |arm| -> Result<Vec<(f64, f64)>, GateError> {
            let sum = |logprobs: Vec<f64>| (-logprobs.iter().sum::<f64>(), logprobs.len() as f64);
            Ok(session.logprobs(arm, &texts)?.into_iter().map(sum).collect())
        };
        let (candidate, baseline) = (losses(Arm::Candidate)?, losses(Arm::Baseline)?);
        let alpha = session.suite.alpha;
        let n = questions.len();
        // Per token, in nats: the logarithm of the ratio is the mean difference.
        let more: Vec<(f64, f64)> =
            candidate.iter().zip(&baseline).map(|(ours, theirs)| (ours.0 - theirs.0, ours.1)).collect();
        let ratio = stats::map(stats::ratio(&more, alpha), f64::exp);
        let require = self.require.unwrap_or(session.suite.require);
        let measured = Measurement::new("perplexity ratio", ratio, alpha, "ratio over texts, t", n)
            .judged(Threshold::at_most(self.max_ratio), require);
        let own = |losses: &[(f64, f64)]| stats::map(stats::ratio(losses, alpha), f64::exp);
        let absolute = Measurement::new("perplexity", own(&candidate), alpha, "ratio over texts, t", n)
            .beside(own(&baseline).value);
        session.report(n)?;
        Ok(Findings { measurements: vec![measured, absolute], num_prompts: n, ..Findings::default() })
    }
}
