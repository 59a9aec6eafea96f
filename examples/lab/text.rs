//! An answer cut into words, sentences and numbers, the way the oracle looks at it. Judges nothing itself.

/// An answer as the oracle reads it.
#[derive(Clone, Debug)]
pub struct Answer {
    raw: String,
    words: Vec<String>,
    /// Words joined by single spaces, with one at each end, so that a phrase is found only as whole words.
    joined: String,
}

impl Answer {
    /// Reads `text`: case and punctuation do not matter for words.
    pub fn new(text: &str) -> Self {
        let words: Vec<String> = text
            .replace('’', "'")
            .split(|c: char| !c.is_alphanumeric() && c != '\'')
            .map(|word| word.trim_matches('\'').to_lowercase())
            .filter(|word| !word.is_empty())
            .collect();
        let joined = format!(" {} ", words.join(" "));
        Self { raw: text.trim().to_owned(), words, joined }
    }

    /// The text, without white space at its ends.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// Its words in lower case, without punctuation; numbers are words.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Whether this phrase (lower case, single spaces) stands in it as whole words.
    pub fn has(&self, phrase: &str) -> bool {
        self.find(phrase, 0).is_some()
    }

    /// Whether any of the phrases stands in it.
    pub fn has_any(&self, phrases: &[&str]) -> bool {
        phrases.iter().any(|phrase| self.has(phrase))
    }

    /// The first of `phrases` that stands in it.
    pub fn first_of<'a>(&self, phrases: &[&'a str]) -> Option<&'a str> {
        phrases.iter().copied().find(|phrase| self.has(phrase))
    }

    /// Where the phrase begins, at or after `from` (an offset that an earlier call gave).
    pub fn find(&self, phrase: &str, from: usize) -> Option<usize> {
        let needle = format!(" {phrase} ");
        self.joined.get(from..)?.find(&needle).map(|at| at + from)
    }

    /// Whether the phrases stand in it one after the other.
    pub fn has_in_order(&self, phrases: &[String]) -> bool {
        let mut from = 0;
        phrases.iter().all(|phrase| match self.find(phrase, from) {
            Some(at) => {
                from = at + 1;
                true
            }
            None => false,
        })
    }

    /// Its sentences, trimmed, in lower case, without their final mark.
    pub fn sentences(&self) -> Vec<String> {
        self.raw.split(['.', '!', '?']).map(|s| s.trim().to_lowercase()).filter(|s| !s.is_empty()).collect()
    }

    /// Whether it ends as a sentence does.
    pub fn is_finished(&self) -> bool {
        self.raw.ends_with(['.', '!', '?'])
    }

    /// The whole numbers in it, in order. `-` before a digit is read as minus only at a word's start.
    pub fn numbers(&self) -> Vec<i64> {
        numbers(&self.raw)
    }

    /// Equations `a + b = c` and `a - b = c` in it as `(a, is_plus, b, c)`.
    pub fn equations(&self) -> Vec<(i64, bool, i64, i64)> {
        let pieces = pieces(&self.raw);
        pieces
            .windows(5)
            .filter_map(|w| match (&w[0], &w[1], &w[2], &w[3], &w[4]) {
                (
                    Piece::Number(a),
                    Piece::Sign(sign),
                    Piece::Number(b),
                    Piece::Sign('='),
                    Piece::Number(c),
                ) if *sign != '=' => Some((*a, *sign == '+', *b, *c)),
                _ => None,
            })
            .collect()
    }
}

enum Piece {
    Number(i64),
    Sign(char),
    Other,
}

fn pieces(text: &str) -> Vec<Piece> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '0'..='9' => {
                let mut digits = String::from(c);
                while let Some(d) = chars.next_if(char::is_ascii_digit) {
                    digits.push(d);
                }
                // Longer than any number of this world: not one of its numbers, and it may not wrap around.
                out.push(digits.parse().map_or(Piece::Other, Piece::Number));
            }
            '+' | '=' | '-' | '−' => out.push(Piece::Sign(if c == '−' { '-' } else { c })),
            c if c.is_whitespace() => {}
            _ => out.push(Piece::Other),
        }
    }
    out
}

fn numbers(text: &str) -> Vec<i64> {
    pieces(text)
        .iter()
        .filter_map(|piece| match piece {
            Piece::Number(n) => Some(*n),
            Piece::Sign(_) | Piece::Other => None,
        })
        .collect()
}

/// Upper-cases the first letter.
pub fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_match_whole_words_only() {
        let answer = Answer::new("Please unplug it. Don’t wait!");
        assert!(answer.has("unplug it") && answer.has("don't wait"));
        assert!(!answer.has("plug it"));
    }

    #[test]
    fn order_matters() {
        let answer = Answer::new("First one, then two.");
        assert!(answer.has_in_order(&["one".into(), "two".into()]));
        assert!(!answer.has_in_order(&["two".into(), "one".into()]));
    }

    #[test]
    fn equations_and_numbers_are_read() {
        let answer = Answer::new("First, 47 + 30 = 77, and 77 − 8 = 69. So it is 69.");
        assert_eq!(answer.equations(), [(47, true, 30, 77), (77, false, 8, 69)]);
        assert_eq!(answer.numbers().last(), Some(&69));
    }

    #[test]
    fn a_number_too_long_is_no_number() {
        assert!(Answer::new("99999999999999999999999").numbers().is_empty());
    }
}
