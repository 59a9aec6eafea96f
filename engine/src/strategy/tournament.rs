//! Tournament: let every candidate finish and find the best by comparing two at a time, the winner with the next. Leaves
//! comparing all with all, which makes rewards of comparisons, to `best_of_n`.

use std::collections::HashMap;

use super::ledger::{Ledger, Stage};
use super::{Action, Outcome, Strategy, StrategyEvent};
use crate::request::Scoring;

/// One pass over the candidates in the order of their indices: the first is the champion, and whoever beats the champion
/// takes its place. That is `n − 1` comparisons where best-of-N makes `n (n − 1) / 2`: a single run of bubble sort, as
/// LLM-Blender ranks (Jiang et al. 2023, arXiv:2306.02561 §3.3). Between equals the lower index stays. Where a
/// comparison fails, nothing says which of the two could not be read: a champion that has been compared before stays, one
/// that has not gives way.
///
/// For more choices the winner leaves and the others play again, what has been compared counting as it is, so the first
/// choice does not depend on how many there are.
#[derive(Clone, Debug)]
pub struct Tournament {
    ledger: Ledger,
    /// What is known of pairs, the lower index first: by how much the first is better, unless the comparison failed.
    margins: HashMap<[usize; 2], Option<f64>>,
    /// By index: a comparison with it succeeded.
    is_read: Vec<bool>,
    /// The pair that is being compared.
    open: Option<[usize; 2]>,
    selected: Vec<usize>,
    champion: usize,
    /// Plays the champion next.
    next: usize,
}

impl Tournament {
    pub(super) fn new(ledger: Ledger) -> Self {
        Self {
            margins: HashMap::new(),
            is_read: vec![false; ledger.entries.len()],
            open: None,
            selected: Vec::new(),
            champion: 0,
            next: 1,
            ledger,
        }
    }

    fn has_ended(&self, index: usize) -> bool {
        self.ledger.entries[index].stage == Stage::Ended
    }

    /// The first candidate from `from` on that plays this round.
    fn player(&self, from: usize) -> usize {
        let plays = |index: &usize| !self.selected.contains(index);
        (from..self.ledger.entries.len()).find(plays).unwrap_or(self.ledger.entries.len())
    }

    /// Goes on as far as is known, and says what is to be known next.
    fn go_on(&mut self, actions: &mut Vec<Action>) {
        let n = self.ledger.entries.len();
        while self.open.is_none() && self.has_ended(self.champion) {
            if self.next == n {
                self.selected.push(self.champion);
                if self.selected.len() == self.ledger.num_choices() {
                    let all_end = (0..n).all(|index| self.has_ended(index));
                    debug_assert!(all_end, "everybody played");
                    return actions.push(Action::Select(self.outcome()));
                }
                self.champion = self.player(0);
                self.next = self.player(self.champion + 1);
                continue;
            }
            if !self.has_ended(self.next) {
                return;
            }
            let pair = [self.champion, self.next];
            match self.margins.get(&pair) {
                Some(&margin) => {
                    if margin.map_or(!self.is_read[self.champion], |margin| margin < 0.0) {
                        self.champion = self.next;
                    }
                    self.next = self.player(self.next + 1);
                }
                None => {
                    self.open = Some(pair);
                    actions.push(Action::Compare(pair));
                }
            }
        }
    }

    fn outcome(&self) -> Outcome {
        match self.ledger.scoring() {
            // Nothing is known of anybody.
            Scoring::Failed(_) => self.ledger.outcome(),
            scoring => Outcome { selected: self.selected.clone(), scoring },
        }
    }
}

impl Strategy for Tournament {
    fn start(&mut self, actions: &mut Vec<Action>) {
        actions.extend(self.ledger.at(Stage::Open).map(|index| Action::Run { index, until: usize::MAX }));
    }

