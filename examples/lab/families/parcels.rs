//! A parcel described in the prompt, and a question about it: facts that no training text holds.

use serde::{Deserialize, Serialize};

use super::{Family, framed, manners};
use crate::oracle::Reason;
use crate::rng::{LabRng, held_out, index, pick};
use crate::task::{Flaw, Split};
use crate::text::Answer;
use crate::world::{CITIES, COLOURS};

/// A parcel, and what is asked about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parcels {
    colour: String,
    city: String,
    books: usize,
    asked: Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Asked {
    City,
    Colour,
    Books,
}

use Asked::{Books, City, Colour};

// One parcel in four is never seen in training.
const HELD_OUT_PARCELS: u64 = 4;

const STATEMENTS: &[&str] = &[
    "A {c} parcel with {n} books goes to {x}.",
    "A {c} parcel goes to {x} with {n} books.",
    "To {x} goes a {c} parcel with {n} books.",
    "There is a {c} parcel for {x} with {n} books.",
];

impl Asked {
    fn train(self) -> &'static [&'static str] {
        match self {
            City => &["Where does it go?", "Which city is it for?", "Can you tell me where it goes?"],
            Colour => &["What colour is it?", "Which colour does it have?", "Can you tell me its colour?"],
            Books => {
                &["How many books are in it?", "How many books does it hold?", "Can you count the books?"]
            }
        }
    }

    fn held_out(self) -> &'static [&'static str] {
        match self {
            City => &["Please tell me where it goes.", "To which city does it go?"],
            Colour => &["Please tell me its colour.", "Do you know what colour it is?"],
            Books => &["Please tell me how many books it holds.", "How many books go with it?"],
        }
    }

    fn answers(self) -> &'static [&'static str] {
        match self {
            City => &["It goes to {v}.", "The parcel goes to {v}."],
            Colour => &["It is {v}.", "The parcel is {v}."],
            Books => &["There are {v} books in it.", "It holds {v} books."],
        }
    }
}

impl Parcels {
    /// What is asked for.
    pub fn value(&self) -> String {
        match self.asked {
            City => self.city.clone(),
            Colour => self.colour.clone(),
            Books => self.books.to_string(),
        }
    }

    fn phrase(&self, value: &str, rng: &mut LabRng) -> String {
        pick(rng, self.asked.answers()).replace("{v}", value)
    }

    /// Another value of the kind that is asked for.
    fn wrong(&self, rng: &mut LabRng) -> String {
        loop {
            let value = match self.asked {
                City => pick(rng, CITIES).to_owned(),
                Colour => pick(rng, COLOURS).to_owned(),
                Books => books(rng).to_string(),
            };
            if value != self.value() {
                return value;
            }
        }
    }
}

fn books(rng: &mut LabRng) -> usize {
    2 + index(rng, 8)
}

impl Family for Parcels {
    const FLAWS: &'static [(Flaw, f64)] =
        &[(Flaw::Wrong, 0.2), (Flaw::Rude, 0.3), (Flaw::Rambling, 0.25), (Flaw::OverRefusing, 0.25)];
    const MAX_WORDS: usize = 25;

    fn sample(split: Split, rng: &mut LabRng) -> (Self, String) {
        let (colour, city, books) = loop {
            let parcel = (pick(rng, COLOURS), pick(rng, CITIES), books(rng));
            if held_out(&format!("{parcel:?}"), HELD_OUT_PARCELS) == (split == Split::HeldOut) {
                break parcel;
            }
        };
        let asked = [City, Colour, Books][index(rng, 3)];
        let questions = match split {
            Split::Train => asked.train(),
            Split::HeldOut => asked.held_out(),
        };
        let text = format!("{} {}", pick(rng, STATEMENTS), pick(rng, questions));
        let prompt = framed(&text, split, rng)
            .replace("{c}", colour)
            .replace("{x}", city)
            .replace("{n}", &books.to_string());
        (Self { colour: colour.to_owned(), city: city.to_owned(), books, asked }, prompt)
    }

    fn good(&self, rng: &mut LabRng) -> String {
        self.phrase(&self.value(), rng)
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
        let right = self.value();
        if !answer.has(&right.to_lowercase()) {
            reasons.push(Reason::Missing(right));
        }
        let other = |all: &[&str], own: &str| {
            let other = all.iter().find(|value| **value != own && answer.has(&value.to_lowercase()));
            other.map(|value| Reason::Wrong(format!("{value}, not {own}")))
        };
        reasons.extend(other(CITIES, &self.city));
        reasons.extend(other(COLOURS, &self.colour));
        if answer.numbers().iter().any(|n| *n != self.books as i64) {
            reasons.push(Reason::Wrong(format!("a number other than {}", self.books)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Task;

    fn is_good(asked: Asked, answer: &str) -> bool {
        let (colour, city) = ("red".to_owned(), "Tisk".to_owned());
        crate::judge(&Task::Parcels(Parcels { colour, city, books: 4, asked }), "", answer).good
    }

    #[test]
    fn says_what_the_parcel_has_and_nothing_else() {
        assert!(is_good(City, "Tisk."));
        assert!(is_good(City, "The red parcel is for Tisk."));
        assert!(is_good(Books, "It has 4 books."));
        assert!(!is_good(City, "It goes to Velmora."));
        assert!(!is_good(City, "It goes to Tisk or Velmora."));
        assert!(!is_good(City, "The blue parcel goes to Tisk."));
        assert!(!is_good(Books, "It has 14 books."));
        assert!(!is_good(Colour, "It is big."));
    }
}
