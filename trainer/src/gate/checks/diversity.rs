//! Whether the candidate still says different things: distinct-n against the baseline's (Li et al. 2016, arXiv:1510.03055),
//! the share of answers given to more than one prompt, and how much an answer repeats itself. Leaves whether what it says is
//! right to `capability`.

use std::collections::HashMap;

use super::*;

/// `diversity`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Diversity {
    /// What reports call it.
    #[serde(default)]
    name: Option<String>,
    /// What is answered; prompts whose answers should differ.
    prompts: String,
    /// Words that are counted together for distinct-n and for repetition.
    #[serde(default = "ngram")]
    ngram: usize,
    /// Least of the candidate's distinct-n over the baseline's.
    #[serde(default = "min_distinct_ratio")]
    min_distinct_ratio: f64,
    /// Most answers, as a share, that are also the answer to another prompt.
    #[serde(default = "max_identical")]
    max_identical: f64,
    /// Most of an answer, as a share of its n-grams, that it has said before.
    #[serde(default = "max_repetition")]
    max_repetition: f64,
    /// What a pass asks for.
    #[serde(default)]
    require: Option<Require>,
    /// How answers are sampled.
    #[serde(default)]
    sampling: Option<Sampling>,
}

fn ngram() -> usize {
    2
}

fn min_distinct_ratio() -> f64 {
    0.7
}

fn max_identical() -> f64 {
    0.5
}

fn max_repetition() -> f64 {
    0.2
}

impl Check for Diversity {
    says!("diversity", sampling);

    fn validate(&self, set: &PromptSet) -> Result<(), String> {
        in_range("ngram", self.ngram as f64, 1.0..=8.0)?;
        in_range("min_distinct_ratio", self.min_distinct_ratio, 0.0..=f64::MAX)?;
        in_range("max_identical", self.max_identical, 0.0..=1.0)?;
        in_range("max_repetition", self.max_repetition, 0.0..=1.0)?;
        if set.len() < 2 {
            return Err("it compares answers to different prompts, but there is only one".to_owned());
        }
        asks(set)
    }

    fn run(&self, session: &mut Session<'_>) -> Result<Findings, GateError> {
        let sampling = self.sampling.unwrap_or(session.suite.sampling);
        let require = self.require.unwrap_or(session.suite.require);
        let alpha = session.suite.alpha;
        let questions = &session.suite.prompts[&self.prompts].questions;
        let n = questions.len();
        let mut arm = |arm| -> Result<Vec<Vec<String>>, GateError> {
            let answers = session.answers(arm, &self.prompts, 0..n, sampling)?;
            Ok(answers.into_iter().map(|of| of.into_iter().map(|answer| answer.text).collect()).collect())
        };
        let (ours, theirs) = (arm(Arm::Candidate)?, arm(Arm::Baseline)?);
        let (our_grams, their_grams) = (Grams::of(&ours, self.ngram), Grams::of(&theirs, self.ngram));

        let value = our_grams.distinct() / their_grams.distinct();
        let without: Vec<f64> =
            (0..n).map(|i| our_grams.distinct_without(i) / their_grams.distinct_without(i)).collect();
        let ratio = stats::jackknife(value, &without, alpha);
        let ratio =
            Measurement::new(&format!("distinct-{} ratio", self.ngram), ratio, alpha, "jackknife, t", n)
                .judged(Threshold::at_least(self.min_distinct_ratio), require);

        let (our_identical, their_identical) = (identical(&ours), identical(&theirs));
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let same =
            Measurement::new("identical answers", stats::wilson(&our_identical, alpha), alpha, "Wilson", n)
                .share()
                .beside(mean(&their_identical))
                .judged(Threshold::at_most(self.max_identical), require);

        let repeated: Vec<f64> = our_grams.repetition();
        let again = Measurement::new("self-repetition", stats::wilson(&repeated, alpha), alpha, "Wilson", n)
            .share()
            .beside(mean(&their_grams.repetition()))
            .judged(Threshold::at_most(self.max_repetition), require);

        let measurements = vec![ratio, same, again];
        let examples = match Verdict::worst(measurements.iter().filter_map(|m| m.verdict)) {
            Verdict::Pass => Vec::new(),
            _ => worst(questions, &ours, &our_identical, &repeated),
        };
        session.report(n)?;
        Ok(Findings { measurements, num_prompts: n, examples, notes: Vec::new() })
    }
}

