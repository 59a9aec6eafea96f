//! What best-of-N spends for a mean reward, and how much less another strategy does, with intervals by bootstrap over
//! prompts. Leaves playing strategies to `replay`.

use rectify_lab::rng::{index, rng_for};
use rectify_lab::stats::Interval;

use super::record::Recording;
use super::replay::Played;

const ROUNDS: usize = 1000;

/// What a strategy spent, one entry for each prompt: means over its plays.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spending {
    pub(super) rewards: Vec<f64>,
    pub(super) tokens: Vec<f64>,
    pub(super) candidates: Vec<f64>,
    /// Share of answers without a fault, and the faults of an answer.
    pub(super) good: Vec<f64>,
    pub(super) faults: Vec<f64>,
}

impl Spending {
    /// Adds a prompt.
    pub(super) fn add(&mut self, plays: &[Played]) {
        let over = |of: fn(&Played) -> f64| mean(&plays.iter().map(of).collect::<Vec<_>>());
        self.rewards.push(over(|play| f64::from(play.reward)));
        self.tokens.push(over(|play| play.num_tokens as f64));
        self.candidates.push(over(|play| play.num_candidates as f64));
        self.good.push(over(|play| f64::from(u8::from(play.num_faults == 0))));
        self.faults.push(over(|play| play.num_faults as f64));
    }
}

/// Best-of-N of recorded candidates: means over all groups of N, for every N up to their number.
pub(crate) struct BestOfN {
    /// By prompt, then by N − 1.
    rewards: Vec<Vec<f64>>,
    pub(super) good: Vec<Vec<f64>>,
    pub(super) faults: Vec<Vec<f64>>,
    /// Mean tokens of a candidate, by prompt.
    lengths: Vec<f64>,
    /// Mean tokens that the reward model reads of a candidate, by prompt.
    pub(super) scored: Vec<f64>,
}

/// What best-of-N needs for a mean reward.
#[derive(Clone, Copy, Debug)]
pub(super) struct Equal {
    /// Candidates: between two whole numbers the mean reward is interpolated.
    pub(super) n: f64,
    /// Its tokens over the strategy's.
    pub(super) tokens_ratio: f64,
    /// Its candidates over the strategy's.
    pub(super) candidates_ratio: f64,
}

/// [`Equal`] with intervals.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saving {
    pub(super) equal_n: f64,
    pub(super) tokens: Interval,
    pub(super) candidates: Interval,
}

impl BestOfN {
    pub(super) fn of(prompts: &[Recording]) -> Self {
        let mut all = Self { rewards: vec![], good: vec![], faults: vec![], lengths: vec![], scored: vec![] };
        for recording in prompts {
            let mut order = recording.from(0);
            // Ties go to the candidate that came first; over all groups, which one that is does not matter.
            order.sort_by(|a, b| a.reward.total_cmp(&b.reward));
            let by_n =
                |of: &dyn Fn(usize) -> f64| expected_best(&(0..order.len()).map(of).collect::<Vec<_>>());
            all.rewards.push(by_n(&|rank| f64::from(order[rank].reward)));
            all.good.push(by_n(&|rank| f64::from(u8::from(order[rank].num_faults == 0))));
            all.faults.push(by_n(&|rank| order[rank].num_faults as f64));
            all.lengths.push(mean(&order.iter().map(|c| c.num_tokens as f64).collect::<Vec<_>>()));
            all.scored.push(recording.scored_tokens as f64 / order.len() as f64);
        }
        all
    }

    /// The most candidates it is known for.
    pub(super) fn most(&self) -> usize {
        self.rewards.iter().map(Vec::len).min().unwrap_or_default()
    }

    /// Over all prompts, for every N: tokens and mean reward.
    pub(super) fn curve(&self) -> Vec<(f64, f64)> {
        let (rewards, length) = self.over(&(0..self.rewards.len()).collect::<Vec<_>>());
        rewards.into_iter().enumerate().map(|(at, reward)| ((at + 1) as f64 * length, reward)).collect()
    }

    /// Mean rewards by N − 1, and the mean length, over some prompts.
    fn over(&self, prompts: &[usize]) -> (Vec<f64>, f64) {
        let mut rewards = vec![0.0; self.most()];
        for &prompt in prompts {
            rewards.iter_mut().zip(&self.rewards[prompt]).for_each(|(sum, reward)| *sum += reward);
        }
        rewards.iter_mut().for_each(|sum| *sum /= prompts.len().max(1) as f64);
        (rewards, mean_of(&self.lengths, prompts))
    }

    /// What it needs for the mean reward of `spent`, over all prompts.
    pub(super) fn equal(&self, spent: &Spending) -> Equal {
        self.equal_over(spent, &(0..self.rewards.len()).collect::<Vec<_>>())
    }

    fn equal_over(&self, spent: &Spending, prompts: &[usize]) -> Equal {
        let (rewards, length) = self.over(prompts);
        let n = candidates_for(&rewards, mean_of(&spent.rewards, prompts));
        Equal {
            n,
            tokens_ratio: n * length / mean_of(&spent.tokens, prompts),
            candidates_ratio: n / mean_of(&spent.candidates, prompts),
        }
    }

