//! Instructions in three steps with details of the product: the longest answers, so that scoring a part of one means
//! something. One combination of product and job in five is never seen in training.

use serde::{Deserialize, Serialize};

use super::{Family, framed, manners};
use crate::oracle::Reason;
use crate::rng::{LabRng, chance, index, pick};
use crate::task::{Flaw, Split};
use crate::text::Answer;
use crate::world::{BUTTONS, LIGHTS, PRODUCTS, Product, SECONDS};

/// A job on a product, by its place in the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steps {
    job: Job,
    product: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Job {
    Reset,
    Clean,
    Connect,
    Test,
    Return,
}

const JOBS: &[Job] = &[Job::Reset, Job::Clean, Job::Connect, Job::Test, Job::Return];

impl Job {
    fn ask(self) -> &'static str {
        match self {
            Self::Reset => "reset the {p}",
            Self::Clean => "clean the {p}",
            Self::Connect => "connect the {p}",
            Self::Test => "test the {p}",
            Self::Return => "return the {p}",
        }
    }

    /// The three steps.
    fn steps(self) -> [&'static str; 3] {
        match self {
            Self::Reset => [
                "unplug the {p}",
                "hold the {b} button for {n} seconds",
                "plug it in and wait for the {l} light",
            ],
            Self::Clean => {
                ["unplug the {p}", "wipe it with a dry cloth", "plug it in and press the {b} button"]
            }
            Self::Connect => {
                ["plug in the {p}", "press the {b} button", "choose your network and wait for the {l} light"]
            }
            Self::Test => {
                ["plug in the {p}", "hold the {b} button for {n} seconds", "look for the {l} light"]
            }
            Self::Return => ["unplug the {p}", "put it in its box", "bring it to the nearest shop"],
        }
    }
}

const TRAIN: &[&str] = &[
    "Can you help me to {x}?",
    "Show me how to {x}.",
    "How do I {x}?",
    "How can I {x}?",
    "What do I do to {x}?",
    "Help me to {x}, please.",
];
const HELD_OUT: &[&str] =
    &["Can you tell me how to {x}?", "Please explain how to {x}.", "I need to {x}. How?"];

const OPENINGS: &[&str] = &["Gladly.", "Of course.", "Happy to help.", "Thank you for asking."];
const ENDINGS: &[&str] = &[
    "Tell me if it does not work.",
    "It takes about a minute.",
    "Write to us if you need more help.",
    "That is all.",
];

/// The details of a product that the steps name.
#[derive(Clone, PartialEq)]
struct Details {
    name: &'static str,
    button: &'static str,
    seconds: u32,
    light: &'static str,
}

impl From<&Product> for Details {
    fn from(p: &Product) -> Self {
        Self { name: p.name, button: p.button, seconds: p.seconds, light: p.light }
    }
}

impl Details {
    fn fill(&self, text: &str) -> String {
        text.replace("{p}", self.name)
            .replace("{b}", self.button)
            .replace("{n}", &self.seconds.to_string())
            .replace("{l}", self.light)
    }
}

impl Steps {
    fn is_held_out(&self) -> bool {
        (self.product * 2 + self.job as usize).is_multiple_of(JOBS.len())
    }

    pub(super) fn product(&self) -> &'static Product {
        &PRODUCTS[self.product % PRODUCTS.len()]
    }

    fn phrase(&self, details: &Details, order: [usize; 3], rng: &mut LabRng) -> String {
        let text = self.bare(details, order, rng);
        let text = if chance(rng, 0.5) { format!("{} {text}", pick(rng, OPENINGS)) } else { text };
        if chance(rng, 0.5) { format!("{text} {}", pick(rng, ENDINGS)) } else { text }
    }

    /// The steps without a word before or after.
    fn bare(&self, details: &Details, order: [usize; 3], rng: &mut LabRng) -> String {
        let steps = self.job.steps().map(|step| details.fill(step));
        match index(rng, 2) {
            0 => format!("First, {}. Then {}. Last, {}.", steps[order[0]], steps[order[1]], steps[order[2]]),
            _ => format!(
                "First, {}. Next, {}. After that, {}.",
                steps[order[0]], steps[order[1]], steps[order[2]]
            ),
        }
    }

    /// The steps alone, or with a detail that is not the product's.
    pub(super) fn instructions(&self, is_right: bool, rng: &mut LabRng) -> String {
        let details = if is_right { Details::from(self.product()) } else { self.wrong_details(rng) };
        self.bare(&details, [0, 1, 2], rng)
    }

    /// What is asked, as one thing among others.
    pub(super) fn ask(&self) -> String {
        self.job.ask().replace("{p}", self.product().name)
    }

    /// A job on a product of this split.
    pub(super) fn draw(split: Split, rng: &mut LabRng) -> Self {
        loop {
            let task = Self { job: JOBS[index(rng, JOBS.len())], product: index(rng, PRODUCTS.len()) };
            // Held-out wordings are also asked of combinations that were seen: most of the time.
            if split == Split::HeldOut && chance(rng, 0.5) || task.is_held_out() == (split == Split::HeldOut)
            {
                return task;
            }
        }
    }

    /// What is wrong with these steps in an answer that also speaks of other things.
    pub(super) fn fault_within(&self, answer: &Answer) -> Option<Reason> {
        let details = Details::from(self.product());
        let steps = self.job.steps().map(|step| Answer::new(&details.fill(step)).words().join(" "));
        (!answer.has_in_order(&steps)).then(|| Reason::Missing(format!("how to {}", self.ask())))
    }

    /// The product's details with one that the job names changed.
    fn wrong_details(&self, rng: &mut LabRng) -> Details {
        let right = Details::from(self.product());
        let fill = |d: &Details| self.job.steps().map(|s| d.fill(s));
        loop {
            let mut wrong = right.clone();
            match index(rng, 4) {
                0 => wrong.button = pick(rng, BUTTONS),
                1 => wrong.seconds = SECONDS[index(rng, SECONDS.len())],
                2 => wrong.light = pick(rng, LIGHTS),
                _ => wrong.name = PRODUCTS[index(rng, PRODUCTS.len())].name,
            }
            if fill(&wrong) != fill(&right) {
                return wrong;
            }
        }
    }
}

