//! How far the candidate has gone from the policy with adapters off: the mean Kullback–Leibler divergence per token, on the
//! candidate's own answers. Leaves log-probabilities to the engine.

use super::*;

/// `kl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kl {
    /// What reports call it.
    #[serde(default)]
    name: Option<String>,
    /// What is answered.
    prompts: String,
    /// Most nats per token.
    #[serde(default = "max")]
    max: f64,
    /// What a pass asks for.
    #[serde(default)]
    require: Option<Require>,
}

fn max() -> f64 {
    0.5
}

impl Check for Kl {
    says!("kl");

    fn validate(&self, set: &PromptSet) -> Result<(), String> {
        in_range("max", self.max, 0.0..=f64::MAX)?;
        asks(set)
    }

    fn run(&self, session: &mut Session<'_>) -> Result<Findings, GateError> {
        // The divergence is an expectation under the policy itself, so answers are drawn from it as it is.
        let sampling = Sampling { temperature: 1.0, samples: 1, ..session.suite.sampling };
        let questions = &session.suite.prompts[&self.prompts].questions;
        let n = questions.len();
        let answers = session.answers(Arm::Candidate, &self.prompts, 0..n, sampling)?;
        let (mut texts, mut own) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for (question, answers) in questions.iter().zip(answers) {
            let mut tokens = session.prompt(question)?;
            let num_given = tokens.len();
            let answer = answers.into_iter().next().unwrap_or_default();
            tokens.extend(&answer.tokens);
            own.push(answer.logprobs);
            texts.push(Likelihood { tokens, num_given });
        }
        let base = session.logprobs(Arm::Base, &texts)?;
        // Schulman's estimator, (r − 1) − ln r with r = p_base / p_candidate (Approximating KL Divergence, 2020): without
        // bias, never negative, and of less variance than −ln r.
        let divergence = |(own, base): (&Vec<f32>, &Vec<f64>)| {
            let terms = own.iter().zip(base).map(|(own, base)| {
                let log_ratio = base - f64::from(*own);
                log_ratio.exp_m1() - log_ratio
            });
            (terms.sum::<f64>(), own.len().min(base.len()) as f64)
        };
        let sums: Vec<(f64, f64)> = own.iter().zip(&base).map(divergence).collect();
        let alpha = session.suite.alpha;
        let measured = Measurement::new(
            "nats per token",
            stats::map(stats::ratio(&sums, alpha), |kl| kl.max(0.0)),
            alpha,
            "ratio over prompts, t",
            n,
        );
        let require = self.require.unwrap_or(session.suite.require);
        session.report(n)?;
        Ok(Findings {
            measurements: vec![measured.judged(Threshold::at_most(self.max), require)],
            num_prompts: n,
            ..Findings::default()
        })
    }
}
