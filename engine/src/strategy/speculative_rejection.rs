//! Speculative rejection (Sun et al. 2024, arXiv:2410.20290): begin with many candidates, score what they have on the way,
//! and stop the ones that promise least. Leaves the choice among the survivors to the ledger's rules.

use super::ledger::{Ledger, Stage};
use super::{Action, Strategy, StrategyEvent};

/// Drops a share `alpha` of the running candidates at each check.
///
/// The paper checks when memory is full. Here memory is counted in tokens: the first check comes at `first_check` tokens,
/// and each later one when the survivors hold as many as all did at the first, at `first_check / (1 − alpha)^k`. So a pool
/// of N candidates needs the KV memory of `N · first_check` tokens, whatever their final length, and where the checks are
/// does not depend on what else the machine does. Candidates wait for each other at a check, for a decision may not depend
/// on who came first; those that have ended stay in the race for the final choice and take no part in the check.
///
/// A candidate that could not be scored counts as the worst; if none could be, nobody is dropped.
#[derive(Clone, Debug)]
pub struct SpeculativeRejection {
    ledger: Ledger,
    keep: f64,
    first_check: usize,
    max_checks: usize,
    num_checks: usize,
    /// Tokens at the next check.
    check: usize,
}

impl SpeculativeRejection {
    pub(super) fn new(ledger: Ledger, alpha: f32, first_check: usize, max_checks: usize) -> Self {
        Self {
            ledger,
            keep: 1.0 - f64::from(alpha),
            first_check,
            max_checks,
            num_checks: 0,
            check: first_check,
        }
    }

    /// All that run have come to the check, and their scores are known.
    fn check(&mut self, actions: &mut Vec<Action>) {
        let mut ranked = self.ledger.rank(self.ledger.at(Stage::Held));
        let needed = self.ledger.num_choices().saturating_sub(self.ledger.at(Stage::Ended).count());
        let is_blind = ranked.iter().all(|&index| self.ledger.value(index).is_none());
        let keep = (ranked.len() as f64 * self.keep).ceil() as usize;
        let keep = if is_blind { ranked.len() } else { keep.max(needed).min(ranked.len()) };
        for index in ranked.split_off(keep) {
            self.ledger.entries[index].stage = Stage::Dropped;
            actions.push(Action::Drop(index));
        }
        self.num_checks += 1;
        let grown = (self.first_check as f64 / self.keep.powf(self.num_checks as f64)).ceil();
        self.check = (grown as usize).max(self.check.saturating_add(1));
        // A last one has nobody to compete with.
        let is_last = ranked.len() == 1 || self.num_checks == self.max_checks;
        let until = if is_last { usize::MAX } else { self.check };
        ranked.sort_unstable();
        for index in ranked {
            let entry = &mut self.ledger.entries[index];
            (entry.stage, entry.verdict) = (Stage::Open, None);
            actions.push(Action::Run { index, until });
        }
    }
}

impl Strategy for SpeculativeRejection {
    fn start(&mut self, actions: &mut Vec<Action>) {
        let is_checked = self.ledger.entries.len() > 1 && self.max_checks > 0;
        let until = if is_checked { self.first_check } else { usize::MAX };
        actions.extend(self.ledger.at(Stage::Open).map(|index| Action::Run { index, until }));
    }

