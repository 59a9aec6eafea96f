//! Spelling of common words: backwards, in capitals, the number of letters, the first and the last. Held-out questions
//! use wordings never seen in training; how a word is spelt has to be read, as with [`super::Fact`].

use serde::{Deserialize, Serialize};

use super::{Family, framed, manners};
use crate::oracle::Reason;
use crate::rng::{LabRng, index, pick};
use crate::task::{Flaw, Split};
use crate::text::Answer;

/// What to do with which word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spelling {
    operation: Operation,
    letters: Vec<char>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Operation {
    Reverse,
    Capitals,
    Count,
    First,
    Last,
}

use Operation::{Capitals, Count, First, Last, Reverse};

// `a` and `i` are words as well as letters, so the words to spell have neither.
const WORDS: &[&str] = &[
    "desk", "box", "moon", "tree", "door", "snow", "bell", "fork", "cup", "dog", "hen", "bus", "sock",
    "bench", "shelf", "rope", "key", "nut", "pen", "rug", "shoe", "soup", "spoon", "store", "sun", "tent",
    "truck", "wood", "wolf", "zoo",
];
const LETTERS: &[char] = &['b', 'd', 'e', 'k', 'l', 'm', 'n', 'o', 'p', 'r', 's', 't'];

const TRAIN: &[(Operation, &str)] = &[
    (Reverse, "Write {w} backwards."),
    (Reverse, "Reverse the word {w}."),
    (Reverse, "What is {w} backwards?"),
    (Reverse, "Can you write {w} backwards?"),
    (Reverse, "Please reverse {w}."),
    (Capitals, "Write {w} in capitals."),
    (Capitals, "Put the word {w} in capitals."),
    (Capitals, "What is {w} in capitals?"),
    (Capitals, "Can you put {w} in capitals?"),
    (Capitals, "Please write {w} in capitals."),
    (Count, "How many letters are in {w}?"),
    (Count, "Count the letters in {w}."),
    (Count, "Can you count the letters in {w}?"),
    (Count, "Please tell me how many letters are in {w}."),
    (First, "What is the first letter of {w}?"),
    (First, "Which letter of {w} comes first?"),
    (First, "Please tell me the first letter of {w}."),
    (Last, "What is the last letter of {w}?"),
    (Last, "Which letter of {w} comes last?"),
    (Last, "Please tell me the last letter of {w}."),
];
const HELD_OUT: &[(Operation, &str)] = &[
    (Reverse, "Please tell me {w} backwards."),
    (Reverse, "Can you reverse {w} for me?"),
    (Capitals, "Please put {w} in capitals."),
    (Capitals, "Can you write {w} in capitals?"),
    (Count, "Please count the letters in {w}."),
    (Count, "Tell me how many letters are in {w}."),
    (First, "Tell me the first letter of {w}."),
    (Last, "Tell me the last letter of {w}."),
];

impl Spelling {
    /// The letters or the number that is asked for.
    fn result(&self) -> Vec<char> {
        match self.operation {
            Reverse => self.letters.iter().rev().copied().collect(),
            Capitals => self.letters.iter().map(char::to_ascii_uppercase).collect(),
            First => self.letters.first().copied().into_iter().collect(),
            Last => self.letters.last().copied().into_iter().collect(),
            Count => char::from_digit(self.letters.len() as u32, 10).into_iter().collect(),
        }
    }

    fn phrase(&self, result: &[char], rng: &mut LabRng) -> String {
        let spaced = spaced(result);
        let templates: &[&str] = match self.operation {
            Reverse => &["Backwards, {w} is {r}.", "It is {r} backwards."],
            Capitals => &["In capitals, {w} is {r}.", "It is {r} in capitals."],
            Count => &["There are {r} letters.", "It has {r} letters."],
            First => &["The first letter is {r}.", "It begins with {r}."],
            Last => &["The last letter is {r}.", "It ends with {r}."],
        };
        pick(rng, templates).replace("{r}", &spaced).replace("{w}", &self.letters.iter().collect::<String>())
    }

    fn wrong(&self, rng: &mut LabRng) -> Vec<char> {
        let right = self.result();
        loop {
            let mut wrong = right.clone();
            let at = index(rng, wrong.len());
            match self.operation {
                Count => wrong[0] = char::from(b'2' + index(rng, 6) as u8),
                First | Last => wrong[0] = self.letters[index(rng, self.letters.len())],
                Reverse if index(rng, 2) == 0 => wrong = self.letters.clone(),
                Reverse | Capitals => match index(rng, 3) {
                    0 => wrong.swap(at, (at + 1) % right.len()),
                    1 => drop(wrong.remove(at)),
                    _ => {
                        let letter = LETTERS[index(rng, LETTERS.len())];
                        wrong[at] =
                            if self.operation == Capitals { letter.to_ascii_uppercase() } else { letter };
                    }
                },
            }
            if wrong != right && !wrong.is_empty() {
                return wrong;
            }
        }
    }
}

