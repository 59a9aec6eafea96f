//! Near-duplicates among many texts in near-linear time: MinHash signatures (Broder 1997), banded so that only likely
//! pairs meet (Leskovec, Rajaraman & Ullman, "Mining of Massive Datasets", ch. 3), each checked by its exact Jaccard
//! similarity. Leaves which member of a cluster stays to `dedup`.

use std::collections::HashMap;

use super::words::mix;

/// Hash functions of a signature.
pub const NUM_PERMUTATIONS: usize = 128;

/// A pair at the threshold is missed by the bands at most this often.
const MAX_MISS: f64 = 1e-3;

/// Members of a bucket that a text is compared with. One text may be like all others without any two of these being alike, so of
/// larger buckets each band looks at other members.
const MAX_COMPARED: usize = 64;

/// Multiply-shift (Dietzfelbinger et al. 1997): an odd factor and an offset for each permutation.
const FUNCTIONS: [(u64, u64); NUM_PERMUTATIONS] = {
    let mut functions = [(0, 0); NUM_PERMUTATIONS];
    let mut index = 0;
    while index < NUM_PERMUTATIONS {
        functions[index] = (mix(2 * index as u64) | 1, mix(2 * index as u64 + 1));
        index += 1;
    }
    functions
};

/// The least value of each hash function over a set of shingles: two sets agree in a position with a probability equal
/// to their Jaccard similarity (up to the family's small bias).
pub type Signature = [u32; NUM_PERMUTATIONS];

/// The signature of a set of shingles, none for an empty one.
pub fn signature(shingles: &[u64]) -> Option<Signature> {
    if shingles.is_empty() {
        return None;
    }
    let mut least = [u32::MAX; NUM_PERMUTATIONS];
    for &shingle in shingles {
        let shingle = mix(shingle);
        for (least, (factor, offset)) in least.iter_mut().zip(&FUNCTIONS) {
            let value = (shingle.wrapping_mul(*factor).wrapping_add(*offset) >> 32) as u32;
            *least = (*least).min(value);
        }
    }
    Some(least)
}

/// The share of positions in which two signatures agree: an estimate of the Jaccard similarity, with a standard error
/// of at most 0.045.
pub fn similarity(a: &Signature, b: &Signature) -> f64 {
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / NUM_PERMUTATIONS as f64
}

