//! The mean length of the candidate's answers over the baseline's: a reward model that likes length, or a policy that does not
//! end, shows here. Leaves whether the words are worth it to `win_rate`.

use std::ops::Range;

use super::*;

/// `length`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Length {
    /// What reports call it.
    #[serde(default)]
    name: Option<String>,
    /// What is answered.
    prompts: String,
    /// Least of the ratio.
    #[serde(default = "min_ratio")]
    min_ratio: f64,
    /// Most of the ratio.
    #[serde(default = "max_ratio")]
    max_ratio: f64,
    /// What a pass asks for.
    #[serde(default)]
    require: Option<Require>,
    /// How answers are sampled.
    #[serde(default)]
    sampling: Option<Sampling>,
}

fn min_ratio() -> f64 {
    0.5
}

fn max_ratio() -> f64 {
    1.5
}

impl Check for Length {
    says!("length", sampling);

    fn validate(&self, set: &PromptSet) -> Result<(), String> {
        in_range("min_ratio", self.min_ratio, 0.0..=self.max_ratio)?;
        asks(set)
    }

    fn run(&self, session: &mut Session<'_>) -> Result<Findings, GateError> {
        let mut lengths = Lengths {
            check: self,
            sampling: self.sampling.unwrap_or(session.suite.sampling),
            require: self.require.unwrap_or(session.suite.require),
            tokens: Vec::new(),
            cut: (0, 0),
            examples: Vec::new(),
        };
        let (measurements, num_prompts) = in_parts(session, &self.prompts, &mut lengths)?;
        let mut examples = lengths.examples;
        // Those that left the baseline's length furthest behind, either way.
        examples.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (ours, theirs) = lengths.cut;
        let notes = vec![format!(
            "answers cut at the longest length: {ours} of the candidate, {theirs} of the baseline"
        )];
        let examples = match Verdict::worst(measurements.iter().filter_map(|m| m.verdict)) {
            Verdict::Pass => Vec::new(),
            _ => examples.into_iter().map(|(_, example)| example).collect(),
        };
        Ok(Findings { measurements, num_prompts, examples, notes })
    }
}

/// What was asked so far.
struct Lengths<'a> {
    check: &'a Length,
    sampling: Sampling,
    require: Require,
    /// Tokens of candidate and baseline, over all samples of a prompt.
    tokens: Vec<(f64, f64)>,
    cut: (usize, usize),
    examples: Vec<(f64, AnswerExample)>,
}

impl InParts for Lengths<'_> {
    fn ask(&mut self, session: &mut Session<'_>, range: Range<usize>) -> Result<(), GateError> {
        let set = &self.check.prompts;
        let candidate = session.answers(Arm::Candidate, set, range.clone(), self.sampling)?;
        let baseline = session.answers(Arm::Baseline, set, range.clone(), self.sampling)?;
        let questions = &session.suite.prompts[set].questions[range];
        for ((question, ours), theirs) in questions.iter().zip(&candidate).zip(&baseline) {
            let count = |answers: &[Completion]| {
                let tokens: usize = answers.iter().map(|answer| answer.tokens.len()).sum();
                (tokens as f64, answers.iter().filter(|answer| !answer.is_complete).count())
            };
            let ((our_tokens, our_cut), (their_tokens, their_cut)) = (count(ours), count(theirs));
            self.tokens.push((our_tokens, their_tokens));
            self.cut.0 += our_cut;
            self.cut.1 += their_cut;
            if let (Some(our), Some(their)) = (ours.first(), theirs.first()) {
                let why = format!("{} tokens, not {}", our.tokens.len(), their.tokens.len());
                let drift = (our_tokens / their_tokens.max(1.0)).ln().abs();
                self.examples.push((drift, example(question, &our.text, Some(&their.text), why)));
            }
        }
        Ok(())
    }

    fn measure(&self, alpha: f64) -> Vec<Measurement> {
        let n = self.tokens.len();
        let sums = self.tokens.iter().fold((0.0, 0.0), |(a, b), pair| (a + pair.0, b + pair.1));
        let answers = (n * self.sampling.samples) as f64;
        let ratio = Measurement::new(
            "length ratio",
            stats::ratio(&self.tokens, alpha),
            alpha,
            "ratio over prompts, t",
            n,
        )
        .judged(Threshold::within(self.check.min_ratio, self.check.max_ratio), self.require);
        let alone: Vec<(f64, f64)> =
            self.tokens.iter().map(|pair| (pair.0, self.sampling.samples as f64)).collect();
        let mean = Measurement::new("tokens per answer", stats::ratio(&alone, alpha), alpha, "mean, t", n)
            .beside(sums.1 / answers);
        vec![ratio, mean]
    }
}