    fn on_event(&mut self, event: StrategyEvent, actions: &mut Vec<Action>) {
        if let Some(index) = self.ledger.note(event) {
            actions.push(Action::Score(index));
        }
        if self.ledger.at(Stage::Open).next().is_some()
            || !self.ledger.all_judged(self.ledger.at(Stage::Held))
        {
            return;
        }
        if self.ledger.at(Stage::Held).next().is_some() {
            self.check(actions);
        } else if self.ledger.all_judged(self.ledger.at(Stage::Ended)) {
            actions.push(Action::Select(self.ledger.outcome()));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::super::simulation::{World, ledger, play};
    use super::*;
    use crate::request::Scoring;

    /// Who is left, and what that costs, by the definition.
    fn by_hand(
        world: &World,
        n: usize,
        choices: usize,
        (alpha, first_check, max_checks): (f32, usize, usize),
    ) -> (Vec<usize>, usize) {
        let whole: Vec<Vec<u8>> = (0..n).map(|slot| world.answer(slot)).collect();
        let keep = 1.0 - f64::from(alpha);
        let mut running: Vec<usize> = (0..n).collect();
        let mut ended: Vec<usize> = Vec::new();
        let (mut num_tokens, mut done, mut checks, mut at) = (0, 0, 0, first_check);
        while !running.is_empty() {
            let until = if running.len() > 1 && checks < max_checks { at } else { usize::MAX };
            num_tokens += running.iter().map(|&i| whole[i].len().min(until) - done).sum::<usize>();
            ended.extend(running.iter().filter(|&&i| world.ends_within(i, until)));
            running.retain(|&i| !world.ends_within(i, until));
            done = until;
            let part = |i: usize| world.reward(&whole[i][..until]).ok();
            running.sort_by(|&a, &b| match (part(a), part(b)) {
                (Some(x), Some(y)) => y.total_cmp(&x).then(a.cmp(&b)),
                (x, y) => y.is_some().cmp(&x.is_some()).then(a.cmp(&b)),
            });
            if running.iter().any(|&i| part(i).is_some()) {
                let survivors = (running.len() as f64 * keep).ceil() as usize;
                running.truncate(survivors.max(choices.saturating_sub(ended.len())));
            }
            checks += 1;
            at = ((first_check as f64 / keep.powf(checks as f64)).ceil() as usize).max(at + 1);
        }
        ended.sort_unstable();
        (ended, num_tokens)
    }

    proptest! {
        #[test]
        fn equals_brute_force_in_every_order_of_events(
            n in 1usize..12,
            choices in 1usize..3,
            alpha in prop_oneof![Just(0.5f32), Just(0.25), Just(0.8)],
            first_check in 1usize..6,
            max_checks in prop_oneof![Just(usize::MAX), 0usize..4],
            failing in prop_oneof![2 => Just(0u64), 1 => Just(30), 1 => Just(100)],
            seed: u64,
            order: u64,
        ) {
            let (world, choices) = (World { seed, failing }, choices.min(n));
            let mut strategy = SpeculativeRejection::new(ledger(n, choices), alpha, first_check, max_checks);
            let played = play(&world, &mut strategy, n, order);
            let checks = (alpha, first_check, max_checks);
            let (ended, num_tokens) = by_hand(&world, n, choices, checks);
            prop_assert_eq!(played.num_tokens, num_tokens);
            prop_assert_eq!(&played.ended, &ended);
            prop_assert_eq!(played.outcome.selected, world.best_of(&ended, choices));
            let is_fine = matches!(played.outcome.scoring, Scoring::Ok);
            prop_assert!(failing > 0 || is_fine);
        }
    }

    #[test]
    fn survivors_of_a_check_hold_what_all_held_at_the_first() {
        let mut strategy = SpeculativeRejection::new(ledger(16, 1), 0.5, 10, usize::MAX);
        let mut actions = Vec::new();
        strategy.start(&mut actions);
        let (mut running, mut at) = (16, 10);
        while running > 1 {
            assert_eq!(running * at, 160);
            let held: Vec<usize> = actions
                .drain(..)
                .filter_map(|action| match action {
                    Action::Run { index, until } => Some((index, until)),
                    _ => None,
                })
                .map(|(index, until)| {
                    assert_eq!(until, at);
                    index
                })
                .collect();
            for &index in &held {
                strategy.on_event(StrategyEvent::Held { index, num_tokens: at }, &mut actions);
            }
            for &index in &held {
                strategy.on_event(StrategyEvent::Scored { index, reward: index as f32 }, &mut actions);
            }
            (running, at) = (running / 2, at * 2);
        }
        assert_eq!(actions.last(), Some(&Action::Run { index: 15, until: usize::MAX }));
    }
}