/// The Jaccard similarity of two sorted sets; 1 for two empty ones.
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut common) = (0, 0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        common += usize::from(x == y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    let all = a.len() + b.len() - common;
    if all == 0 { 1.0 } else { common as f64 / all as f64 }
}

/// Rows of a band: the most (the fewest wrong candidates) that keep the chance to miss a pair at `threshold`, which is
/// `(1 − t^rows)^bands`, below [`MAX_MISS`].
fn rows_per_band(threshold: f64) -> usize {
    let miss = |rows: usize| (1.0 - threshold.powi(rows as i32)).powi((NUM_PERMUTATIONS / rows) as i32);
    (1..=32).rev().find(|&rows| miss(rows) <= MAX_MISS).unwrap_or(1)
}

/// Groups sets of shingles whose Jaccard similarity is at least `threshold` (single linkage): for each set the index of
/// the first member of its cluster. Empty sets stay alone.
pub fn clusters(sets: &[Vec<u64>], threshold: f64) -> Vec<usize> {
    let mut clusters = Clusters::new(sets.len());
    // Equal sets join first, so that a text sent ten thousand times costs one comparison, not a bucket of them.
    let mut first: HashMap<&[u64], usize> = HashMap::new();
    let mut distinct = Vec::new();
    for (index, set) in sets.iter().enumerate().filter(|(_, set)| !set.is_empty()) {
        match first.get(set.as_slice()) {
            Some(&same) => clusters.join(same, index),
            None => {
                first.insert(set, index);
                distinct.push(index);
            }
        }
    }
    let rows = rows_per_band(threshold);
    let signatures: Vec<(usize, Signature)> =
        distinct.iter().filter_map(|&index| Some((index, signature(&sets[index])?))).collect();
    for band in 0..NUM_PERMUTATIONS / rows {
        let mut buckets: HashMap<&[u32], Vec<usize>> = HashMap::new();
        for (index, signature) in &signatures {
            let bucket = buckets.entry(&signature[band * rows..(band + 1) * rows]).or_default();
            let step = bucket.len().div_ceil(MAX_COMPARED).max(1);
            for &other in bucket.iter().skip(band % step).step_by(step) {
                if clusters.first(other) != clusters.first(*index)
                    && jaccard(&sets[other], &sets[*index]) >= threshold
                {
                    clusters.join(other, *index);
                }
            }
            bucket.push(*index);
        }
    }
    (0..sets.len()).map(|index| clusters.first(index)).collect()
}

/// Disjoint sets of indices; the least index stands for its set.
#[derive(Debug)]
pub(crate) struct Clusters(Vec<usize>);

impl Clusters {
    pub(crate) fn new(len: usize) -> Self {
        Self((0..len).collect())
    }

    pub(crate) fn first(&mut self, index: usize) -> usize {
        let mut root = index;
        while self.0[root] != root {
            self.0[root] = self.0[self.0[root]];
            root = self.0[root];
        }
        root
    }

    pub(crate) fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.first(a), self.first(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::words::shingles;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Five standard errors of a mean of 128 draws, and the family's own bias.
        #[test]
        fn signatures_estimate_the_exact_similarity(shared in 0usize..200, own in 1usize..200, seed: u64) {
            let set = |from: usize, to: usize| -> Vec<u64> {
                let mut set: Vec<u64> = (from..to).map(|i| mix(seed ^ i as u64)).collect();
                set.sort_unstable();
                set
            };
            let (a, b) = (set(0, shared + own), set(own, shared + 2 * own));
            let exact = jaccard(&a, &b);
            let estimate = similarity(&signature(&a).expect("not empty"), &signature(&b).expect("not empty"));
            prop_assert!((exact - estimate).abs() < 5.0 * 0.045, "{exact} {estimate}");
        }

        /// Clusters are the connected components of the exact relation, but for a pair in a thousand that no band brings
        /// together.
        #[test]
        fn clusters_are_those_of_exact_similarity(
            bases in prop::collection::vec(prop::collection::vec(0u64..1000, 20..40), 1..6),
            edits in prop::collection::vec((0usize..6, 0usize..60, 0u64..1000), 1..30),
        ) {
            let sets: Vec<Vec<u64>> = edits
                .iter()
                .map(|&(base, place, value)| {
                    let mut set = bases[base % bases.len()].clone();
                    if let Some(slot) = set.get_mut(place) {
                        *slot = value;
                    }
                    set.sort_unstable();
                    set.dedup();
                    set
                })
                .collect();
            let mut exact = Clusters::new(sets.len());
            for i in 0..sets.len() {
                for j in 0..i {
                    if jaccard(&sets[i], &sets[j]) >= 0.9 {
                        exact.join(i, j);
                    }
                }
            }
            let exact: Vec<usize> = (0..sets.len()).map(|i| exact.first(i)).collect();
            let found = clusters(&sets, 0.9);
            prop_assert!(found.iter().zip(&exact).all(|(root, own)| exact[*root] == *own), "{found:?} {exact:?}");
            let num = |roots: &[usize]| roots.iter().collect::<std::collections::BTreeSet<_>>().len();
            prop_assert!(num(&found) <= num(&exact) + 1, "{found:?} {exact:?}");
        }
    }

    #[test]
    fn texts_that_are_alike_only_by_one_among_them_are_a_cluster() {
        let hub: Vec<u64> = (0..100).collect();
        let spoke = |number: u64| {
            let mut spoke = hub.clone();
            (0..5).for_each(|i| {
                spoke[(13 * number + i * (17 + number % 4)) as usize % 100] = 1000 + 5 * number + i
            });
            spoke.sort_unstable();
            spoke
        };
        let mut sets: Vec<_> = (0..60).map(spoke).collect();
        sets.insert(5, hub.clone());
        assert!(jaccard(&hub, &sets[0]) >= 0.9 && jaccard(&sets[0], &sets[1]) < 0.9);
        let apart = clusters(&sets, 0.9).into_iter().filter(|first| *first != 0).count();
        // A pair in a thousand may be missed.
        assert!(apart <= 1, "{apart} stay apart");
    }

    #[test]
    fn near_duplicates_meet_and_others_do_not() {
        let long = (0..60).map(|i| format!("word{i}")).collect::<Vec<_>>().join(" ");
        let texts =
            [long.clone(), format!("{long}, please!"), "Something else entirely".into(), long.to_uppercase()];
        let sets: Vec<Vec<u64>> = texts.iter().map(|text| shingles(text, 3)).collect();
        assert_eq!(clusters(&sets, 0.9), [0, 0, 2, 0]);
    }

    #[test]
    fn empty_texts_are_no_duplicates_of_each_other() {
        assert_eq!(clusters(&[vec![], vec![]], 0.9), [0, 1]);
    }

    #[test]
    fn the_bands_miss_few_pairs_and_propose_few_wrong_ones() {
        assert_eq!(rows_per_band(0.9), 8);
        assert_eq!(rows_per_band(0.0), 1);
    }
}