    fn on_event(&mut self, event: StrategyEvent, actions: &mut Vec<Action>) {
        if let StrategyEvent::Compared { pair, preference } = event {
            let preference = match preference {
                Ok(preference) if !preference.is_finite() => {
                    Err(format!("the reward model answered {preference} instead of a number"))
                }
                preference => preference,
            };
            self.ledger.count(pair[0], &preference);
            let margin = preference.ok().map(|preference| self.ledger.margin(pair, preference));
            pair.into_iter().for_each(|index| self.is_read[index] |= margin.is_some());
            self.margins.insert(pair, margin);
            self.open = None;
        } else {
            // What ended is compared when its turn has come.
            self.ledger.note(event);
        }
        self.go_on(actions);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::super::LengthPenalty;
    use super::super::simulation::{World, ledger, ledger_with, play};
    use super::*;

    fn finished(index: usize, num_tokens: usize) -> StrategyEvent {
        StrategyEvent::Finished { index, num_tokens, text: String::new() }
    }

    fn compared(pair: [usize; 2], preference: f32) -> StrategyEvent {
        StrategyEvent::Compared { pair, preference: Ok(preference) }
    }

    fn run(strategy: &mut Tournament, events: impl IntoIterator<Item = StrategyEvent>) -> Vec<Action> {
        let mut actions = Vec::new();
        events.into_iter().for_each(|event| strategy.on_event(event, &mut actions));
        actions
    }

    fn selected(selected: &[usize], scoring: Scoring) -> Action {
        Action::Select(Outcome { selected: selected.to_vec(), scoring })
    }

    /// The definition: one fold over those that are left, for each choice.
    fn brute_force(world: &World, n: usize, num_choices: usize) -> Vec<usize> {
        let answers: Vec<Vec<u8>> = (0..n).map(|slot| world.answer(slot)).collect();
        let mut left: Vec<usize> = (0..n).collect();
        let (mut selected, mut is_read) = (Vec::new(), vec![false; n]);
        for _ in 0..num_choices {
            let winner = left.iter().copied().reduce(|champion, next| {
                match world.preference(&answers[champion], &answers[next]) {
                    Ok(preference) => {
                        [champion, next].into_iter().for_each(|index| is_read[index] = true);
                        if preference < 0.0 { next } else { champion }
                    }
                    Err(_) if is_read[champion] => champion,
                    Err(_) => next,
                }
            });
            let winner = winner.unwrap();
            left.retain(|&index| index != winner);
            selected.push(winner);
        }
        selected
    }

    #[test]
    fn the_winner_plays_the_next_as_soon_as_both_have_ended() {
        let mut strategy = Tournament::new(ledger(3, 1));
        assert_eq!(run(&mut strategy, [finished(2, 4), finished(1, 4)]), []);
        assert_eq!(run(&mut strategy, [finished(0, 4)]), [Action::Compare([0, 1])]);
        assert_eq!(run(&mut strategy, [compared([0, 1], -0.5)]), [Action::Compare([1, 2])]);
        // Between equals the lower index stays.
        assert_eq!(run(&mut strategy, [compared([1, 2], 0.0)]), [selected(&[1], Scoring::Ok)]);
    }

    #[test]
    fn the_second_choice_wins_among_the_others() {
        let mut strategy = Tournament::new(ledger(3, 2));
        run(&mut strategy, [finished(0, 1), finished(1, 1), finished(2, 1), compared([0, 1], 1.0)]);
        // 0 and 1 have met.
        assert_eq!(run(&mut strategy, [compared([0, 2], -1.0)]), [selected(&[2, 0], Scoring::Ok)]);
        let mut strategy = Tournament::new(ledger(3, 2));
        let events = [finished(0, 1), finished(1, 1), finished(2, 1), compared([0, 1], 1.0)];
        run(&mut strategy, events);
        assert_eq!(run(&mut strategy, [compared([0, 2], 1.0)]), [Action::Compare([1, 2])]);
        assert_eq!(run(&mut strategy, [compared([1, 2], -2.0)]), [selected(&[0, 2], Scoring::Ok)]);
    }

    #[test]
    fn length_costs() {
        let mut strategy = Tournament::new(ledger_with(2, 1, LengthPenalty::Subtract(0.1)));
        let events = [finished(0, 30), finished(1, 5), compared([0, 1], 2.0)];
        assert_eq!(run(&mut strategy, events).pop(), Some(selected(&[1], Scoring::Ok)));
    }

    #[test]
    fn without_any_comparison_the_first_to_end_comes_back() {
        let mut strategy = Tournament::new(ledger(3, 1));
        run(&mut strategy, [finished(0, 9), finished(1, 4), finished(2, 4)]);
        let failed = |pair, reason: &str| StrategyEvent::Compared { pair, preference: Err(reason.into()) };
        // 0 gives way.
        let nan = StrategyEvent::Compared { pair: [1, 2], preference: Ok(f32::NAN) };
        assert_eq!(
            run(&mut strategy, [failed([0, 1], "a"), nan]).pop(),
            Some(selected(&[1], Scoring::Failed("a".into())))
        );
        let mut alone = Tournament::new(ledger(1, 1));
        assert_eq!(run(&mut alone, [finished(0, 3)]), [selected(&[0], Scoring::Ok)]);
    }

    proptest! {
        #[test]
        fn equals_brute_force_in_every_order_of_events(
            n in 1usize..9,
            choices in 1usize..4,
            failing in prop_oneof![2 => Just(0u64), 1 => Just(30), 1 => Just(100)],
            seed: u64,
            order: u64,
        ) {
            let (world, choices) = (World { seed, failing }, choices.min(n));
            let played = play(&world, &mut Tournament::new(ledger(n, choices)), n, order);
            let most = (1..=choices).map(|choice| n - choice).sum::<usize>();
            prop_assert!(played.num_compared <= most, "{} > {most}", played.num_compared);
            if choices == 1 {
                prop_assert_eq!(played.num_compared, n - 1);
            }
            let has_failed = failing == 100 && n > 1;
            prop_assert_eq!(matches!(played.outcome.scoring, Scoring::Failed(_)) && failing == 0, false);
            prop_assert!(!has_failed || matches!(played.outcome.scoring, Scoring::Failed(_)));
            if !matches!(played.outcome.scoring, Scoring::Failed(_)) {
                prop_assert_eq!(&played.outcome.selected, &brute_force(&world, n, choices));
            }
        }
    }
}
