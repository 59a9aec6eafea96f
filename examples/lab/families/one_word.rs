//! Questions to be answered in one word. The questions are common knowledge; held-out wordings ask for one word
//! differently.

use serde::{Deserialize, Serialize};

use super::{Family, manners};
use crate::oracle::Reason;
use crate::rng::{LabRng, chance, index, pick};
use crate::task::{Flaw, Split};
use crate::text::{Answer, capitalised};

/// A question, by its place in the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneWord {
    question: usize,
}

/// `(kind, subject, answer)`.
const QUESTIONS: &[(usize, &str, &str)] = &[
    (OPPOSITE, "hot", "cold"),
    (OPPOSITE, "big", "small"),
    (OPPOSITE, "day", "night"),
    (OPPOSITE, "open", "closed"),
    (OPPOSITE, "fast", "slow"),
    (OPPOSITE, "full", "empty"),
    (OPPOSITE, "young", "old"),
    (OPPOSITE, "up", "down"),
    (OPPOSITE, "wet", "dry"),
    (OPPOSITE, "loud", "quiet"),
    (COLOUR, "grass", "green"),
    (COLOUR, "snow", "white"),
    (COLOUR, "the sky", "blue"),
    (COLOUR, "coal", "black"),
    (COLOUR, "a lemon", "yellow"),
    (COLOUR, "a ripe tomato", "red"),
    (YOUNG, "a dog", "puppy"),
    (YOUNG, "a cat", "kitten"),
    (YOUNG, "a cow", "calf"),
    (YOUNG, "a sheep", "lamb"),
    (YOUNG, "a horse", "foal"),
    (YOUNG, "a hen", "chick"),
];
const OPPOSITE: usize = 0;
const COLOUR: usize = 1;
const YOUNG: usize = 2;
const ASK: &[&str] =
    &["what is the opposite of {s}?", "what is the colour of {s}?", "what is the young of {s} called?"];
const SAY: &[&str] =
    &["The opposite of {s} is {v}.", "The colour of {s} is {v}.", "The young of {s} is called {v}."];

const TRAIN: &[&str] = &[
    "Answer in one word: {q}",
    "In one word, {q}",
    "{Q} One word, please.",
    "{Q} Answer in one word.",
    "Please reply in one word: {q}",
    "{Q} Just one word.",
];
const HELD_OUT: &[&str] =
    &["Just one word: {q}", "Please answer in one word: {q}", "{Q} In one word, please."];

impl OneWord {
    fn parts(&self) -> (usize, &'static str, &'static str) {
        QUESTIONS[self.question % QUESTIONS.len()]
    }
}

impl OneWord {
    /// The right answer and three wrong ones of the same kind.
    pub fn choices(&self) -> [String; 4] {
        let (kind, _, right) = self.parts();
        let of_kind: Vec<&str> =
            QUESTIONS.iter().filter(|q| q.0 == kind && q.2 != right).map(|q| q.2).collect();
        let at = |offset: usize| {
            let value = if offset == 0 { right } else { of_kind[(self.question + offset) % of_kind.len()] };
            format!("{}.", capitalised(value))
        };
        std::array::from_fn(at)
    }
}

impl Family for OneWord {
    const FLAWS: &'static [(Flaw, f64)] =
        &[(Flaw::Rambling, 0.75), (Flaw::Wrong, 0.1), (Flaw::Rude, 0.1), (Flaw::OverRefusing, 0.05)];
    const MAX_WORDS: usize = 1;

    fn sample(split: Split, rng: &mut LabRng) -> (Self, String) {
        let task = Self { question: index(rng, QUESTIONS.len()) };
        let (kind, subject, _) = task.parts();
        let question = ASK[kind].replace("{s}", subject);
        let template = match split {
            Split::Train => pick(rng, TRAIN),
            Split::HeldOut => pick(rng, HELD_OUT),
        };
        (task, template.replace("{q}", &question).replace("{Q}", &capitalised(&question)))
    }

    fn good(&self, _: &mut LabRng) -> String {
        format!("{}.", capitalised(self.parts().2))
    }

    fn flawed(&self, flaw: Flaw, rng: &mut LabRng) -> String {
        let (kind, subject, value) = self.parts();
        let sentence = SAY[kind].replace("{s}", subject).replace("{v}", value);
        match flaw {
            Flaw::Rude => manners::rude(&self.good(rng), rng),
            Flaw::OverRefusing => manners::over_refusal(rng),
            Flaw::Rambling if chance(rng, 0.7) => sentence,
            Flaw::Rambling => manners::rambling(&sentence, rng),
            Flaw::Wrong | Flaw::Harmful => loop {
                let (other_kind, _, other) = QUESTIONS[index(rng, QUESTIONS.len())];
                if other_kind == kind && other != value {
                    break format!("{}.", capitalised(other));
                }
            },
        }
    }

    fn check(&self, answer: &Answer, reasons: &mut Vec<Reason>) {
        let value = self.parts().2;
        if answer.words().iter().all(|word| word != value) {
            reasons.push(Reason::Wrong(format!("{}, not {value}", answer.raw())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Task;

    fn is_good(answer: &str) -> bool {
        crate::judge(&Task::OneWord(OneWord { question: 0 }), "In one word", answer).good
    }

    #[test]
    fn one_right_word_and_no_more() {
        assert!(is_good("Cold.") && is_good("cold"));
        assert!(!is_good("It is cold."));
        assert!(!is_good("Warm."));
        assert!(!is_good("Cold. Cold."));
    }
}
