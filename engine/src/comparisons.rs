//! What a reward model that compares answers is to read of a group, in both orders, and what that comes to. Leaves reading
//! to the scheduler and deciding to `strategy`.

use std::collections::{HashMap, VecDeque};

/// Readings of a group that wait in the scheduler at a time: enough to fill the model's batches, few enough that the texts
/// of a large group are not all tokens at once.
const MAX_OPEN: usize = 64;

/// The comparisons among the candidates of a group by one reward model.
///
/// Of `d(i, j)`, what the model says of candidate `i` read before `j`, the preference for `i` over `j` is
/// `p(i, j) = ½ (d(i, j) − d(j, i))`: whatever the model has for the place of an answer cancels, and `p(j, i) = −p(i, j)`.
/// The reward of a candidate is the mean of its preferences over those it was compared with. Where all were compared, that
/// orders them as PairRM's own aggregation does, the sum of logits over all pairs in both orders (`MaxLogits`, Jiang et al.
/// 2023, arXiv:2306.02561 §3.3), but its size does not depend on how many there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Comparisons {
    /// Ordered pairs to read when there is room.
    waiting: VecDeque<[usize; 2]>,
    num_open: usize,
    /// `d`, by ordered pair.
    read: HashMap<[usize; 2], Result<f32, String>>,
    /// Candidates that are compared with each other.
    group: Vec<usize>,
}

impl Comparisons {
    /// Has a candidate compared with all that joined before.
    pub(crate) fn join(&mut self, index: usize) {
        for other in std::mem::take(&mut self.group) {
            self.compare([index.min(other), index.max(other)]);
            self.group.push(other);
        }
        self.group.push(index);
    }

    /// Has two candidates compared.
    pub(crate) fn compare(&mut self, [first, second]: [usize; 2]) {
        self.waiting.extend([[first, second], [second, first]]);
    }

    /// Candidates that joined.
    pub(crate) fn num_joined(&self) -> usize {
        self.group.len()
    }

    /// The next pair to read, if there is room.
    pub(crate) fn next(&mut self) -> Option<[usize; 2]> {
        let pair = (self.num_open < MAX_OPEN).then(|| self.waiting.pop_front()).flatten()?;
        self.num_open += 1;
        Some(pair)
    }

    /// Takes what the model said of a pair. With the other order known, too: the preference for the lower index.
    pub(crate) fn take(
        &mut self,
        pair: [usize; 2],
        verdict: Result<f32, String>,
    ) -> Option<Result<f32, String>> {
        self.num_open -= 1;
        self.read.insert(pair, verdict);
        self.preference([pair[0].min(pair[1]), pair[0].max(pair[1])])
    }

    /// All that was to be read has been.
    pub(crate) fn is_complete(&self) -> bool {
        self.num_open == 0 && self.waiting.is_empty()
    }

    /// `p(first, second)`, once both orders are read.
    fn preference(&self, [first, second]: [usize; 2]) -> Option<Result<f32, String>> {
        let (forth, back) = (self.read.get(&[first, second])?, self.read.get(&[second, first])?);
        // The same sentence whichever order is asked for.
        let (low, high) = if first < second { (forth, back) } else { (back, forth) };
        Some(match (low, high) {
            (Err(reason), _) | (_, Err(reason)) => Err(reason.clone()),
            (Ok(low), Ok(high)) if first < second => Ok(0.5 * (low - high)),
            (Ok(low), Ok(high)) => Ok(0.5 * (high - low)),
        })
    }

    /// The mean preference for a candidate over those of `n` that it was compared with; where the model failed on some,
    /// over the others.
    ///
    /// # Errors
    /// Why there is none: the first failure, by index.
    pub(crate) fn reward(&self, index: usize, n: usize) -> Result<f32, String> {
        let met: Vec<_> = (0..n).filter_map(|other| self.preference([index, other])).collect();
        let known: Vec<f64> = met.iter().flatten().map(|&preference| f64::from(preference)).collect();
        match met.into_iter().find_map(Result::err) {
            Some(reason) if known.is_empty() => Err(reason),
            None if known.is_empty() => Err("it was compared with no other answer".to_owned()),
            _ => Ok((known.iter().sum::<f64>() / known.len() as f64) as f32),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    /// Reads everything, the newest pair first if `backwards`.
    fn play(
        comparisons: &mut Comparisons,
        backwards: bool,
        model: impl Fn([usize; 2]) -> Result<f32, String>,
    ) {
        let mut open = Vec::new();
        while !comparisons.is_complete() {
            open.extend(std::iter::from_fn(|| comparisons.next()));
            assert!(open.len() <= MAX_OPEN);
            let pair = if backwards { open.pop().unwrap() } else { open.remove(0) };
            comparisons.take(pair, model(pair));
        }
    }

    #[test]
    fn the_reward_is_the_mean_preference_over_the_others() {
        // The model likes whatever comes first: that cancels.
        let worth = [0.5, 2.0, -1.0];
        let model = |[first, second]: [usize; 2]| Ok(10.0 + worth[first] - worth[second]);
        let mut comparisons = Comparisons::default();
        [2, 0, 1].into_iter().for_each(|index| comparisons.join(index));
        play(&mut comparisons, false, model);
        let rewards: Vec<f32> = (0..3).map(|index| comparisons.reward(index, 3).unwrap()).collect();
        assert_eq!(rewards, [0.0, 2.25, -2.25]);
    }

    #[test]
    fn a_failed_comparison_counts_for_neither_and_fails_only_who_has_no_other() {
        let refuses = |[first, second]: [usize; 2]| match first == 1 || second == 1 {
            true => Err(format!("no {first}")),
            false => Ok(first as f32),
        };
        let mut comparisons = Comparisons::default();
        (0..3).for_each(|index| comparisons.join(index));
        play(&mut comparisons, true, refuses);
        let rewards: Vec<_> = (0..3).map(|index| comparisons.reward(index, 3)).collect();
        assert_eq!(rewards, [Ok(-1.0), Err("no 0".into()), Ok(1.0)]);
        assert!(Comparisons::default().reward(0, 1).unwrap_err().contains("no other"));
    }

    proptest! {
        #[test]
        fn every_ordered_pair_is_read_once_and_order_changes_no_bit(n in 2usize..14, backwards: bool) {
            let model = |[first, second]: [usize; 2]| Ok(((first * 31 + second * 17) % 11) as f32 / 7.0);
            let mut forth = Comparisons::default();
            (0..n).for_each(|index| forth.join(index));
            play(&mut forth, backwards, model);
            let mut back = Comparisons::default();
            for index in (0..n).rev() {
                back.join(index);
                play(&mut back, !backwards, model);
            }
            prop_assert_eq!(forth.read.len(), n * (n - 1));
            let mut sum = 0.0;
            for index in 0..n {
                let reward = forth.reward(index, n).unwrap();
                prop_assert_eq!(reward.to_bits(), back.reward(index, n).unwrap().to_bits());
                sum += reward;
            }
            prop_assert!(sum.abs() < 1e-5, "preferences cancel");
        }
    }
}
