//! Texts as the quality rules compare them: words without case and punctuation, their shingles, and how much a text
//! repeats itself. Leaves what follows from it to the rules.

use std::collections::HashSet;

/// The words of a text, lower-case, without punctuation.
pub fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// The words of a text with one space between them: two texts that differ in case, spaces or punctuation are equal.
pub fn normalised(text: &str) -> String {
    words(text).collect::<Vec<_>>().join(" ")
}

/// A 64-bit hash that never changes with a library's version (FNV-1a, finished by SplitMix64's mixing): snapshots and
/// reports of the same votes are the same bytes everywhere.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    mix(bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// SplitMix64's finaliser: every bit of the result depends on every bit of `value`.
pub(crate) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Hashes of the runs of `width` words of a text, sorted, each once. A text of fewer words is one shingle, so that
/// short texts are near-duplicates only if they are equal.
pub fn shingles(text: &str, width: usize) -> Vec<u64> {
    let words: Vec<String> = words(text).collect();
    let width = width.clamp(1, words.len().max(1));
    let mut hashes: Vec<u64> =
        words.windows(width).map(|run| stable_hash(run.join(" ").as_bytes())).collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// Distinct runs of `n` words as a share of all (distinct-n, Li et al. 2016, arXiv:1510.03055); 1 for a text with
/// fewer than two such runs.
pub fn distinct(text: &str, n: usize) -> f64 {
    let words: Vec<String> = words(text).collect();
    let runs: Vec<&[String]> = words.windows(n.max(1)).collect();
    if runs.len() < 2 {
        return 1.0;
    }
    runs.iter().collect::<HashSet<_>>().len() as f64 / runs.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_spaces_and_punctuation_do_not_count() {
        assert_eq!(normalised("  Hello,\nWORLD!! "), "hello world");
        assert_eq!(shingles("What is 2+2?", 3), shingles("what is 2 + 2", 3));
    }

    #[test]
    fn a_short_text_is_one_shingle_and_an_empty_one_none() {
        assert_eq!(shingles("yes", 3).len(), 1);
        assert_eq!(shingles("one two three four", 3).len(), 2);
        assert!(shingles(" ?! ", 3).is_empty());
    }

    #[test]
    fn repetition_lowers_distinct_n() {
        assert_eq!(distinct("Excellent! Excellent! Excellent! Excellent!", 1), 0.25);
        assert_eq!(distinct("Excellent", 2), 1.0);
        assert_eq!(distinct("each word stands once here", 2), 1.0);
    }
}
