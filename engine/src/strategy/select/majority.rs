//! Self-consistency (Wang et al. 2022, arXiv:2203.11171): the answer that most candidates came to, by an extractor that
//! finds the answer in a text.

use std::collections::HashMap;

use regex::Regex;

use super::{Ended, compare};
use crate::EngineError;

/// Largest compiled pattern, in bytes.
const MAX_PATTERN: usize = 1 << 20;

/// Where the answer stands in a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Extractor {
    /// The last number: `1,250.0` and `1250` are one answer.
    Number,
    /// What stands in the last `\boxed{…}`.
    Boxed,
    /// The last line that is not empty, without case, spacing and a full stop.
    LastLine,
    /// The whole text, likewise.
    Text,
    /// The first group of the pattern's last match, or the whole match of a pattern without groups.
    Pattern(Pattern),
}

/// A regular expression; equal to another of the same source.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Pattern {
    /// Compiles `source`. Matching takes time linear in the text.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] naming what is wrong with the expression.
    pub fn new(source: &str) -> Result<Self, EngineError> {
        let compiled = regex::RegexBuilder::new(source).size_limit(MAX_PATTERN).build();
        compiled.map(Self).map_err(|error| {
            // The crate's message draws a picture over several lines; the last one says it.
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let message = format!("alignment.extract_pattern is not a regular expression: {reason}");
            EngineError::invalid("alignment.extract_pattern", message)
        })
    }
}

impl Extractor {
    /// The answer in `text`, such that equal answers are equal strings; none if there is none.
    pub fn answer(&self, text: &str) -> Option<String> {
        match self {
            Self::Number => last_number(text),
            Self::Boxed => boxed(text).map(plain),
            Self::LastLine => text.lines().map(plain).rfind(|line| !line.is_empty()),
            Self::Text => Some(plain(text)).filter(|text| !text.is_empty()),
            Self::Pattern(Pattern(pattern)) => {
                let last = pattern.captures_iter(text).last()?;
                Some(plain(last.get(1).or_else(|| last.get(0))?.as_str()))
            }
        }
    }
}

/// The most common answer's candidates first, the best of them in front; then those of the next; those without an answer
/// come last. Equally common answers stand by their best candidate.
pub(super) fn rank(ended: &[Ended<'_>], extractor: &Extractor) -> Vec<usize> {
    let mut groups: HashMap<String, Vec<Ended<'_>>> = HashMap::new();
    let mut without = Vec::new();
    for &candidate in ended {
        match extractor.answer(candidate.text) {
            Some(answer) => groups.entry(answer).or_default().push(candidate),
            None => without.push(candidate),
        }
    }
    let mut groups: Vec<Vec<Ended<'_>>> = groups.into_values().collect();
    groups.iter_mut().chain([&mut without]).for_each(|group| group.sort_by(compare));
    groups.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| compare(&a[0], &b[0])));
    groups.into_iter().flatten().chain(without).map(|candidate| candidate.index).collect()
}

/// Lower case, single spaces, no full stop at the end.
fn plain(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").to_lowercase().trim_end_matches(['.', '!']).to_owned()
}

/// The content of the last `\boxed{…}` whose braces close.
fn boxed(text: &str) -> Option<&str> {
    let start = text.rfind("\\boxed{")? + "\\boxed{".len();
    let mut depth = 1;
    for (offset, c) in text[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[start..start + offset]);
        }
    }
    None
}

