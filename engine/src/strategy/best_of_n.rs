//! Best-of-N: let every candidate finish, score each, keep the best (Stiennon et al. 2020, arXiv:2009.01325). Leaves
//! other ways to spend N candidates to their own files.

use super::ledger::{Ledger, Stage};
use super::{Action, Strategy, StrategyEvent};

/// All candidates run to their end.
///
/// If the scorer failed for some candidates, those with a reward are ranked first; if it failed for all, the candidates
/// that finished first are returned. First means with the fewest tokens, then by index: what would have finished first had
/// all run side by side, whatever order they really ran in.
#[derive(Clone, Debug)]
pub struct BestOfN {
    ledger: Ledger,
}

impl BestOfN {
    pub(super) fn new(ledger: Ledger) -> Self {
        Self { ledger }
    }
}

impl Strategy for BestOfN {
    fn start(&mut self, actions: &mut Vec<Action>) {
        actions.extend(self.ledger.at(Stage::Open).map(|index| Action::Run { index, until: usize::MAX }));
    }

    fn on_event(&mut self, event: StrategyEvent, actions: &mut Vec<Action>) {
        if let Some(index) = self.ledger.note(event) {
            actions.push(Action::Score(index));
        } else if self.ledger.all_judged(0..self.ledger.entries.len()) {
            actions.push(Action::Select(self.ledger.outcome()));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, prop_assert_eq, prop_oneof, proptest};

    use super::super::simulation::{World, ledger, ledger_with, play};
    use super::super::{LengthPenalty, Outcome};
    use super::*;
    use crate::request::Scoring;

    fn run(strategy: &mut BestOfN, events: impl IntoIterator<Item = StrategyEvent>) -> Vec<Action> {
        let mut actions = Vec::new();
        events.into_iter().for_each(|event| strategy.on_event(event, &mut actions));
        actions
    }

    fn finished(index: usize, num_tokens: usize) -> StrategyEvent {
        StrategyEvent::Finished { index, num_tokens, text: String::new() }
    }

    fn scored(index: usize, reward: f32) -> StrategyEvent {
        StrategyEvent::Scored { index, reward }
    }

    fn failed(index: usize, reason: &str) -> StrategyEvent {
        StrategyEvent::ScoreFailed { index, reason: reason.into() }
    }

    #[test]
    fn scores_each_candidate_when_it_ends_and_selects_when_all_are_scored() {
        let mut strategy = BestOfN::new(ledger(2, 1));
        let mut actions = Vec::new();
        strategy.start(&mut actions);
        assert_eq!(actions, [0, 1].map(|index| Action::Run { index, until: usize::MAX }));
        assert_eq!(run(&mut strategy, [finished(1, 3)]), [Action::Score(1)]);
        assert_eq!(run(&mut strategy, [scored(1, -1.0), finished(0, 4)]), [Action::Score(0)]);
        let selected = Action::Select(Outcome { selected: vec![0], scoring: Scoring::Ok });
        assert_eq!(run(&mut strategy, [scored(0, -0.5)]), [selected]);
    }

    #[test]
    fn length_costs() {
        let select = |length_penalty| {
            let mut strategy = BestOfN::new(ledger_with(3, 2, length_penalty));
            let ends = [finished(0, 5), finished(1, 30), finished(2, 6)];
            let scores = [scored(0, 1.0), scored(1, 2.0), scored(2, 1.0)];
            match run(&mut strategy, ends.into_iter().chain(scores)).pop() {
                Some(Action::Select(outcome)) => outcome.selected,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(select(LengthPenalty::Subtract(0.0)), [1, 0]);
        assert_eq!(select(LengthPenalty::Subtract(0.1)), [0, 2]);
        assert_eq!(select(LengthPenalty::Divide), [0, 2]);
    }

    #[test]
    fn degrades_to_partial_and_then_to_the_first_finished() {
        let ends = [finished(0, 9), finished(1, 4), finished(2, 4)];
        let outcome = |scores: [StrategyEvent; 3]| {
            let mut strategy = BestOfN::new(ledger(3, 2));
            match run(&mut strategy, ends.clone().into_iter().chain(scores)).pop() {
                Some(Action::Select(outcome)) => outcome,
                other => panic!("{other:?}"),
            }
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
            n in 1usize..8,
            choices in 1usize..4,
            failing in prop_oneof![2 => Just(0u64), 1 => Just(30), 1 => Just(100)],
            seed: u64,
            order: u64,
        ) {
            let (world, choices) = (World { seed, failing }, choices.min(n));
            let played = play(&world, &mut BestOfN::new(ledger(n, choices)), n, order);
            let all: Vec<usize> = (0..n).collect();
            prop_assert_eq!(&played.outcome.selected, &world.best_of(&all, choices));
            let num_good = all.iter().filter(|&&slot| world.reward(&world.answer(slot)).is_ok()).count();
            prop_assert_eq!(played.outcome.scoring == Scoring::Ok, num_good == n);
            prop_assert_eq!(matches!(played.outcome.scoring, Scoring::Failed(_)), num_good == 0);
        }
    }
}