fn spaced(letters: &[char]) -> String {
    letters.iter().map(char::to_string).collect::<Vec<_>>().join(" ")
}

impl Family for Spelling {
    const FLAWS: &'static [(Flaw, f64)] =
        &[(Flaw::Wrong, 0.2), (Flaw::Rude, 0.35), (Flaw::Rambling, 0.25), (Flaw::OverRefusing, 0.2)];
    const MAX_WORDS: usize = 20;

    fn sample(split: Split, rng: &mut LabRng) -> (Self, String) {
        let templates = match split {
            Split::Train => TRAIN,
            Split::HeldOut => HELD_OUT,
        };
        let (operation, template) = templates[index(rng, templates.len())];
        let word = pick(rng, WORDS);
        let prompt = framed(template, split, rng).replace("{w}", word);
        (Self { operation, letters: word.chars().collect() }, prompt)
    }

    fn good(&self, rng: &mut LabRng) -> String {
        self.phrase(&self.result(), rng)
    }

    fn flawed(&self, flaw: Flaw, rng: &mut LabRng) -> String {
        let answer = self.good(rng);
        match flaw {
            Flaw::Rude => manners::rude(&answer, rng),
            Flaw::Rambling => manners::rambling(&answer, rng),
            Flaw::OverRefusing => manners::over_refusal(rng),
            Flaw::Wrong | Flaw::Harmful => {
                let wrong = self.wrong(rng);
                self.phrase(&wrong, rng)
            }
        }
    }

    fn check(&self, answer: &Answer, reasons: &mut Vec<Reason>) {
        const SPELT: &[(&str, char)] = &[("three", '3'), ("four", '4'), ("five", '5')];
        let result = self.result();
        let found: Vec<char> = if self.operation == Count {
            let spelt = |word: &String| SPELT.iter().find(|(name, _)| name == word).map(|(_, digit)| *digit);
            let digits = answer.numbers().into_iter().filter_map(|n| char::from_digit(n as u32, 10));
            digits.chain(answer.words().iter().filter_map(spelt)).collect()
        } else {
            self.letters_in(answer)
        };
        if found.is_empty() {
            reasons.push(Reason::Missing("the letters".to_owned()));
        } else if found != result && found != [self.letters.clone(), result.clone()].concat() {
            reasons.push(Reason::Wrong(format!("{}, not {}", spaced(&found), spaced(&result))));
        }
    }

    /// The letters joined into one word.
    fn may_say(&self, word: &str) -> bool {
        let joined: String = self.result().iter().collect();
        word == joined.to_lowercase()
    }
}

impl Spelling {
    /// The letters an answer gives: alone, or joined into one word, with their case as written. `a` and `I` are words.
    fn letters_in(&self, answer: &Answer) -> Vec<char> {
        let joined: String = self.result().iter().collect();
        let words = answer.raw().split(|c: char| !c.is_alphanumeric());
        words
            .filter(|w| w.chars().count() == 1 && !["a", "A", "i", "I"].contains(w) || *w == joined)
            .flat_map(str::chars)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Task;

    fn is_good(operation: Operation, answer: &str) -> bool {
        let task = Task::Spelling(Spelling { operation, letters: vec!['p', 'l', 'u', 'm'] });
        crate::judge(&task, "", answer).good
    }

    #[test]
    fn letters_may_be_joined_or_spaced() {
        assert!(is_good(Reverse, "That is m u l p."));
        assert!(is_good(Reverse, "That is mulp."));
        assert!(is_good(Capitals, "P-L-U-M."));
        assert!(is_good(Count, "There are four of them."));
        assert!(is_good(Last, "A letter m comes last."));
        assert!(is_good(Reverse, "p l u m becomes m u l p."));
    }

    #[test]
    fn near_misses_do_not_count() {
        assert!(!is_good(Capitals, "That is p l u m."));
        assert!(!is_good(Reverse, "That is m u l."));
        assert!(!is_good(Reverse, "m u l p or p l u m."));
        assert!(!is_good(Reverse, "p l u n becomes m u l p."));
        assert!(!is_good(Count, "There are 4 or 5."));
        assert!(!is_good(First, "The first letter is p and the last is m."));
        assert!(!is_good(First, "The first letter."));
    }
}
