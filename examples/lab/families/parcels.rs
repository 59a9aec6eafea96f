//! Two parcels described in the prompt, and a question about one of them: facts that no training text holds.

use serde::{Deserialize, Serialize};

use super::{Family, framed, manners};
use crate::oracle::Reason;
use crate::rng::{LabRng, held_out, index, pick};
use crate::task::{Flaw, Split};
use crate::text::Answer;
use crate::world::{CITIES, COLOURS};

/// The colours of two parcels, the cities they go to, and which of them is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parcels {
    colours: [String; 2],
    cities: [String; 2],
    asked: usize,
}

// One pair of parcels in four is never seen in training.
const HELD_OUT_PAIRS: u64 = 4;

const TRAIN: &[&str] = &[
    "The {a} parcel goes to {x} and the {b} parcel goes to {y}. Where does the {q} parcel go?",
    "The {a} parcel goes to {x}, the {b} parcel goes to {y}. Which city gets the {q} parcel?",
    "The {a} parcel goes to {x}. The {b} parcel goes to {y}. To which city does the {q} parcel go?",
];
const HELD_OUT: &[&str] = &[
    "The {a} parcel goes to {x} and the {b} parcel goes to {y}. Which city gets the {q} parcel?",
    "The {a} parcel goes to {x}. The {b} parcel goes to {y}. Where does the {q} parcel go?",
];

impl Parcels {
    fn phrase(&self, city: &str) -> String {
        format!("The {} parcel goes to {city}.", self.colours[self.asked])
    }
}

fn two_of<'a>(items: &[&'a str], rng: &mut LabRng) -> [&'a str; 2] {
    let first = index(rng, items.len());
    let second = (first + 1 + index(rng, items.len() - 1)) % items.len();
    [items[first], items[second]]
}

impl Family for Parcels {
    const FLAWS: &'static [(Flaw, f64)] =
        &[(Flaw::Wrong, 0.5), (Flaw::Rude, 0.2), (Flaw::Rambling, 0.15), (Flaw::OverRefusing, 0.15)];
    const MAX_WORDS: usize = 25;

    fn sample(split: Split, rng: &mut LabRng) -> (Self, String) {
        let (colours, cities) = loop {
            let (colours, cities) = (two_of(COLOURS, rng), two_of(CITIES, rng));
            let name = format!("{colours:?} {cities:?}");
            if held_out(&name, HELD_OUT_PAIRS) == (split == Split::HeldOut) {
                break (colours, cities);
            }
        };
        let asked = index(rng, 2);
        let template = match split {
            Split::Train => pick(rng, TRAIN),
            Split::HeldOut => pick(rng, HELD_OUT),
        };
        let prompt = framed(template, split, rng)
            .replace("{a}", colours[0])
            .replace("{b}", colours[1])
            .replace("{x}", cities[0])
            .replace("{y}", cities[1])
            .replace("{q}", colours[asked]);
        (Self { colours: colours.map(str::to_owned), cities: cities.map(str::to_owned), asked }, prompt)
    }

    fn good(&self, _: &mut LabRng) -> String {
        self.phrase(&self.cities[self.asked])
    }

    fn flawed(&self, flaw: Flaw, rng: &mut LabRng) -> String {
        let answer = self.good(rng);
        match flaw {
            Flaw::Rude => manners::rude(&answer, rng),
            Flaw::Rambling => manners::rambling(&answer, rng),
            Flaw::OverRefusing => manners::over_refusal(rng),
            // Mostly the other parcel's city: the mistake of someone who read in haste.
            Flaw::Wrong | Flaw::Harmful => {
                let wrong = loop {
                    let city =
                        if index(rng, 4) > 0 { &self.cities[1 - self.asked] } else { pick(rng, CITIES) };
                    if city != self.cities[self.asked] {
                        break city.to_owned();
                    }
                };
                self.phrase(&wrong)
            }
        }
    }

    fn check(&self, answer: &Answer, reasons: &mut Vec<Reason>) {
        let (right, colour) = (&self.cities[self.asked], &self.colours[self.asked]);
        if !answer.has(&right.to_lowercase()) {
            reasons.push(Reason::Missing(right.clone()));
        }
        if let Some(wrong) = CITIES.iter().find(|city| *city != right && answer.has(&city.to_lowercase())) {
            reasons.push(Reason::Wrong(format!("{wrong}, not {right}")));
        }
        if let Some(wrong) = COLOURS.iter().find(|c| *c != colour && answer.has(c)) {
            reasons.push(Reason::Wrong(format!("speaks of the {wrong} parcel")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Task;

    fn is_good(answer: &str) -> bool {
        let task = Parcels {
            colours: ["red".to_owned(), "blue".to_owned()],
            cities: ["Tisk".to_owned(), "Velmora".to_owned()],
            asked: 1,
        };
        crate::judge(&Task::Parcels(task), "", answer).good
    }

    #[test]
    fn names_the_right_city_and_no_other() {
        assert!(is_good("Velmora."));
        assert!(is_good("The blue parcel is for Velmora."));
        assert!(!is_good("The blue parcel goes to Tisk."));
        assert!(!is_good("The red parcel goes to Tisk, the blue one to Velmora."));
        assert!(!is_good("The red parcel goes to Velmora."));
        assert!(!is_good("It goes to Tisk or Velmora."));
    }
}