/// The last number, without separators of thousands, leading zeros and zeros after its last decimal.
fn last_number(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let end = bytes.iter().rposition(u8::is_ascii_digit)? + 1;
    let is_part = |at: usize| match bytes[at] {
        b'0'..=b'9' => true,
        // A mark belongs to a number if digits stand on both its sides, and three behind a comma.
        b'.' => at > 0 && bytes[at - 1].is_ascii_digit(),
        b',' => {
            let digits = bytes[at + 1..end].iter().take_while(|byte| byte.is_ascii_digit()).count();
            at > 0 && bytes[at - 1].is_ascii_digit() && digits == 3
        }
        _ => false,
    };
    let start = (0..end).rev().take_while(|&at| is_part(at)).last()?;
    let digits = text[start..end].replace(',', "");
    let (whole, decimals) = digits.rsplit_once('.').unwrap_or((&digits, ""));
    let whole = Some(whole.trim_start_matches('0')).filter(|whole| !whole.is_empty()).unwrap_or("0");
    let decimals = decimals.trim_end_matches('0');
    let is_zero = whole == "0" && decimals.is_empty();
    let is_negative = !is_zero && start > 0 && bytes[start - 1] == b'-';
    let sign = if is_negative { "-" } else { "" };
    Some(if decimals.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{decimals}") })
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::{Just, prop, prop_assert_eq, prop_oneof, proptest};
    use proptest::strategy::Strategy as _;

    use super::super::Select;
    use super::super::tests::ended;
    use super::*;

    #[test]
    fn answers_are_found_and_put_in_one_form() {
        let pattern = |source| Extractor::Pattern(Pattern::new(source).unwrap());
        let cases = [
            (Extractor::Number, "17 + 25 = 42.", Some("42")),
            (Extractor::Number, "That is $1,250.50!", Some("1250.5")),
            (Extractor::Number, "x = -0.0", Some("0")),
            (Extractor::Number, "about -007", Some("-7")),
            (Extractor::Number, "1,2,30", Some("30")),
            (Extractor::Number, "none at all", None),
            (Extractor::Boxed, "so \\boxed{1} or \\boxed{\\frac{A}{2}}.", Some("\\frac{a}{2}")),
            (Extractor::Boxed, "so \\boxed{1", None),
            (Extractor::LastLine, "Because.\n  The Answer  is B. \n\n", Some("the answer is b")),
            (Extractor::Text, " Yes! ", Some("yes")),
            (Extractor::Text, "  ", None),
            (pattern(r"answer is (\w+)"), "The answer is A, no, the answer is B.", Some("b")),
            (pattern(r"[A-D]\b"), "Either A or C", Some("c")),
            (pattern("x"), "y", None),
        ];
        for (extractor, text, expected) in cases {
            assert_eq!(extractor.answer(text).as_deref(), expected, "{extractor:?} of {text:?}");
        }
    }

    #[test]
    fn a_bad_pattern_is_refused_in_one_line() {
        for source in ["(", "a{1000}{1000}{1000}"] {
            let error = Pattern::new(source).unwrap_err().to_string();
            assert!(error.contains("extract_pattern") && !error.contains('\n'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn the_most_common_answer_wins_and_rewards_decide_the_rest(
            candidates in prop::collection::vec(
                (prop_oneof![4 => (-3i8..3).prop_map(Some), 1 => Just(None)], prop_oneof![Just(""), Just("1"), Just("2"), Just("3")]),
                1..9,
            ),
        ) {
            let ended: Vec<_> = candidates
                .iter()
                .enumerate()
                .map(|(i, (value, text))| ended(i, value.map(f64::from), text))
                .collect();
            let count = |text: &str| candidates.iter().filter(|(_, other)| *other == text).count();
            // Rewarded before unrewarded, high before low, low index first.
            let own = |i: usize| (candidates[i].0.is_none(), candidates[i].0.map(|v| -i32::from(v)), i);
            let best = |text: &str| (0..candidates.len()).filter(|&i| candidates[i].1 == text).map(own).min();
            let mut expected: Vec<usize> = (0..candidates.len()).collect();
            expected.sort_by_key(|&i| {
                let text = candidates[i].1;
                if text.is_empty() { (Reverse(0), None, own(i)) } else { (Reverse(count(text)), best(text), own(i)) }
            });
            prop_assert_eq!(Select::Majority(Extractor::Number).rank(&ended, 0), expected);
        }
    }
}
