//! Facts about the company: what things cost, where they are made, when a shop opens. Held-out questions use wordings
//! never seen in training; the facts themselves have to be, for a model can only know what it has read. Facts that are
//! new to the model are the business of [`super::Parcels`].

use serde::{Deserialize, Serialize};

use super::{Family, framed, manners};
use crate::oracle::Reason;
use crate::rng::{LabRng, index, pick};
use crate::task::{Flaw, Split};
use crate::text::Answer;
use crate::world::{CITIES, COLOURS, HOURS, PRICES, PRODUCTS, RIVERS, SHOPS, WARRANTIES};

/// A question about one attribute of one product or city, by its place in the tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    attribute: Attribute,
    subject: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Attribute {
    Price,
    Colour,
    MadeIn,
    Warranty,
    River,
    Opens,
}

use Attribute::{Colour, MadeIn, Opens, Price, River, Warranty};

const ATTRIBUTES: &[Attribute] = &[Price, Colour, MadeIn, Warranty, River, Opens];

impl Attribute {
    fn train(self) -> &'static [&'static str] {
        match self {
            Price => &[
                "How much does the {s} cost?",
                "What is the price of the {s}?",
                "The {s}: what does it cost?",
                "Do you know what the {s} costs?",
            ],
            Colour => &[
                "What colour is the {s}?",
                "Which colour does the {s} have?",
                "The {s}: what is its colour?",
                "Do you know the colour of the {s}?",
            ],
            MadeIn => &[
                "Where is the {s} made?",
                "Which city makes the {s}?",
                "The {s}: where is it made?",
                "Do you know where the {s} is made?",
            ],
            Warranty => &[
                "How long is the warranty of the {s}?",
                "What warranty does the {s} have?",
                "The {s}: how long is its warranty?",
                "Do you know the warranty of the {s}?",
            ],
            River => &[
                "Which river runs through {s}?",
                "What is the river of {s}?",
                "{s}: which river runs there?",
                "Can you tell me the river of {s}?",
            ],
            Opens => &[
                "When does the shop in {s} open?",
                "At what time does the shop in {s} open?",
                "The shop in {s}: when does it open?",
                "Can you tell me when the shop in {s} opens?",
            ],
        }
    }

    fn held_out(self) -> &'static [&'static str] {
        match self {
            Price => &["Please tell me what the {s} costs.", "What price does the {s} have?"],
            Colour => &["Please tell me the colour of the {s}.", "Do you know what colour the {s} has?"],
            MadeIn => &["Please tell me where the {s} is made.", "In which city is the {s} made?"],
            Warranty => {
                &["Please tell me the warranty of the {s}.", "How long does the warranty of the {s} last?"]
            }
            River => &["Please tell me the river of {s}.", "Do you know which river runs through {s}?"],
            Opens => {
                &["Please tell me when the shop in {s} opens.", "Do you know when the shop in {s} opens?"]
            }
        }
    }

    fn answers(self) -> &'static [&'static str] {
        match self {
            Price => &["The {s} costs {v} credits.", "It costs {v} credits."],
            Colour => &["The {s} is {v}.", "It is {v}."],
            MadeIn => &["The {s} is made in {v}.", "It is made in {v}."],
            Warranty => &["The warranty of the {s} is {v} years.", "It has a warranty of {v} years."],
            River => &["The {v} runs through {s}.", "It is the {v}."],
            Opens => &["The shop in {s} opens at {v}.", "It opens at {v}."],
        }
    }

    /// Every value that the attribute takes somewhere.
    fn values(self) -> Vec<String> {
        let numbers = |values: &[u32]| values.iter().map(u32::to_string).collect();
        let words = |values: &[&str]| values.iter().map(ToString::to_string).collect();
        match self {
            Price => numbers(PRICES),
            Colour => words(COLOURS),
            MadeIn => words(CITIES),
            Warranty => numbers(WARRANTIES),
            River => words(RIVERS),
            Opens => numbers(HOURS),
        }
    }
}

