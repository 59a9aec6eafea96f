//! Best-of-N: let every candidate finish, score each, keep the best (Stiennon et al. 2020, arXiv:2009.01325). Leaves
//! other ways to spend N candidates to their own files.

use super::{Action, Outcome, Strategy, StrategyEvent};
use crate::request::Scoring;

/// What is known of a candidate.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    Generating,
    Scoring,
    Reward(f32),
    Failed(String),
}

/// Selects by reward minus `length_penalty` per token, ties to the lower index.
///
/// If the scorer failed for some candidates, those with a reward are ranked first; if it failed for all, the candidates
/// that finished first are returned. First means with the fewest tokens, then by index: what would have finished first had
/// all run side by side, whatever order they really ran in.
#[derive(Clone, Debug)]
pub struct BestOfN {
    candidates: Vec<(Verdict, usize)>,
    num_choices: usize,
    length_penalty: f32,
    decided: bool,
}

impl BestOfN {
    /// A selection of `num_choices` among `n`.
    pub fn new(n: usize, num_choices: usize, length_penalty: f32) -> Self {
        Self { candidates: vec![(Verdict::Generating, 0); n], num_choices, length_penalty, decided: false }
    }

    fn outcome(&self) -> Outcome {
        let mut rewarded: Vec<(f64, usize)> = Vec::new();
        let mut unrewarded: Vec<(usize, usize)> = Vec::new();
        let mut first_failure = None;
        for (index, (verdict, num_tokens)) in self.candidates.iter().enumerate() {
            match verdict {
                Verdict::Reward(reward) => {
                    let penalty = f64::from(self.length_penalty) * *num_tokens as f64;
                    rewarded.push((f64::from(*reward) - penalty, index));
                }
                Verdict::Failed(reason) => {
                    first_failure.get_or_insert(reason);
                    unrewarded.push((*num_tokens, index));
                }
                Verdict::Generating | Verdict::Scoring => unrewarded.push((*num_tokens, index)),
            }
        }
        let scoring = match first_failure {
            None => Scoring::Ok,
            Some(reason) if rewarded.is_empty() => Scoring::Failed(reason.clone()),
            Some(_) => Scoring::Partial,
        };
        rewarded.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        unrewarded.sort_unstable();
        let order =
            rewarded.iter().map(|(_, index)| *index).chain(unrewarded.iter().map(|(_, index)| *index));
        Outcome { selected: order.take(self.num_choices).collect(), scoring }
    }
}

