//! Which examples are seen when: the hold-out, a seeded order per epoch, batches under a count or a budget of tokens.
//! Everything follows from the seed and the step, so a resumed run needs no more than the step.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::config::TrainConfig;

/// Streams of the run's seed.
const HOLD_OUT: u64 = 1;
const EPOCHS: u64 = 1000;
/// Batches of a stretch that is sorted by length.
const STRETCH: usize = 50;

/// `0..count` in the order of a stream of the run's seed.
pub(crate) fn shuffled(count: usize, seed: u64, stream: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut rng);
    order
}

/// Splits `0..count` into what is trained on and a hold-out of about `share`, at least one of each if there are two.
pub fn split(count: usize, share: f64, seed: u64) -> (Vec<usize>, Vec<usize>) {
    if share <= 0.0 || count < 2 {
        return ((0..count).collect(), Vec::new());
    }
    let held = ((count as f64 * share).round() as usize).clamp(1, count - 1);
    let mut order = shuffled(count, seed, HOLD_OUT);
    let (mut held_out, mut kept) = (order.drain(..held).collect::<Vec<_>>(), order);
    held_out.sort_unstable();
    kept.sort_unstable();
    (kept, held_out)
}

/// How examples form batches, and batches steps.
#[derive(Clone, Debug)]
pub struct Batches {
    lengths: Vec<usize>,
    batch_size: usize,
    max_tokens: usize,
    accumulation: usize,
    group_by_length: bool,
    seed: u64,
}

impl Batches {
    /// Batches of examples of these lengths, in tokens.
    pub fn new(config: &TrainConfig, lengths: Vec<usize>) -> Self {
        Self {
            lengths,
            batch_size: config.per_device_train_batch_size.max(1),
            max_tokens: config.max_tokens_per_batch,
            accumulation: config.gradient_accumulation_steps,
            group_by_length: config.group_by_length,
            seed: config.seed,
        }
    }

    /// Examples.
    pub fn num_examples(&self) -> usize {
        self.lengths.len()
    }

    /// Steps of an epoch, each a list of batches, each a list of examples.
    pub fn epoch(&self, epoch: usize) -> Vec<Vec<Vec<usize>>> {
        let mut order = shuffled(self.lengths.len(), self.seed, EPOCHS + epoch as u64);
        if self.group_by_length {
            self.group(&mut order);
        }
        self.pack(&order).chunks(self.accumulation).map(<[_]>::to_vec).collect()
    }

    /// All examples in their own order, for evaluation.
    pub fn in_order(&self) -> Vec<Vec<usize>> {
        self.pack(&(0..self.lengths.len()).collect::<Vec<_>>())
    }

    /// Sorts stretches of a random order by length, longest first, and puts the longest example of all first, so that
    /// a run that is too large for memory says so at once: as Transformers' `group_by_length`.
    fn group(&self, order: &mut [usize]) {
        let batch = match self.max_tokens {
            0 => self.batch_size * self.accumulation,
            tokens => (tokens * order.len() / self.lengths.iter().sum::<usize>().max(1)).max(1),
        };
        let num_batches = (order.len() / (4 * batch)).clamp(1, STRETCH);
        for stretch in order.chunks_mut(batch * num_batches) {
            stretch.sort_by_key(|&example| std::cmp::Reverse(self.lengths[example]));
        }
        // Each stretch begins with its longest example.
        let starts = (0..order.len()).step_by(batch * num_batches);
        if let Some(longest) = starts.rev().max_by_key(|&start| self.lengths[order[start]]) {
            order.swap(0, longest);
        }
    }

    fn pack(&self, order: &[usize]) -> Vec<Vec<usize>> {
        if self.max_tokens == 0 {
            return order.chunks(self.batch_size).map(<[_]>::to_vec).collect();
        }
        let (mut batches, mut batch, mut tokens) = (Vec::new(), Vec::new(), 0);
        for &example in order {
            let length = self.lengths[example];
            if !batch.is_empty() && tokens + length > self.max_tokens {
                batches.push(std::mem::take(&mut batch));
                tokens = 0;
            }
            batch.push(example);
            tokens += length;
        }
        if !batch.is_empty() {
            batches.push(batch);
        }
        batches
    }

    /// Steps of `epochs` passes; a last, partial one counts its share, rounded up.
    pub fn num_steps(&self, epochs: f64) -> usize {
        let whole: usize = (0..epochs as usize).map(|epoch| self.epoch(epoch).len()).sum();
        let rest = epochs.fract();
        if rest > 0.0 {
            whole + (self.epoch(epochs as usize).len() as f64 * rest).ceil() as usize
        } else {
            whole
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(batch_size: usize, max_tokens: usize, accumulation: usize) -> Batches {
        Batches {
            lengths: vec![3, 5, 2, 9, 4, 1, 1],
            batch_size,
            max_tokens,
            accumulation,
            group_by_length: false,
            seed: 1,
        }
    }

    #[test]
    fn an_epoch_sees_every_example_once_in_a_new_order() {
        let batches = batches(2, 0, 1);
        let flat = |epoch| batches.epoch(epoch).concat().concat();
        let mut sorted = flat(0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        assert_ne!(flat(0), flat(1));
        assert_eq!(flat(1), flat(1));
    }

    #[test]
    fn a_token_budget_is_kept_unless_one_example_breaks_it() {
        let batches = batches(2, 8, 1);
        for batch in batches.epoch(3).concat() {
            let tokens: usize = batch.iter().map(|example| batches.lengths[*example]).sum();
            assert!(tokens <= 8 || batch.len() == 1);
        }
    }

    #[test]
    fn accumulation_groups_the_same_batches() {
        assert_eq!(batches(1, 0, 4).epoch(0).concat().concat(), batches(4, 0, 1).epoch(0).concat().concat());
        assert_eq!(batches(1, 0, 4).epoch(0).len(), 2);
        assert_eq!(batches(1, 0, 4).num_steps(2.5), 5);
    }

    #[test]
    fn lengths_are_grouped_and_the_longest_comes_first() {
        let lengths: Vec<usize> = (0..400).map(|index| 1 + (index * 7919) % 97).collect();
        let plain = Batches {
            lengths,
            batch_size: 4,
            max_tokens: 0,
            accumulation: 1,
            group_by_length: false,
            seed: 1,
        };
        let grouped = Batches { group_by_length: true, ..plain.clone() };
        let spread = |batches: &Batches| {
            let range = |batch: &Vec<usize>| {
                let lengths = batch.iter().map(|example| batches.lengths[*example]);
                lengths.clone().max().unwrap() - lengths.min().unwrap()
            };
            batches.epoch(2).concat().iter().map(range).sum::<usize>()
        };
        assert!(4 * spread(&grouped) < spread(&plain), "{} and {}", spread(&grouped), spread(&plain));
        assert_eq!(grouped.lengths[grouped.epoch(2)[0][0][0]], 97);
        let mut sorted = grouped.epoch(2).concat().concat();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..400).collect::<Vec<_>>());
    }

    #[test]
    fn the_hold_out_is_a_part() {
        let (kept, held) = split(10, 0.25, 3);
        assert_eq!((kept.len(), held.len()), (7, 3));
        assert!(held.iter().all(|example| !kept.contains(example)));
        assert!(split(10, 0.0, 3).1.is_empty());
        assert_eq!(split(2, 0.01, 3).1.len(), 1);
    }
}
