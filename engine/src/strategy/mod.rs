//! What to do with the candidates of a request: pure state machines, told what happened, answering what to do. They see
//! neither models nor clocks. Leaves doing it to the engine.

mod best_of_n;

pub use best_of_n::BestOfN;

use crate::request::{Alignment, Scoring, Select};

/// What happened to a candidate.
#[derive(Clone, Debug, PartialEq)]
pub enum StrategyEvent {
    /// It has this many tokens now.
    Tokens {
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
    },
    /// The reward model has read it.
    Scored {
        /// The candidate.
        index: usize,
        /// The raw reward. A NaN or an infinity is a failure of the scorer.
        reward: f32,
    },
    /// The reward model could not read it.
    ScoreFailed {
        /// The candidate.
        index: usize,
        /// A sentence.
        reason: String,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Have a candidate scored.
    Score(usize),
    /// Stop a candidate and give its blocks back.
    Drop(usize),
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

/// A way to use N candidates. Told every event once, in the order in which they happen; what it decides must not depend
/// on that order.
pub trait Strategy: std::fmt::Debug {
    /// Takes an event and adds what is to be done now to `actions`.
    fn on_event(&mut self, event: StrategyEvent, actions: &mut Vec<Action>);
}

/// The strategy of a request that returns `num_choices` candidates.
pub fn strategy(alignment: &Alignment, num_choices: usize) -> Box<dyn Strategy> {
    match alignment.select {
        Select::Argmax => Box::new(BestOfN::new(alignment.n, num_choices, alignment.length_penalty)),
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