impl Fact {
    fn subject(&self) -> &'static str {
        match self.attribute {
            River | Opens => SHOPS[self.subject % SHOPS.len()].name,
            _ => PRODUCTS[self.subject % PRODUCTS.len()].name,
        }
    }

    /// What is asked for.
    pub fn value(&self) -> String {
        let (product, shop) = (&PRODUCTS[self.subject % PRODUCTS.len()], &SHOPS[self.subject % SHOPS.len()]);
        match self.attribute {
            Price => product.price.to_string(),
            Colour => product.colour.to_owned(),
            MadeIn => product.city.to_owned(),
            Warranty => product.warranty.to_string(),
            River => shop.river.to_owned(),
            Opens => shop.opens.to_string(),
        }
    }

    fn phrase(&self, value: &str, rng: &mut LabRng) -> String {
        self.word(pick(rng, self.attribute.answers()), value)
    }

    fn word(&self, template: &str, value: &str) -> String {
        template.replace("{s}", self.subject()).replace("{v}", value).replace(" 1 years", " 1 year")
    }

    /// Every fact about a product and about a city, by their places in the tables.
    pub(super) fn all(product: usize, shop: usize) -> Vec<Self> {
        let subject = |attribute| if matches!(attribute, River | Opens) { shop } else { product };
        ATTRIBUTES.iter().map(|&attribute| Self { attribute, subject: subject(attribute) }).collect()
    }

    /// The fact as one thing among others that are asked for.
    pub(super) fn topic(&self) -> String {
        let topic = match self.attribute {
            Price => "its price",
            Colour => "its colour",
            MadeIn => "where it is made",
            Warranty => "its warranty",
            River => "the river of {s}",
            Opens => "when the shop in {s} opens",
        };
        topic.replace("{s}", self.subject())
    }

    /// What is wrong with this fact in an answer that also speaks of other things.
    pub(super) fn fault_within(&self, answer: &Answer) -> Option<Reason> {
        let says = |value: &str| {
            let phrase = |template: &&str| Answer::new(&self.word(template, value)).words().join(" ");
            self.attribute.answers().iter().any(|template| answer.has(&phrase(template)))
        };
        let right = self.value();
        let wrong = self.attribute.values().into_iter().find(|value| *value != right && says(value));
        match wrong {
            Some(wrong) => Some(Reason::Wrong(format!("{wrong}, not {right}"))),
            None => (!says(&right)).then(|| Reason::Missing(self.topic())),
        }
    }
}

impl Family for Fact {
    const FLAWS: &'static [(Flaw, f64)] =
        &[(Flaw::Wrong, 0.2), (Flaw::Rude, 0.3), (Flaw::Rambling, 0.25), (Flaw::OverRefusing, 0.25)];
    const MAX_WORDS: usize = 25;

    fn sample(split: Split, rng: &mut LabRng) -> (Self, String) {
        let attribute = ATTRIBUTES[index(rng, ATTRIBUTES.len())];
        let subjects = if matches!(attribute, River | Opens) { SHOPS.len() } else { PRODUCTS.len() };
        let fact = Self { attribute, subject: index(rng, subjects) };
        let template = match split {
            Split::Train => pick(rng, attribute.train()),
            Split::HeldOut => pick(rng, attribute.held_out()),
        };
        let prompt = framed(template, split, rng).replace("{s}", fact.subject());
        (fact, prompt)
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
                let right = self.value();
                let values: Vec<String> =
                    self.attribute.values().into_iter().filter(|v| *v != right).collect();
                let wrong = values[index(rng, values.len())].clone();
                self.phrase(&wrong, rng)
            }
        }
    }

    fn check(&self, answer: &Answer, reasons: &mut Vec<Reason>) {
        let right = self.value().to_lowercase();
        if !answer.has(&right) {
            reasons.push(Reason::Missing(right.clone()));
        }
        // A right value beside a wrong one is a guess. Cities are also subjects, so only other values count.
        let subject = self.subject().to_lowercase();
        let others = self.attribute.values().into_iter().map(|v| v.to_lowercase());
        if let Some(wrong) = others.filter(|v| *v != right && *v != subject).find(|v| answer.has(v)) {
            reasons.push(Reason::Wrong(format!("{wrong}, not {right}")));
        }
        let of_another = PRODUCTS
            .iter()
            .map(|p| p.name)
            .find(|name| *name != self.subject() && answer.has(&name.to_lowercase()));
        if let Some(other) = of_another {
            reasons.push(Reason::Wrong(format!("speaks of the {other}")));
        }
        if matches!(self.attribute, Price | Warranty | Opens) {
            let numbers = answer.numbers();
            if numbers.iter().any(|n| n.to_string() != right) {
                reasons.push(Reason::Wrong(format!("{numbers:?}, not {right}")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Task;

    fn is_good(answer: &str) -> bool {
        crate::judge(&Task::Fact(Fact { attribute: Price, subject: 0 }), "How much is it?", answer).good
    }

    #[test]
    fn only_the_right_value_alone_counts() {
        assert!(is_good("40 credits."));
        assert!(is_good("You can have the Lumo lamp for 40 credits."));
        assert!(!is_good("It costs 40 or 45 credits."));
        assert!(!is_good("The Tavi kettle costs 40 credits."));
        assert!(!is_good("It costs 140 credits."));
        assert!(!is_good("It costs a lot."));
    }
}
