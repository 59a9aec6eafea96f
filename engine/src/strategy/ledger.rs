//! What a strategy knows of its candidates, and the decision that follows when there is nothing more to learn. Leaves what
//! to do on the way to the strategies.

use super::reward::LengthPenalty;
use super::select::{Ended, Select};
use super::{Outcome, StrategyEvent};
use crate::request::Scoring;

/// How a decision is made.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) select: Select,
    pub(super) length_penalty: LengthPenalty,
    pub(super) num_choices: usize,
    pub(super) seed: u64,
}

/// Where a candidate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has not begun, or it runs.
    Open,
    /// It waits for what the strategy says.
    Held,
    Ended,
    Dropped,
}

/// What is known of a candidate.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) stage: Stage,
    /// The latest word on it.
    pub(super) verdict: Option<Result<f32, String>>,
    num_tokens: usize,
    text: String,
}

/// The candidates of a request.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    pub(super) entries: Vec<Entry>,
    rules: Rules,
    num_rewards: usize,
    /// The failure of the candidate with the lowest index.
    failure: Option<(usize, String)>,
}

impl Ledger {
    pub(super) fn new(n: usize, rules: Rules) -> Self {
        let entry = Entry { stage: Stage::Open, verdict: None, num_tokens: 0, text: String::new() };
        Self { entries: vec![entry; n], rules, num_rewards: 0, failure: None }
    }

    /// Notes an event. Returns the candidate if it waits for its score now.
    pub(super) fn note(&mut self, event: StrategyEvent) -> Option<usize> {
        let (index, verdict) = match event {
            StrategyEvent::Held { index, num_tokens } => {
                let entry = &mut self.entries[index];
                (entry.stage, entry.num_tokens) = (Stage::Held, num_tokens);
                (index, None)
            }
            StrategyEvent::Finished { index, num_tokens, text } => {
                let entry = &mut self.entries[index];
                (entry.stage, entry.num_tokens, entry.text) = (Stage::Ended, num_tokens, text);
                (index, None)
            }
            StrategyEvent::Scored { index, reward } if reward.is_finite() => (index, Some(Ok(reward))),
            StrategyEvent::Scored { index, reward } => {
                (index, Some(Err(format!("the reward model answered {reward} instead of a number"))))
            }
            StrategyEvent::ScoreFailed { index, reason } => (index, Some(Err(reason))),
            StrategyEvent::Compared { .. } => return None,
        };
        if let Some(verdict) = &verdict {
            self.count(index, verdict);
        }
        let waits = verdict.is_none();
        self.entries[index].verdict = verdict;
        waits.then_some(index)
    }

    /// Counts a reward, or a failure on account of candidate `index`.
    pub(super) fn count(&mut self, index: usize, verdict: &Result<f32, String>) {
        match verdict {
            Ok(_) => self.num_rewards += 1,
            Err(reason) if self.failure.as_ref().is_none_or(|(first, _)| index < *first) => {
                self.failure = Some((index, reason.clone()));
            }
            Err(_) => {}
        }
    }

    /// Every candidate of `indices` has been judged.
    pub(super) fn all_judged(&self, mut indices: impl Iterator<Item = usize>) -> bool {
        indices.all(|index| self.entries[index].verdict.is_some())
    }

    /// Candidates at a stage, by index.
    pub(super) fn at(&self, stage: Stage) -> impl Iterator<Item = usize> {
        self.entries.iter().enumerate().filter(move |(_, entry)| entry.stage == stage).map(|(index, _)| index)
    }

    /// The reward of a candidate after what its length costs.
    pub(super) fn value(&self, index: usize) -> Option<f64> {
        let Entry { verdict, num_tokens, .. } = &self.entries[index];
        let reward = *verdict.as_ref()?.as_ref().ok()?;
        Some(self.rules.length_penalty.apply(reward, *num_tokens))
    }

    /// A preference for the first of two candidates after what their lengths cost.
    pub(super) fn margin(&self, [first, second]: [usize; 2], preference: f32) -> f64 {
        let cost = |index: usize| self.rules.length_penalty.apply(0.0, self.entries[index].num_tokens);
        f64::from(preference) + cost(first) - cost(second)
    }

    fn seen(&self, index: usize) -> Ended<'_> {
        let Entry { num_tokens, text, .. } = &self.entries[index];
        Ended { index, value: self.value(index), num_tokens: *num_tokens, text }
    }

    /// Candidates by reward, the best first; those without one last.
    pub(super) fn rank(&self, indices: impl Iterator<Item = usize>) -> Vec<usize> {
        Select::Argmax.rank(&indices.map(|index| self.seen(index)).collect::<Vec<_>>(), 0)
    }

    /// The rewards of candidates that ended, after what their lengths cost.
    pub(super) fn values(&self) -> Vec<f64> {
        self.at(Stage::Ended).filter_map(|index| self.value(index)).collect()
    }

    /// Choices wanted.
    pub(super) fn num_choices(&self) -> usize {
        self.rules.num_choices
    }

    /// The decision among the candidates that ended.
    pub(super) fn outcome(&self) -> Outcome {
        let ended: Vec<Ended<'_>> = self.at(Stage::Ended).map(|index| self.seen(index)).collect();
        let mut selected = self.rules.select.rank(&ended, self.rules.seed);
        selected.truncate(self.rules.num_choices);
        Outcome { selected, scoring: self.scoring() }
    }

    /// How scoring went so far.
    pub(super) fn scoring(&self) -> Scoring {
        match &self.failure {
            None => Scoring::Ok,
            Some((_, reason)) if self.num_rewards == 0 => Scoring::Failed(reason.clone()),
            Some(_) => Scoring::Partial,
        }
    }
}