/// The answers that repeat themselves or each other.
fn worst(
    questions: &[Question],
    answers: &[Vec<String>],
    identical: &[f64],
    repeated: &[f64],
) -> Vec<AnswerExample> {
    let mut order: Vec<usize> = (0..questions.len()).collect();
    let weight = |i: usize| identical[i] + repeated[i];
    order.sort_by(|&a, &b| weight(b).total_cmp(&weight(a)));
    let show = |&i: &usize| {
        let same = if identical[i] > 0.0 { "also the answer to another prompt, " } else { "" };
        let why = format!("{same}{:.0} % of it repeated", 100.0 * repeated[i]);
        example(&questions[i], answers[i].first().map_or("", String::as_str), None, why)
    };
    order.iter().take(MAX_EXAMPLES).filter(|&&i| weight(i) > 0.0).map(show).collect()
}

/// Of each prompt, the share of its answers that another prompt got too.
fn identical(answers: &[Vec<String>]) -> Vec<f64> {
    let mut prompts_of: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, texts) in answers.iter().enumerate() {
        for text in texts {
            let prompts = prompts_of.entry(text.trim()).or_default();
            if prompts.last() != Some(&index) {
                prompts.push(index);
            }
        }
    }
    let share = |texts: &Vec<String>| {
        let shared = texts.iter().filter(|text| prompts_of[text.trim()].len() > 1).count();
        shared as f64 / texts.len() as f64
    };
    answers.iter().map(share).collect()
}

/// N-grams of all answers, and of each prompt's.
struct Grams {
    whole: HashMap<String, usize>,
    /// Of each prompt, over its answers.
    by_prompt: Vec<HashMap<String, usize>>,
    /// Of each prompt, the n-grams of each answer: all, and different ones.
    answers: Vec<Vec<(usize, usize)>>,
    total: usize,
}

impl Grams {
    fn of(answers: &[Vec<String>], n: usize) -> Self {
        let mut grams = Self { whole: HashMap::new(), by_prompt: Vec::new(), answers: Vec::new(), total: 0 };
        for texts in answers {
            let (mut of_prompt, mut counts) = (HashMap::new(), Vec::new());
            for text in texts {
                let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
                let mut of_answer: HashMap<String, usize> = HashMap::new();
                for window in words.windows(n) {
                    *of_answer.entry(window.join(" ")).or_default() += 1;
                }
                let total: usize = of_answer.values().sum();
                counts.push((total, of_answer.len()));
                grams.total += total;
                for (gram, count) in of_answer {
                    *grams.whole.entry(gram.clone()).or_default() += count;
                    *of_prompt.entry(gram).or_default() += count;
                }
            }
            grams.by_prompt.push(of_prompt);
            grams.answers.push(counts);
        }
        grams
    }

    /// Different n-grams over all; none at all are as different as can be.
    fn distinct(&self) -> f64 {
        share(self.whole.len(), self.total)
    }

    /// The same without one prompt's answers.
    fn distinct_without(&self, prompt: usize) -> f64 {
        let own = &self.by_prompt[prompt];
        let gone = own.iter().filter(|(gram, count)| self.whole.get(*gram) == Some(count)).count();
        share(self.whole.len() - gone, self.total - own.values().sum::<usize>())
    }

    /// Of each prompt, the share of an answer's n-grams that it has said before.
    fn repetition(&self) -> Vec<f64> {
        let of = |&(total, different): &(usize, usize)| 1.0 - share(different, total);
        let mean = |answers: &Vec<(usize, usize)>| answers.iter().map(of).sum::<f64>() / answers.len() as f64;
        self.answers.iter().map(mean).collect()
    }
}

fn share(different: usize, total: usize) -> f64 {
    if total == 0 { 1.0 } else { different as f64 / total as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(all: &[&str]) -> Vec<Vec<String>> {
        all.iter().map(|text| vec![(*text).to_owned()]).collect()
    }

    #[test]
    fn distinct_n_counts_different_ones_over_all() {
        // a b, b a, a b | c d: 3 different of 4.
        let grams = Grams::of(&texts(&["a b a B", "c d"]), 2);
        assert_eq!(grams.distinct(), 0.75);
        assert_eq!(grams.distinct_without(0), 1.0);
        assert!((grams.distinct_without(1) - 2.0 / 3.0).abs() < 1e-12);
        assert!((grams.repetition()[0] - 1.0 / 3.0).abs() < 1e-12 && grams.repetition()[1] == 0.0);
        assert_eq!(Grams::of(&texts(&["one", ""]), 2).distinct(), 1.0);
    }

    #[test]
    fn identical_answers_are_those_to_several_prompts() {
        assert_eq!(identical(&texts(&["yes", " yes", "no"])), [1.0, 1.0, 0.0]);
        // Twice the same answer to one prompt is no collapse.
        assert_eq!(identical(&[vec!["a".to_owned(), "a".to_owned()], vec!["b".to_owned()]]), [0.0, 0.0]);
    }
}
