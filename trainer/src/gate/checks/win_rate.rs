//! How often the candidate's answer is better than the baseline's to the same prompt with the same seed, by a reward model;
//! ties count half. Leaves rewards to the engine.

use std::ops::Range;
use std::sync::Arc;

use super::*;

/// `win_rate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WinRate {
    /// What reports call it.
    #[serde(default)]
    name: Option<String>,
    /// Prompts that training has not seen.
    prompts: String,
    /// The reward model that judges; if unset, the first that the candidate was not trained on, else the first.
    #[serde(default)]
    judge: Option<String>,
    /// Least share of wins.
    #[serde(default = "min")]
    min: f64,
    /// Rewards that differ by no more than this are a tie.
    #[serde(default)]
    tie: f64,
    /// What a pass asks for.
    #[serde(default)]
    require: Option<Require>,
    /// How answers are sampled.
    #[serde(default)]
    sampling: Option<Sampling>,
}

fn min() -> f64 {
    0.5
}

impl Check for WinRate {
    says!("win_rate", sampling);

    fn validate(&self, set: &PromptSet) -> Result<(), String> {
        in_range("min", self.min, 0.0..=1.0)?;
        in_range("tie", self.tie, 0.0..=f64::MAX)?;
        asks(set)
    }

    fn run(&self, session: &mut Session<'_>) -> Result<Findings, GateError> {
        let (judge, note) = self.judge(session)?;
        let mut duel = Duel {
            check: self,
            judge,
            sampling: self.sampling.unwrap_or(session.suite.sampling),
            require: self.require.unwrap_or(session.suite.require),
            wins: Vec::new(),
            losses: Vec::new(),
            margin: 0.0,
        };
        let (measurements, num_prompts) = in_parts(session, &self.prompts, &mut duel)?;
        duel.losses.sort_by(|a, b| b.0.total_cmp(&a.0));
        let examples = duel.losses.into_iter().map(|(_, example)| example).collect();
        let mean = duel.margin / num_prompts.max(1) as f64;
        let mut notes = vec![format!("judged by `{}`; mean difference of rewards {mean:.3}", duel.judge)];
        notes.extend(note);
        Ok(Findings { measurements, num_prompts, examples, notes })
    }
}

impl WinRate {
    /// The reward model that judges, and what readers should know of it.
    fn judge(&self, session: &Session<'_>) -> Result<(String, Option<String>), GateError> {
        let loaded: Vec<&str> = session.bench.models.rewards.iter().map(|name| &**name).collect();
        let refuse = |reason: String| {
            let check = self.name.clone().unwrap_or_else(|| self.kind().to_owned());
            GateError::Check { check, reason }
        };
        if loaded.is_empty() {
            return Err(refuse(
                "it needs a reward model, and none is loaded: name one or leave the check out".to_owned(),
            ));
        }
        let trained_on = session.bench.training_reward.as_deref();
        let judge = match self.judge.as_deref() {
            Some(name) if !loaded.contains(&name) => {
                return Err(refuse(format!(
                    "its judge `{name}` is not among the reward models {}",
                    loaded.join(", ")
                )));
            }
            Some(name) => name,
            None => loaded.iter().find(|name| Some(**name) != trained_on).unwrap_or(&loaded[0]),
        };
        let note = (Some(judge) == trained_on).then(|| {
            "the candidate was trained on this reward model, which may favour it: load another to judge"
                .to_owned()
        });
        Ok((judge.to_owned(), note))
    }
}

/// What was asked so far.
struct Duel<'a> {
    check: &'a WinRate,
    judge: String,
    sampling: Sampling,
    require: Require,
    /// Of each prompt, from 0 to 1.
    wins: Vec<f64>,
    /// By how much, and the answers.
    losses: Vec<(f64, AnswerExample)>,
    margin: f64,
}

impl InParts for Duel<'_> {
    fn ask(&mut self, session: &mut Session<'_>, range: Range<usize>) -> Result<(), GateError> {
        let set = &self.check.prompts;
        let candidate = session.answers(Arm::Candidate, set, range.clone(), self.sampling)?;
        let baseline = session.answers(Arm::Baseline, set, range.clone(), self.sampling)?;
        let questions = &session.suite.prompts[set].questions[range];
        let mut inputs = Vec::with_capacity(questions.len());
        for ((question, candidate), baseline) in questions.iter().zip(&candidate).zip(&baseline) {
            let texts = candidate.iter().chain(baseline).map(|answer| answer.text.clone()).collect();
            inputs.push((Arc::clone(&question.messages), texts));
        }
        let rewards = session.rewards(&self.judge, inputs)?;
        for (index, question) in questions.iter().enumerate() {
            let (ours, theirs) = (&candidate[index], &baseline[index]);
            let (mut wins, mut margins) = (0.0, 0.0);
            for sample in 0..ours.len() {
                let reward = |at: usize| f64::from(rewards[index].get(at).copied().unwrap_or(f32::NAN));
                let (own, other) = (reward(sample), reward(ours.len() + sample));
                let margin = own - other;
                // Equal answers are a tie, whatever rounding says, and so is what the judge cannot compare. An answer that
                // it cannot read, beside one that it can, loses.
                let is_tie = ours[sample].text == theirs[sample].text
                    || other.is_nan()
                    || margin.abs() <= self.check.tie;
                wins += if is_tie { 0.5 } else { f64::from(u8::from(margin > 0.0)) };
                margins += if margin.is_finite() { margin } else { 0.0 };
                if !is_tie && (margin < 0.0 || margin.is_nan()) {
                    let why = format!("its reward is {:.2} lower", -margin);
                    let shown = example(question, &ours[sample].text, Some(&theirs[sample].text), why);
                    self.losses.push((-margin, shown));
                }
            }
            self.wins.push(wins / ours.len() as f64);
            self.margin += margins / ours.len() as f64;
        }
        Ok(())
    }

    fn measure(&self, alpha: f64) -> Vec<Measurement> {
        let interval = stats::wilson(&self.wins, alpha);
        let measured =
            Measurement::new("win rate", interval, alpha, "Wilson, paired, ties half", self.wins.len());
        vec![measured.share().judged(Threshold::at_least(self.check.min), self.require)]
    }
}
