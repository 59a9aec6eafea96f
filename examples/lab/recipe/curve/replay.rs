//! The engine's strategies played on recorded candidates: the same state machines, told what the engine would tell them.
//! What they decide does not depend on the order of events, and a candidate's tokens depend on its seed and index alone, so
//! the outcome is the engine's. Leaves out strategies that draw anew on the way.

use std::collections::VecDeque;

use anyhow::{Context as _, bail};
use rectify_engine::alignment::Alignment;
use rectify_engine::strategy::{Action, StrategyEvent, strategy};

use super::record::Recorded;

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Played {
    /// Of the winner.
    pub(super) reward: f32,
    /// What the oracle has against the winner.
    pub(super) num_faults: usize,
    /// Tokens that were generated.
    pub(super) num_tokens: usize,
    /// Candidates that were begun.
    pub(super) num_candidates: usize,
}

/// Plays one request on the first of `candidates`.
///
/// # Errors
/// A check where the recording has no reward, or a strategy that draws anew.
pub(super) fn play(candidates: &[&Recorded], alignment: &Alignment, seed: u64) -> anyhow::Result<Played> {
    let mut strategy = strategy(alignment, 1, seed, false);
    let mut actions = Vec::new();
    strategy.start(&mut actions);
    let mut queue = VecDeque::from(actions);
    let mut num_tokens = vec![0; alignment.n];
    while let Some(action) = queue.pop_front() {
        let event = match action {
            Action::Run { index, until } => {
                let candidate = candidates.get(index).context("there are too few recorded candidates")?;
                num_tokens[index] = candidate.num_tokens.min(until);
                let num_tokens = num_tokens[index];
                if num_tokens == candidate.num_tokens {
                    StrategyEvent::Finished { index, num_tokens, text: candidate.text.clone() }
                } else {
                    StrategyEvent::Held { index, num_tokens }
                }
            }
            Action::Score(index) => {
                let (candidate, at) = (candidates[index], num_tokens[index]);
                let part = || candidate.parts.get(&at).copied();
                let reward = if at == candidate.num_tokens { Some(candidate.reward) } else { part() };
                let reward = reward.with_context(|| format!("no reward is recorded at {at} tokens"))?;
                StrategyEvent::Scored { index, reward }
            }
            Action::Drop(_) => continue,
            Action::Select(outcome) => {
                let winner = outcome.selected.first().and_then(|&index| candidates.get(index));
                let winner = winner.context("nothing was selected")?;
                return Ok(Played {
                    reward: winner.reward,
                    num_faults: winner.num_faults,
                    num_tokens: num_tokens.iter().sum(),
                    num_candidates: num_tokens.iter().filter(|&&tokens| tokens > 0).count(),
                });
            }
            Action::Compare(_) | Action::Fork { .. } | Action::Commit(_) => {
                bail!("{} draws or compares on the way and cannot be replayed", alignment.name())
            }
        };
        let mut next = Vec::new();
        strategy.on_event(event, &mut next);
        queue.extend(next);
    }
    bail!("{} decided nothing", alignment.name())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rectify_engine::alignment::Method;

    use super::*;

    fn recorded(num_tokens: usize, reward: f32, parts: &[(usize, f32)]) -> Recorded {
        let parts: BTreeMap<usize, f32> = parts.iter().copied().collect();
        Recorded { text: String::new(), num_tokens, reward, num_faults: 0, parts }
    }

    #[test]
    fn what_is_dropped_at_a_check_costs_its_tokens_until_then() {
        let candidates = [
            recorded(20, 1.0, &[(4, 0.0), (8, 1.0)]),
            recorded(20, 9.0, &[(4, -1.0)]),
            recorded(3, -2.0, &[]),
            recorded(30, 0.0, &[(4, 0.5), (8, 0.0)]),
        ];
        let candidates: Vec<&Recorded> = candidates.iter().collect();
        let method = Method::SpeculativeRejection { alpha: 0.5, first_check: 4, max_checks: usize::MAX };
        let played = play(&candidates, &Alignment { method, ..Alignment::best_of(4) }, 0).unwrap();
        // Of three at the first check two go on, of which one is left at the second.
        assert_eq!(played.num_tokens, 3 + 4 + 20 + 8);
        assert_eq!((played.reward, played.num_candidates), (1.0, 4));
        let played = play(&candidates, &Alignment::best_of(4), 0).unwrap();
        assert_eq!((played.reward, played.num_tokens), (9.0, 73));
        assert!(
            play(
                &candidates,
                &Alignment { method: Method::Blockwise { block_tokens: 2 }, ..Alignment::best_of(4) },
                0
            )
            .is_err()
        );
    }
}
