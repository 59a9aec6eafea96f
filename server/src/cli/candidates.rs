//! Gathers the events of one request into its candidates. Leaves what is asked and what is done with them to the
//! commands.

use rectify_engine::EngineError;
use rectify_engine::request::{Candidate, Event, Scoring, Usage};

/// The candidates of one request, when it is done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Every candidate, by index.
    pub(crate) candidates: Vec<Candidate>,
    /// Chosen ones, best first; empty without a strategy.
    pub(crate) selected: Vec<usize>,
    /// Why there are no rewards, if there should be.
    pub(crate) scoring_failure: Option<String>,
    /// Tokens spent.
    pub(crate) usage: Usage,
}

/// Takes events until the request has ended.
#[derive(Debug)]
pub(crate) struct Collector {
    outcome: Outcome,
}

impl Collector {
    /// A collector for `n` candidates.
    pub(crate) fn new(n: usize) -> Self {
        let empty = Candidate {
            text: String::new(),
            tokens: Vec::new(),
            reward: None,
            rewards: Vec::new(),
            logprob: 0.0,
            finish_reason: None,
        };
        Self { outcome: Outcome { candidates: vec![empty; n], ..Outcome::default() } }
    }

    /// Takes an event; the outcome comes with the last.
    ///
    /// # Errors
    /// What the engine failed with.
    pub(crate) fn take(&mut self, event: Event) -> Result<Option<Outcome>, EngineError> {
        match event {
            Event::Token { index, token, text, logprobs } => {
                if let Some(candidate) = self.outcome.candidates.get_mut(index) {
                    candidate.tokens.push(token);
                    candidate.text.push_str(&text);
                    candidate.logprob += logprobs.map_or(0.0, |logprobs| f64::from(logprobs.own.logprob));
                }
            }
            Event::Finished { index, reason, text } => {
                if let Some(candidate) = self.outcome.candidates.get_mut(index) {
                    candidate.text.push_str(&text);
                    candidate.finish_reason = Some(reason);
                }
            }
            Event::Scored { index, reward } => {
                if let Some(candidate) = self.outcome.candidates.get_mut(index) {
                    candidate.reward = Some(reward);
                }
            }
            Event::Selected(selection) => {
                if let Scoring::Failed(reason) = selection.scoring {
                    self.outcome.scoring_failure = Some(reason);
                }
                self.outcome.selected = selection.selected;
                self.outcome.candidates = selection.candidates;
            }
            Event::Done(usage) => {
                self.outcome.usage = usage;
                return Ok(Some(std::mem::take(&mut self.outcome)));
            }
            Event::Failed(error) => return Err(error),
            Event::Prefilled { .. } | Event::Dropped { .. } | Event::Block { .. } => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rectify_engine::request::{FinishReason, Logprobs, Selection, TokenLogprob};

    fn token(index: usize, token: u32, text: &str) -> Event {
        let own = TokenLogprob { token, logprob: -0.5 };
        Event::Token { index, token, text: text.into(), logprobs: Some(Logprobs { own, top: Vec::new() }) }
    }

    #[test]
    fn without_a_strategy_candidates_are_their_tokens() {
        let mut collector = Collector::new(2);
        let events = [
            token(1, 7, "b"),
            token(0, 5, "a"),
            token(0, 6, ""),
            Event::Finished { index: 0, reason: FinishReason::Length, text: "!".into() },
            Event::Finished { index: 1, reason: FinishReason::Stop, text: String::new() },
        ];
        for event in events {
            assert!(collector.take(event).expect("no failure").is_none());
        }
        let usage = Usage { completion_tokens: 3, ..Usage::default() };
        let outcome = collector.take(Event::Done(usage)).expect("no failure").expect("the end");
        let [a, b] = &outcome.candidates[..] else { panic!("{outcome:?}") };
        assert_eq!((a.text.as_str(), a.tokens.as_slice(), a.logprob), ("a!", &[5, 6][..], -1.0));
        assert_eq!((b.text.as_str(), b.finish_reason), ("b", Some(FinishReason::Stop)));
        assert_eq!(outcome.usage, usage);
    }

    #[test]
    fn a_selection_replaces_what_was_gathered() {
        let mut collector = Collector::new(1);
        let candidate = Candidate {
            text: "whole".into(),
            tokens: vec![1],
            reward: Some(2.0),
            rewards: vec![Some(2.0)],
            logprob: -3.0,
            finish_reason: Some(FinishReason::Stop),
        };
        let selection = Selection {
            selected: vec![0],
            scoring: Scoring::Failed("NaN".into()),
            candidates: vec![candidate.clone()],
            reward_model: "r".into(),
            judges: vec!["r".into()],
            strategy: "best_of_n",
            max_candidates: 1,
            num_tokens: 1,
            num_pruned_tokens: 0,
            num_blocks: 0,
        };
        collector.take(token(0, 1, "wh")).expect("no failure");
        collector.take(Event::Selected(selection)).expect("no failure");
        let outcome = collector.take(Event::Done(Usage::default())).expect("no failure").expect("the end");
        assert_eq!((outcome.candidates, outcome.selected), (vec![candidate], vec![0]));
        assert_eq!(outcome.scoring_failure.as_deref(), Some("NaN"));
        assert!(Collector::new(1).take(Event::Failed(EngineError::Shutdown)).is_err());
    }
}
