//! What to do with the candidates of a request: pure state machines, told what happened, answering what to do. They see
//! neither models nor clocks. Leaves doing it to the engine.

mod adaptive;
mod best_of_n;
mod blockwise;
mod ledger;
mod reward;
mod select;
#[cfg(test)]
mod simulation;
mod speculative_rejection;
mod tournament;

pub use adaptive::{Adaptive, AdaptiveSettings};
pub use best_of_n::BestOfN;
pub use blockwise::Blockwise;
pub use reward::{Combine, LengthPenalty};
pub use select::{Ended, Extractor, Pattern, Select};
pub use speculative_rejection::SpeculativeRejection;
pub use tournament::Tournament;

use crate::alignment::{Alignment, Method};
use crate::request::Scoring;
use ledger::{Ledger, Rules};

/// What happened to a candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum StrategyEvent {
    /// It has as many tokens as [`Action::Run`] let it have, and waits.
    Held {
        /// The candidate.
        index: usize,
        /// Its tokens.
        num_tokens: usize,
    },
    /// It ended.
    Finished {
        /// The candidate.
        index: usize,
        /// Its tokens.
        num_tokens: usize,
        /// Its text.
        text: String,
    },
    /// The reward models have read what it has.
    Scored {
        /// The candidate.
        index: usize,
        /// Their rewards, combined. A NaN or an infinity is a failure of the scorer.
        reward: f32,
    },
    /// The reward models could not read it.
    ScoreFailed {
        /// The candidate.
        index: usize,
        /// A sentence.
        reason: String,
    },
    /// The reward model has compared two.
    Compared {
        /// The candidates, the lower index first.
        pair: [usize; 2],
        /// How much better the first is, in units of the reward: above 0 it is better. Or why that is not known.
        preference: Result<f32, String>,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Let a candidate that has not begun, or that is held, run until it has `until` tokens; it may end before.
    Run {
        /// The candidate.
        index: usize,
        /// Tokens of its answer, counted from its beginning.
        until: usize,
    },
    /// Have a candidate that is held or has ended scored.
    Score(usize),
    /// Have two candidates that have ended compared, the lower index first.
    Compare([usize; 2]),
    /// Stop a candidate and give its blocks back.
    Drop(usize),
    /// A candidate gives up what it has for a copy of what `from`, which is held, has; it is then held too.
    Fork {
        /// What is copied.
        from: usize,
        /// The candidate.
        index: usize,
    },
    /// What this candidate has so far is the answer's beginning, whatever comes.
    Commit(usize),
    /// All is decided; nothing follows.
    Select(Outcome),
}

/// A decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Chosen candidates, best first.
    pub selected: Vec<usize>,
    /// How scoring went.
    pub scoring: Scoring,
}

/// A way to spend N candidates. Told every event once, in the order in which they happen; what it decides must not depend
/// on that order.
pub trait Strategy: std::fmt::Debug {
    /// Adds what is to be done at the beginning: which candidates run, and how far.
    fn start(&mut self, actions: &mut Vec<Action>);

    /// Takes an event and adds what is to be done now to `actions`.
    fn on_event(&mut self, event: StrategyEvent, actions: &mut Vec<Action>);
}

/// The strategy of a request that returns `num_choices` candidates drawn from `seed`. `compares` says whether its reward
/// model compares candidates: who wins a tournament of rewards is the one with the highest.
pub fn strategy(alignment: &Alignment, num_choices: usize, seed: u64, compares: bool) -> Box<dyn Strategy> {
    let Alignment { n, select, length_penalty, .. } = alignment;
    let rules = Rules { select: select.clone(), length_penalty: *length_penalty, num_choices, seed };
    let ledger = Ledger::new(*n, rules);
    match alignment.method {
        Method::Tournament if compares => Box::new(Tournament::new(ledger)),
        Method::BestOfN | Method::Tournament => Box::new(BestOfN::new(ledger)),
        Method::SpeculativeRejection { alpha, first_check, max_checks } => {
            Box::new(SpeculativeRejection::new(ledger, alpha, first_check, max_checks))
        }
        Method::Adaptive(settings) => Box::new(Adaptive::new(ledger, settings)),
        Method::Blockwise { block_tokens } => Box::new(Blockwise::new(ledger, block_tokens)),
    }
}

/// Tokens that candidate `index` of `n` may generate when all together may generate `max_total_tokens`: an equal share,
/// the first candidates taking what does not divide. A share that depended on the others' lengths would make a text
/// depend on the order in which candidates ran.
pub fn token_share(index: usize, n: usize, max_total_tokens: usize) -> usize {
    max_total_tokens / n + usize::from(index < max_total_tokens % n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_budget() {
        for (n, budget) in [(1, 7), (3, 7), (16, 8192), (7, 7)] {
            assert_eq!((0..n).map(|index| token_share(index, n, budget)).sum::<usize>(), budget);
        }
        assert_eq!((token_share(0, 3, 7), token_share(1, 3, 7)), (3, 2));
    }
}
