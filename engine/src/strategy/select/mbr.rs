//! Minimum Bayes risk with a reward (MBR-BoN, Jinnai et al. 2025, NAACL, arXiv:2404.01054): the reward plus how much a
//! candidate agrees with all, which keeps answers that only please the reward model from winning.

use super::Ended;

/// Rewards plus `weight` times the mean similarity to all candidates, the candidate itself included.
pub(super) fn agreeing<'a>(ended: &[Ended<'a>], weight: f64) -> Vec<Ended<'a>> {
    let grams: Vec<Vec<u64>> = ended.iter().map(|candidate| grams(candidate.text)).collect();
    let mut sums = vec![0.0; ended.len()];
    for i in 0..ended.len() {
        for j in i..ended.len() {
            let similarity = similarity(&grams[i], &grams[j]);
            sums[i] += similarity;
            if i != j {
                sums[j] += similarity;
            }
        }
    }
    let mean = |sum: f64| sum / ended.len() as f64;
    let with = |(candidate, sum): (&Ended<'a>, f64)| Ended {
        value: candidate.value.map(|value| value + weight * mean(sum)),
        ..*candidate
    };
    ended.iter().zip(sums).map(with).collect()
}

/// Hashes of a text's words and pairs of words, sorted, as often as they come.
fn grams(text: &str) -> Vec<u64> {
    let words: Vec<u64> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| word.chars().flat_map(char::to_lowercase).fold(1, |hash, c| mix(hash, u64::from(c))))
        .collect();
    let pairs = words.windows(2).map(|pair| mix(pair[0], pair[1]));
    let mut grams: Vec<u64> = words.iter().copied().chain(pairs).collect();
    grams.sort_unstable();
    grams
}

fn mix(hash: u64, next: u64) -> u64 {
    (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ next).wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(29)
}

/// F1 of the grams two texts share: 1 for the same, 0 for nothing in common. `a` and `b` are sorted.
fn similarity(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut shared) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                (i, j, shared) = (i + 1, j + 1, shared + 1);
            }
        }
    }
    match a.len() + b.len() {
        0 => 1.0,
        total => 2.0 * shared as f64 / total as f64,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::{prop, prop_assert_eq, proptest};

    use super::super::Select;
    use super::super::tests::ended;

    /// F1 of words and pairs of words, counted one by one.
    fn by_hand(a: &str, b: &str) -> f64 {
        let count = |text: &str| {
            let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
            let mut counts: HashMap<String, usize> = HashMap::new();
            words.iter().for_each(|word| *counts.entry((*word).to_owned()).or_default() += 1);
            words.windows(2).for_each(|pair| *counts.entry(pair.join(" ")).or_default() += 1);
            counts
        };
        let (a, b) = (count(a), count(b));
        let shared: usize = a.iter().map(|(gram, &n)| n.min(b.get(gram).copied().unwrap_or(0))).sum();
        match a.values().sum::<usize>() + b.values().sum::<usize>() {
            0 => 1.0,
            total => 2.0 * shared as f64 / total as f64,
        }
    }

    proptest! {
        #[test]
        fn equals_brute_force(
            candidates in prop::collection::vec((-3i8..3, "([abc]( [abc]){0,5})?"), 1..7),
            weight in 0u8..4,
        ) {
            let weight = f64::from(weight) + 0.5;
            let ended: Vec<_> =
                candidates.iter().enumerate().map(|(i, (r, text))| ended(i, Some(f64::from(*r)), text)).collect();
            let value = |i: usize| {
                let agreement: f64 = candidates.iter().map(|(_, other)| by_hand(&candidates[i].1, other)).sum();
                f64::from(candidates[i].0) + weight * agreement / candidates.len() as f64
            };
            let order = Select::Mbr { weight: weight as f32 }.rank(&ended, 0);
            // Sums in another order differ in the last bits, so compare values and not places.
            let got: Vec<i64> = order.iter().map(|&i| (value(i) * 1e9).round() as i64).collect();
            let mut expected = got.clone();
            expected.sort_unstable_by(|a, b| b.cmp(a));
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn agreement_outweighs_a_little_reward() {
        let texts = ["It is forty two.", "it is Forty two", "Buy my course now!", "It is forty-two, friend."];
        let rewards = [0.0, 0.1, 0.6, 0.0];
        let ended: Vec<_> =
            texts.iter().zip(rewards).enumerate().map(|(i, (text, r))| ended(i, Some(r), text)).collect();
        assert_eq!(Select::Mbr { weight: 0.0 }.rank(&ended, 0)[0], 2);
        assert_eq!(Select::Mbr { weight: 2.0 }.rank(&ended, 0)[..2], [1, 0]);
    }
}