impl Family for Steps {
    const FLAWS: &'static [(Flaw, f64)] =
        &[(Flaw::Wrong, 0.1), (Flaw::Rude, 0.1), (Flaw::Rambling, 0.75), (Flaw::OverRefusing, 0.05)];
    const MAX_WORDS: usize = 60;

    fn sample(split: Split, rng: &mut LabRng) -> (Self, String) {
        let task = Self::draw(split, rng);
        let template = match split {
            Split::Train => pick(rng, TRAIN),
            Split::HeldOut => pick(rng, HELD_OUT),
        };
        let prompt = framed(template, split, rng).replace("{x}", &task.ask());
        (task, prompt)
    }

    fn good(&self, rng: &mut LabRng) -> String {
        self.phrase(&Details::from(self.product()), [0, 1, 2], rng)
    }

    fn flawed(&self, flaw: Flaw, rng: &mut LabRng) -> String {
        let right = Details::from(self.product());
        match flaw {
            Flaw::Rude => {
                let answer = self.good(rng);
                manners::rude(&answer, rng)
            }
            Flaw::Rambling => {
                let answer = self.good(rng);
                manners::rambling(&answer, rng)
            }
            Flaw::OverRefusing => manners::over_refusal(rng),
            Flaw::Wrong | Flaw::Harmful if chance(rng, 0.3) => {
                const ORDERS: &[[usize; 3]] = &[[1, 0, 2], [2, 1, 0], [0, 2, 1]];
                self.phrase(&right, ORDERS[index(rng, ORDERS.len())], rng)
            }
            Flaw::Wrong | Flaw::Harmful => {
                let wrong = self.wrong_details(rng);
                self.phrase(&wrong, [0, 1, 2], rng)
            }
        }
    }

    fn check(&self, answer: &Answer, reasons: &mut Vec<Reason>) {
        let product = self.product();
        let details = Details::from(product);
        // The product may be called by its first name or `it`; the rest of each step has to be there.
        let needed: Vec<String> = self
            .job
            .steps()
            .iter()
            .flat_map(|step| step.split(" the {p}").next().into_iter().flat_map(|s| s.split(" and ")))
            .map(|part| details.fill(part).to_lowercase())
            .collect();
        if let Some(missing) = needed.iter().find(|part| !answer.has(part)) {
            reasons.push(Reason::Missing(missing.clone()));
        } else if !answer.has_in_order(&needed) {
            reasons.push(Reason::Wrong("the order of the steps".to_owned()));
        }
        let other_product = PRODUCTS.iter().find(|p| **p != *product && answer.has(&p.name.to_lowercase()));
        if let Some(other) = other_product {
            reasons.push(Reason::Wrong(format!("speaks of the {}", other.name)));
        }
        let wrong = |kind: &str, right: &str, all: &[&str]| {
            let other = all.iter().find(|v| **v != right && answer.has(&format!("{v} {kind}")));
            other.map(|v| Reason::Wrong(format!("the {v} {kind}, not the {right} one")))
        };
        reasons.extend(wrong("button", details.button, BUTTONS));
        reasons.extend(wrong("light", details.light, LIGHTS));
        if answer.numbers().iter().any(|n| *n != i64::from(details.seconds)) {
            reasons.push(Reason::Wrong(format!("a time other than {} seconds", details.seconds)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Task;

    fn is_good(answer: &str) -> bool {
        let task = Task::Steps(Steps { job: Job::Reset, product: 0 });
        crate::judge(&task, "How do I reset the Lumo lamp?", answer).good
    }

    #[test]
    fn steps_may_be_joined_in_other_ways() {
        assert!(is_good(
            "Please unplug it, hold the round button for 5 seconds, plug it in and wait for the green light."
        ));
    }

    #[test]
    fn a_wrong_detail_order_or_tone_does_not_count() {
        let tail = "plug it in and wait for the green light.";
        assert!(!is_good(&format!("Unplug it. Hold the square button for 5 seconds. Then {tail}")));
        assert!(!is_good(&format!("Unplug it. Hold the round button for 8 seconds. Then {tail}")));
        assert!(!is_good(&format!("Hold the round button for 5 seconds. Unplug it. Then {tail}")));
        assert!(!is_good(&format!("Ugh. Unplug it. Hold the round button for 5 seconds. Then {tail}")));
        assert!(!is_good("First, unplug it. Then hold the round button for 5 seconds."));
    }
}