    /// [`BestOfN::equal`] with 95 % intervals by bootstrap over prompts. A draw whose reward is above what is known of
    /// best-of-N counts as the most candidates: the interval errs to the lower side.
    pub(super) fn saving(&self, spent: &Spending) -> Saving {
        let mut rng = rng_for(1, "curve");
        let num = self.rewards.len();
        let draws: Vec<Equal> = (0..ROUNDS)
            .map(|_| self.equal_over(spent, &(0..num).map(|_| index(&mut rng, num)).collect::<Vec<_>>()))
            .collect();
        let equal = self.equal(spent);
        let interval = |of: fn(&Equal) -> f64| {
            let mut values: Vec<f64> = draws.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            let at = |share: f64| values[(share * ROUNDS as f64) as usize];
            Interval { value: of(&equal), low: at(0.025), high: at(0.975) }
        };
        Saving {
            equal_n: equal.n,
            tokens: interval(|equal| equal.tokens_ratio),
            candidates: interval(|equal| equal.candidates_ratio),
        }
    }
}

/// Where `rewards`, by N − 1 and rising, reach `reward`; 1 below them and the largest N above.
fn candidates_for(rewards: &[f64], reward: f64) -> f64 {
    let Some(above) = rewards.iter().position(|&known| known >= reward) else { return rewards.len() as f64 };
    match above.checked_sub(1) {
        None => 1.0,
        Some(below) => above as f64 + (reward - rewards[below]) / (rewards[above] - rewards[below]),
    }
}

/// The mean of `values`, in the order of rank from the worst, at the best of N drawn without replacement: for every N. The
/// candidate of rank `i`, counted from 0, is the best of N in `C(i, N − 1)` of the `C(M, N)` groups.
fn expected_best(values: &[f64]) -> Vec<f64> {
    let most = values.len();
    let best_of = |n: usize| {
        // From rank i to i + 1 the number of groups grows by i / (i − N + 1); the last rank has a share of N / M.
        let mut share = n as f64 / most as f64;
        let mut sum = 0.0;
        for (rank, value) in values.iter().enumerate().rev() {
            sum += share * value;
            if rank < n {
                break;
            }
            share *= (rank + 1 - n) as f64 / rank as f64;
        }
        sum
    };
    (1..=most).map(best_of).collect()
}

/// Mean and standard deviation of the rewards of single candidates.
pub(super) fn single_rewards(prompts: &[Recording]) -> (f32, f32) {
    let rewards: Vec<f64> =
        prompts.iter().flat_map(|p| &p.candidates).map(|candidate| f64::from(candidate.reward)).collect();
    let centre = mean(&rewards);
    let variance = mean(&rewards.iter().map(|reward| (reward - centre).powi(2)).collect::<Vec<_>>());
    (centre as f32, variance.sqrt() as f32)
}

/// Spearman's correlation; none if one side does not vary. Ties take their mean rank.
pub(super) fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (ranks(a), ranks(b));
    let (mean_a, mean_b) = (mean(&a), mean(&b));
    let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(&b).map(|(x, y)| of(x - mean_a, y - mean_b)).sum()
    };
    let spread = (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
    (spread > 0.0).then(|| sum(&|x, y| x * y) / spread)
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |value: &f64| {
        let below = values.iter().filter(|other| *other < value).count();
        let equal = values.iter().filter(|other| *other == value).count();
        below as f64 + (equal as f64 - 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn mean_of(values: &[f64], indices: &[usize]) -> f64 {
    indices.iter().map(|&index| values[index]).sum::<f64>() / indices.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_n_is_the_mean_over_all_groups() {
        let values = [-1.0, 0.5, 2.0, 3.5, 7.0];
        let expected = expected_best(&values);
        for n in 1..=values.len() {
            let (mut sum, mut groups) = (0.0, 0.0);
            for group in 0_u32..1 << values.len() {
                if group.count_ones() as usize == n {
                    sum += values[31 - group.leading_zeros() as usize];
                    groups += 1.0;
                }
            }
            assert!((expected[n - 1] - sum / groups).abs() < 1e-12, "{n}");
        }
    }

    #[test]
    fn candidates_for_a_reward_lie_between_whole_numbers() {
        let rewards = [0.0, 1.0, 1.5, 1.75];
        let found = [-1.0, 0.0, 0.5, 1.25, 1.75, 9.0].map(|reward| candidates_for(&rewards, reward));
        assert_eq!(found, [1.0, 1.0, 1.5, 2.5, 4.0, 4.0]);
    }

    #[test]
    fn half_the_tokens_for_the_same_reward_is_twice_as_good() {
        let rewards = vec![vec![0.0, 1.0, 2.0, 3.0]; 6];
        let best_of_n = BestOfN {
            good: rewards.clone(),
            faults: rewards.clone(),
            rewards,
            lengths: vec![10.0; 6],
            scored: vec![1.0; 6],
        };
        let spent = Spending {
            rewards: vec![3.0; 6],
            tokens: vec![20.0; 6],
            candidates: vec![4.0; 6],
            good: vec![0.0; 6],
            faults: vec![0.0; 6],
        };
        let saving = best_of_n.saving(&spent);
        assert_eq!((saving.equal_n, saving.tokens.value, saving.candidates.value), (4.0, 2.0, 1.0));
        assert_eq!((saving.tokens.low, saving.tokens.high), (2.0, 2.0));
    }
}