impl Strategy for BestOfN {
    fn on_event(&mut self, event: StrategyEvent, actions: &mut Vec<Action>) {
        let (index, verdict) = match event {
            StrategyEvent::Tokens { .. } => return,
            StrategyEvent::Finished { index, num_tokens } => {
                if let Some(candidate) = self.candidates.get_mut(index) {
                    candidate.1 = num_tokens;
                    actions.push(Action::Score(index));
                }
                (index, Verdict::Scoring)
            }
            StrategyEvent::Scored { index, reward } if reward.is_finite() => (index, Verdict::Reward(reward)),
            StrategyEvent::Scored { index, reward } => {
                (index, Verdict::Failed(format!("the reward model answered {reward} instead of a number")))
            }
            StrategyEvent::ScoreFailed { index, reason } => (index, Verdict::Failed(reason)),
        };
        if let Some(candidate) = self.candidates.get_mut(index) {
            candidate.0 = verdict;
        }
        let is_open =
            |(verdict, _): &(Verdict, usize)| matches!(verdict, Verdict::Generating | Verdict::Scoring);
        if !self.decided && !self.candidates.iter().any(is_open) {
            self.decided = true;
            actions.push(Action::Select(self.outcome()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::{Just, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use proptest::strategy::Strategy as _;

    use super::super::Strategy;
    use super::*;

    /// Sorts like rewards from the best down: the total order of floats as that of integers.
    fn preference(reward: f64) -> Reverse<u64> {
        let bits = reward.to_bits() as i64;
        Reverse((bits ^ (((bits >> 63) as u64) >> 1) as i64) as u64 ^ (1 << 63))
    }

    fn run(strategy: &mut BestOfN, events: impl IntoIterator<Item = StrategyEvent>) -> Vec<Action> {
        let mut actions = Vec::new();
        events.into_iter().for_each(|event| strategy.on_event(event, &mut actions));
        actions
    }

    fn finished(index: usize, num_tokens: usize) -> StrategyEvent {
        StrategyEvent::Finished { index, num_tokens }
    }

    fn scored(index: usize, reward: f32) -> StrategyEvent {
        StrategyEvent::Scored { index, reward }
    }

    fn failed(index: usize, reason: &str) -> StrategyEvent {
        StrategyEvent::ScoreFailed { index, reason: reason.into() }
    }

    #[test]
    fn scores_each_candidate_when_it_ends_and_selects_when_all_are_scored() {
        let mut strategy = BestOfN::new(2, 1, 0.0);
        assert_eq!(run(&mut strategy, [finished(1, 3)]), [Action::Score(1)]);
        assert_eq!(run(&mut strategy, [scored(1, -1.0), finished(0, 4)]), [Action::Score(0)]);
        let selected = Action::Select(Outcome { selected: vec![0], scoring: Scoring::Ok });
        assert_eq!(run(&mut strategy, [scored(0, -0.5)]), [selected]);
    }

    #[test]
    fn ties_go_to_the_lower_index_and_length_costs() {
        let events = |n: &[(usize, f32)]| {
            let ends = n.iter().enumerate().map(|(i, (tokens, _))| finished(i, *tokens)).collect::<Vec<_>>();
            let scores = n.iter().enumerate().map(|(i, (_, reward))| scored(i, *reward)).collect::<Vec<_>>();
            ends.into_iter().chain(scores).collect::<Vec<_>>()
        };
        let select = |penalty, n: &[(usize, f32)]| match run(
            &mut BestOfN::new(n.len(), 2, penalty),
            events(n),
        )
        .pop()
        {
            Some(Action::Select(outcome)) => outcome.selected,
            other => panic!("{other:?}"),
        };
        assert_eq!(select(0.0, &[(9, 1.0), (9, 2.0), (9, 2.0)]), [1, 2]);
        assert_eq!(select(0.1, &[(5, 1.0), (30, 2.0), (6, 1.0)]), [0, 2]);
    }

    #[test]
    fn degrades_to_partial_and_then_to_the_first_finished() {
        let ends = [finished(0, 9), finished(1, 4), finished(2, 4)];
        let outcome = |scores: [StrategyEvent; 3]| match run(
            &mut BestOfN::new(3, 2, 0.0),
            ends.clone().into_iter().chain(scores),
        )
        .pop()
        {
            Some(Action::Select(outcome)) => outcome,
            other => panic!("{other:?}"),
        };
        let partial = outcome([failed(1, "b"), scored(0, -3.0), failed(2, "c")]);
        assert_eq!(partial, Outcome { selected: vec![0, 1], scoring: Scoring::Partial });
        // The reason is that of the lowest index, in whatever order the failures came.
        let none = outcome([failed(2, "c"), failed(1, "b"), failed(0, "a")]);
        assert_eq!(none, Outcome { selected: vec![1, 2], scoring: Scoring::Failed("a".into()) });
        let nan = outcome([scored(0, f32::NAN), scored(1, f32::NAN), scored(2, f32::INFINITY)]);
        assert!(matches!(nan.scoring, Scoring::Failed(reason) if reason.contains("NaN")));
    }

    proptest! {
        #[test]
        fn equals_brute_force_in_every_order_of_events(
            candidates in prop::collection::vec((1usize..6, prop_oneof![
                4 => (-3i8..3).prop_map(|r| Some(f32::from(r))), 1 => Just(None), 1 => Just(Some(f32::NAN)),
            ]), 1..7),
            num_choices in 1usize..4,
            penalty in prop_oneof![Just(0.0f32), Just(0.5)],
            seed: u64,
        ) {
            let n = candidates.len();
            let mut strategy = BestOfN::new(n, num_choices, penalty);
            // Each candidate's events are its end, then its score; which candidate goes on next is random.
            let mut stage = vec![0; n];
            let mut random = seed;
            let mut decision = None;
            let mut num_events = 0;
            while let Some(open) = (0..n).find(|&i| stage[i] < 2) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let i = Some((random >> 33) as usize % n).filter(|&i| stage[i] < 2).unwrap_or(open);
                let event = match (stage[i], candidates[i]) {
                    (0, (num_tokens, _)) => finished(i, num_tokens),
                    (_, (_, Some(reward))) => scored(i, reward),
                    (_, (_, None)) => failed(i, "out of reach"),
                };
                stage[i] += 1;
                num_events += 1;
                for action in run(&mut strategy, [event]) {
                    if let Action::Select(outcome) = action {
                        prop_assert!(decision.is_none() && num_events == 2 * n);
                        decision = Some(outcome);
                    }
                }
            }
            let decision = decision.unwrap();

            let good = |i: usize| candidates[i].1.filter(|reward| reward.is_finite());
            let value = |i: usize| good(i).map(|r| f64::from(r) - f64::from(penalty) * candidates[i].0 as f64);
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by_key(|&i| match value(i) {
                Some(value) => (0, preference(value), 0, i),
                None => (1, Reverse(0), candidates[i].0, i),
            });
            order.truncate(num_choices);
            prop_assert_eq!(decision.selected, order);
            let num_good = (0..n).filter(|&i| good(i).is_some()).count();
            prop_assert_eq!(decision.scoring == Scoring::Ok, num_good == n);
            prop_assert_eq!(matches!(decision.scoring, Scoring::Failed(_)), num_good == 0);
        }
    }
}
