//! Blockwise controlled decoding (Mudgal et al. 2023, arXiv:2310.17022): the answer grows by the best of K blocks at a
//! time, by the reward of the text so far. It can be shown as it grows.

use super::ledger::{Ledger, Stage};
use super::{Action, Outcome, Strategy, StrategyEvent};

/// All candidates go on from the same text by `block_tokens` tokens; the one with the highest reward is the answer so far,
/// and the others go on from it. A candidate that ends within a block competes with what it has; if it wins, that is the
/// answer. Candidates without a reward stand behind the others.
#[derive(Clone, Debug)]
pub struct Blockwise {
    ledger: Ledger,
    block_tokens: usize,
    /// Tokens at the end of this block.
    end: usize,
}

impl Blockwise {
    pub(super) fn new(ledger: Ledger, block_tokens: usize) -> Self {
        Self { ledger, block_tokens, end: block_tokens }
    }

    fn run_all(&mut self, actions: &mut Vec<Action>) {
        for (index, entry) in self.ledger.entries.iter_mut().enumerate() {
            (entry.stage, entry.verdict) = (Stage::Open, None);
            actions.push(Action::Run { index, until: self.end });
        }
    }
}

impl Strategy for Blockwise {
    fn start(&mut self, actions: &mut Vec<Action>) {
        self.run_all(actions);
    }

    fn on_event(&mut self, event: StrategyEvent, actions: &mut Vec<Action>) {
        if let Some(index) = self.ledger.note(event) {
            actions.push(Action::Score(index));
        }
        let all = 0..self.ledger.entries.len();
        if !self.ledger.all_judged(all.clone()) {
            return;
        }
        let Some(&best) = self.ledger.rank(all.clone()).first() else { return };
        actions.push(Action::Commit(best));
        if self.ledger.entries[best].stage == Stage::Ended {
            let scoring = self.ledger.scoring();
            actions.push(Action::Select(Outcome { selected: vec![best], scoring }));
            return;
        }
        actions.extend(all.filter(|&index| index != best).map(|index| Action::Fork { from: best, index }));
        self.end += self.block_tokens;
        self.run_all(actions);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, prop_assert_eq, prop_oneof, proptest};

    use super::super::simulation::{World, ledger, play};
    use super::*;

    /// The answer, its candidate and the tokens drawn, by the definition.
    fn by_hand(world: &World, n: usize, block_tokens: usize) -> (Vec<u8>, usize, usize) {
        let (mut text, mut num_tokens) = (Vec::new(), 0);
        loop {
            let end = text.len() + block_tokens;
            let blocks: Vec<(Vec<u8>, bool)> = (0..n).map(|slot| world.go_on(slot, &text, end)).collect();
            num_tokens += blocks.iter().map(|(block, _)| block.len() - text.len()).sum::<usize>();
            let key = |i: usize| match world.reward(&blocks[i].0) {
                Ok(reward) => (0, -reward as i64, 0, i),
                Err(_) => (1, 0, blocks[i].0.len(), i),
            };
            let best = (0..n).min_by_key(|&i| key(i)).unwrap();
            text.clone_from(&blocks[best].0);
            if blocks[best].1 {
                return (text, best, num_tokens);
            }
        }
    }

    proptest! {
        #[test]
        fn equals_brute_force_in_every_order_of_events(
            n in 1usize..6,
            block_tokens in 1usize..6,
            failing in prop_oneof![2 => Just(0u64), 1 => Just(30), 1 => Just(100)],
            seed: u64,
            order: u64,
        ) {
            let world = World { seed, failing };
            let mut strategy = Blockwise::new(ledger(n, 1), block_tokens);
            let played = play(&world, &mut strategy, n, order);
            let (text, best, num_tokens) = by_hand(&world, n, block_tokens);
            prop_assert_eq!(&played.outcome.selected, &[best]);
            prop_assert_eq!(&played.texts[best], &text);
            prop_assert_eq!(played.num_tokens, num_tokens);
            // What was committed is the answer, block by block.
            prop_assert_eq!(played.committed.last(), Some(&text));
            for pair in played.committed.windows(2) {
                prop_assert_eq!(&pair[1][..pair[0].len()], &pair[0][..]);
            }
        }
    }
}
