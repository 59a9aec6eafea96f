//! A made-up policy and reward model that play a strategy's game in any order, and check that it keeps to the rules. For
//! the strategies' tests alone.

use super::ledger::{Ledger, Rules};
use super::{Action, LengthPenalty, Outcome, Select, Strategy, StrategyEvent};

/// Longest answer.
const MAX_TOKENS: usize = 24;

/// Next tokens and rewards that are functions of what was said.
#[derive(Clone, Copy, Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    /// In how many of a hundred cases the reward model fails.
    pub(super) failing: u64,
}

/// What became of a game.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) outcome: Outcome,
    pub(super) texts: Vec<Vec<u8>>,
    /// Candidates that ended.
    pub(super) ended: Vec<usize>,
    pub(super) num_tokens: usize,
    /// Pairs that were compared.
    pub(super) num_compared: usize,
    /// What was committed, each time as a whole.
    pub(super) committed: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Running { until: usize },
    Held,
    Ended,
    Dropped,
}

/// A ledger without special rules.
pub(super) fn ledger(n: usize, num_choices: usize) -> Ledger {
    ledger_with(n, num_choices, LengthPenalty::Subtract(0.0))
}

pub(super) fn ledger_with(n: usize, num_choices: usize, length_penalty: LengthPenalty) -> Ledger {
    Ledger::new(n, Rules { select: Select::Argmax, length_penalty, num_choices, seed: 0 })
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl World {
    fn hash(&self, salt: u64, text: &[u8]) -> u64 {
        text.iter()
            .fold(mix(self.seed ^ mix(salt)), |hash, &token| mix(hash ^ u64::from(token)).wrapping_add(1))
    }

    /// The next token of a candidate, and whether it ends with it.
    fn next(&self, slot: usize, text: &[u8]) -> (u8, bool) {
        let hash = self.hash(slot as u64 + 1, text);
        (b'a' + (hash % 5) as u8, (hash >> 32).is_multiple_of(9) || text.len() + 1 == MAX_TOKENS)
    }

    /// A candidate's text from `text` on, until `until` tokens, and whether it ended.
    pub(super) fn go_on(&self, slot: usize, text: &[u8], until: usize) -> (Vec<u8>, bool) {
        let (mut text, mut has_ended) = (text.to_vec(), false);
        while text.len() < until && !has_ended {
            let (token, is_last) = self.next(slot, &text);
            text.push(token);
            has_ended = is_last;
        }
        (text, has_ended)
    }

    /// A candidate's whole answer.
    pub(super) fn answer(&self, slot: usize) -> Vec<u8> {
        self.go_on(slot, &[], usize::MAX).0
    }

    /// Whether the answer is no longer than `until` tokens.
    pub(super) fn ends_within(&self, slot: usize, until: usize) -> bool {
        self.answer(slot).len() <= until
    }

    /// The reward of a text: few values, so that there are ties.
    pub(super) fn reward(&self, text: &[u8]) -> Result<f32, String> {
        let hash = self.hash(0, text);
        if hash % 100 < self.failing {
            Err(format!("no {hash}"))
        } else {
            Ok(((hash >> 32) % 7) as f32 - 3.0)
        }
    }

    /// How much better `first` is than `second`: any number, and not what rewards would say.
    pub(super) fn preference(&self, first: &[u8], second: &[u8]) -> Result<f32, String> {
        let [first, second] = [first, second].map(|text| self.hash(7, text));
        let (low, high) = (first.min(second), first.max(second));
        let hash = mix(low ^ mix(high));
        if hash % 100 < self.failing {
            return Err(format!("no {hash}"));
        }
        let preference = ((hash >> 32) % 5) as f32 - 2.0;
        Ok(if first < second { preference } else { -preference })
    }

    /// The best of whole answers, by the definition.
    pub(super) fn best_of(&self, slots: &[usize], num_choices: usize) -> Vec<usize> {
        let mut order = slots.to_vec();
        order.sort_by_key(|&slot| {
            let answer = self.answer(slot);
            match self.reward(&answer) {
                Ok(reward) => (0, -reward as i64, 0, slot),
                Err(_) => (1, 0, answer.len(), slot),
            }
        });
        order.truncate(num_choices);
        order
    }
}

/// Plays until the strategy selects; which candidate gets on next, and when scores arrive, is drawn from `order`.
pub(super) fn play(world: &World, strategy: &mut dyn Strategy, n: usize, order: u64) -> Played {
    let mut states = vec![State::Idle; n];
    let mut texts: Vec<Vec<u8>> = vec![Vec::new(); n];
    let mut scores: Vec<usize> = Vec::new();
    let mut pairs: Vec<[usize; 2]> = Vec::new();
    let (mut committed, mut num_tokens, mut num_compared, mut random) = (Vec::new(), 0, 0, order);
    let mut actions = Vec::new();
    strategy.start(&mut actions);
    loop {
        for action in actions.drain(..) {
            match action {
                Action::Run { index, until } => {
                    assert!(
                        matches!(states[index], State::Idle | State::Held),
                        "{index} is {:?}",
                        states[index]
                    );
                    assert!(until > texts[index].len() && !scores.contains(&index));
                    states[index] = State::Running { until };
                }
                Action::Score(index) => {
                    assert!(matches!(states[index], State::Held | State::Ended) && !scores.contains(&index));
                    scores.push(index);
                }
                Action::Compare(pair) => {
                    assert!(pair[0] < pair[1] && pair.iter().all(|&index| states[index] == State::Ended));
                    pairs.push(pair);
                    num_compared += 1;
                }
                Action::Drop(index) => {
                    assert_eq!(states[index], State::Held);
                    states[index] = State::Dropped;
                }
                Action::Fork { from, index } => {
                    assert!(states[from] == State::Held && from != index && !scores.contains(&index));
                    assert!(matches!(states[index], State::Held | State::Ended));
                    texts[index] = texts[from].clone();
                    states[index] = State::Held;
                }
                Action::Commit(index) => committed.push(texts[index].clone()),
                Action::Select(outcome) => {
                    assert!(
                        outcome.selected.iter().all(|&index| states[index] == State::Ended),
                        "{outcome:?}"
                    );
                    let ended = (0..n).filter(|&index| states[index] == State::Ended).collect();
                    return Played { outcome, texts, ended, num_tokens, num_compared, committed };
                }
            }
        }
        let running = (0..n).filter(|&index| matches!(states[index], State::Running { .. }));
        let running: Vec<usize> = running.collect();
        let total = running.len() + scores.len() + pairs.len();
        assert!(total > 0, "nothing runs, but nothing is decided: {states:?}");
        random = mix(random.wrapping_add(0x9e37_79b9_7f4a_7c15));
        let choice = (random % total as u64) as usize;
        let event = match running.get(choice) {
            Some(&index) => {
                let State::Running { until } = states[index] else { continue };
                let (token, is_last) = world.next(index, &texts[index]);
                texts[index].push(token);
                num_tokens += 1;
                let length = texts[index].len();
                if is_last {
                    states[index] = State::Ended;
                    let text = String::from_utf8(texts[index].clone()).unwrap();
                    StrategyEvent::Finished { index, num_tokens: length, text }
                } else if length == until {
                    states[index] = State::Held;
                    StrategyEvent::Held { index, num_tokens: length }
                } else {
                    continue;
                }
            }
            None if choice >= running.len() + scores.len() => {
                let pair = pairs.swap_remove(choice - running.len() - scores.len());
                let [first, second] = pair.map(|index| &texts[index]);
                StrategyEvent::Compared { pair, preference: world.preference(first, second) }
            }
            None => {
                let index = scores.swap_remove(choice - running.len());
                match world.reward(&texts[index]) {
                    Ok(reward) => StrategyEvent::Scored { index, reward },
                    Err(reason) => StrategyEvent::ScoreFailed { index, reason },
                }
            }
        };
        strategy.on_event(event, &mut actions);
    }
}
