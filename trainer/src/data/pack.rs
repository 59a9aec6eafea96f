//! Packing of demonstrations into bins of at most so many tokens, best fit decreasing (Ding et al. 2024,
//! arXiv:2404.10830), as TRL's `packing`. A bin counts as one example of a batch; its sequences do not see each other.
//! Leaves batches to `order`.

use std::collections::{BTreeMap, VecDeque};

use super::sft::SftExample;
use crate::config::PackingStrategy;

/// Demonstrations in bins of at most `capacity` tokens. What is longer is cut off, or split into several with
/// [`PackingStrategy::BfdSplit`]; pieces without anything to learn are left out.
pub fn pack(examples: Vec<SftExample>, capacity: usize, strategy: PackingStrategy) -> Vec<Vec<SftExample>> {
    let capacity = capacity.max(1);
    let mut pieces: Vec<SftExample> = match strategy {
        PackingStrategy::Bfd => {
            let cut = |mut example: SftExample| {
                example.ids.truncate(capacity);
                example.loss.truncate(capacity);
                example
            };
            examples.into_iter().map(cut).collect()
        }
        PackingStrategy::BfdSplit => {
            let split = |example: SftExample| {
                let pieces = example.ids.chunks(capacity).zip(example.loss.chunks(capacity));
                pieces.map(|(ids, loss)| SftExample::new(ids.to_vec(), loss.to_vec())).collect::<Vec<_>>()
            };
            examples.into_iter().flat_map(split).collect()
        }
    };
    pieces.retain(|piece| piece.num_loss_tokens() > 0);
    let lengths: Vec<usize> = pieces.iter().map(|piece| piece.ids.len()).collect();
    let mut pieces: Vec<Option<SftExample>> = pieces.into_iter().map(Some).collect();
    let bins = best_fit_decreasing(&lengths, capacity).into_iter();
    bins.map(|bin| bin.into_iter().filter_map(|piece| pieces[piece].take()).collect()).collect()
}

/// Indices of `lengths` in bins of at most `capacity`: longest first, each into the fullest bin that still has room,
/// among equal ones the one that waited longest. No length is above `capacity`.
fn best_fit_decreasing(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(lengths[index]));
    let mut bins: Vec<Vec<usize>> = Vec::new();
    // Bins by the room they have left.
    let mut rooms: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for index in order {
        let length = lengths[index];
        let found =
            rooms.range_mut(length..).next().and_then(|(room, waiting)| Some((*room, waiting.pop_front()?)));
        let (room, bin) = found.unwrap_or_else(|| {
            bins.push(Vec::new());
            (capacity, bins.len() - 1)
        });
        if rooms.get(&room).is_some_and(VecDeque::is_empty) {
            rooms.remove(&room);
        }
        bins[bin].push(index);
        if room > length {
            rooms.entry(room - length).or_default().push_back(bin);
        }
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example(length: usize) -> SftExample {
        SftExample::new((0..length as u32).collect(), vec![true; length])
    }

    fn lengths(bins: &[Vec<SftExample>]) -> Vec<Vec<usize>> {
        bins.iter().map(|bin| bin.iter().map(|piece| piece.ids.len()).collect()).collect()
    }

    #[test]
    fn bins_are_those_of_trl() {
        // The examples of TRL's documentation of `pack_dataset`, one token longer, since single tokens learn nothing.
        let examples = || [6, 3, 4, 2].map(example).to_vec();
        assert_eq!(lengths(&pack(examples(), 6, PackingStrategy::Bfd)), [vec![6], vec![4, 2], vec![3]]);
        let long = || [9, 3, 4].map(example).to_vec();
        assert_eq!(lengths(&pack(long(), 6, PackingStrategy::Bfd)), [vec![6], vec![4], vec![3]]);
        assert_eq!(lengths(&pack(long(), 6, PackingStrategy::BfdSplit)), [vec![6], vec![4], vec![3, 3]]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_example_is_in_one_bin_and_no_bin_is_too_full(
            lengths in prop::collection::vec(1usize..30, 0..60), capacity in 30usize..64
        ) {
            let bins = best_fit_decreasing(&lengths, capacity);
            let mut all: Vec<usize> = bins.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            let sum = |bin: &Vec<usize>| bin.iter().map(|&index| lengths[index]).sum::<usize>();
            prop_assert!(bins.iter().all(|bin| sum(bin) <= capacity));
            // Any two bins that fit together would have been one.
            prop_assert!(bins.iter().filter(|bin| 2 * sum(bin) <= capacity).count() <= 1);
        }
    }
}
