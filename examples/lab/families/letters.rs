//! Letters about a product: an opening, five or six things that were asked for, an ending. The longest answers there are,
//! whose writers are careful or careless from the first sentence to the last, so that a part of one says something about the
//! rest. What is asked for are facts and instructions of the other families.

use serde::{Deserialize, Serialize};

use super::{Fact, Family, Steps, framed, manners};
use crate::oracle::{Reason, faults_of_manner};
use crate::rng::{LabRng, chance, index, pick, weighted};
use crate::task::{Flaw, Split};
use crate::text::Answer;
use crate::world::{PRODUCTS, SHOPS};

/// What a letter is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    facts: Vec<Fact>,
    steps: Steps,
    /// How many of the facts come before the instructions.
    place: usize,
}

/// How many of the six facts a letter gives.
const NUM_FACTS: [usize; 2] = [4, 5];
/// Share of writers who are careful.
const CAREFUL: f64 = 0.2;
/// How often a sentence of a careful and of a careless writer goes wrong.
const SLIPS: [f64; 2] = [0.2, 0.75];
/// How often it goes wrong in the way the writer is given to.
const HABIT: f64 = 0.6;

const TRAIN: &[&str] = &[
    "Write a letter about the {p}: {x}.",
    "Please write to me about the {p}: {x}.",
    "I have a few questions about the {p}: {x}.",
    "The {p}, please: {x}.",
];
const HELD_OUT: &[&str] =
    &["Please send me a letter about the {p}: {x}.", "Tell me about the {p}, please: {x}."];

const OPENINGS: &[&str] = &[
    "Thank you for your letter about the {p}.",
    "It is good to hear from you about the {p}.",
    "Of course we can help you with the {p}.",
    "We are happy to answer your questions about the {p}.",
];
/// One before each thing that was asked for: more of them than a letter needs.
const LEADS: &[&str] = &[
    "Here is what you asked for.",
    "Let me help with that.",
    "That is a good question.",
    "I am glad that you ask.",
    "This is easy to say.",
    "You may want to know this too.",
    "Now to what you asked next.",
    "I can tell you more.",
];
const ENDINGS: &[&str] = &[
    "Write to us if you need more help.",
    "Tell me if you have more questions.",
    "We wish you a very good day.",
    "Thank you, and until next time.",
];

/// Sentences that stand only once in a letter.
struct Once<'a> {
    used: Vec<&'static str>,
    rng: &'a mut LabRng,
}

impl Once<'_> {
    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        let fresh: Vec<&'static str> =
            from.iter().copied().filter(|line| !self.used.contains(line)).collect();
        let from = if fresh.is_empty() { from } else { &fresh };
        let line = from[index(self.rng, from.len())];
        self.used.push(line);
        line
    }
}

impl Letter {
    /// The letter with what is wrong with each of its sentences: the opening, each thing asked for, the ending.
    fn write(&self, slips: &[Option<Flaw>], rng: &mut LabRng) -> String {
        let mut once = Once { used: Vec::new(), rng };
        let mut manner = |good: &[&'static str], rude: &[&'static str], slip: Option<Flaw>| match slip {
            Some(Flaw::Rude | Flaw::Harmful | Flaw::OverRefusing) => once.pick(rude),
            Some(Flaw::Rambling) => once.pick(manners::CHATTER),
            Some(Flaw::Wrong) | None => once.pick(good),
        };
        // What is false stands in the parts; an opening or an ending that goes wrong is rude.
        let at_the_end =
            |slip: Option<Flaw>| slip.map(|slip| if slip == Flaw::Wrong { Flaw::Rude } else { slip });
        let last = slips.len() - 1;
        let mut lines = vec![manner(OPENINGS, manners::RUDE_OPENINGS, at_the_end(slips[0]))];
        lines.extend(slips[1..last].iter().map(|&slip| manner(LEADS, manners::RUDE_OPENINGS, slip)));
        lines.push(manner(ENDINGS, manners::RUDE_ENDINGS, at_the_end(slips[last])));
        let mut text = lines[0].to_owned();
        for (part, (line, slip)) in lines[1..last].iter().zip(&slips[1..last]).enumerate() {
            let is_right = *slip != Some(Flaw::Wrong);
            text = format!("{text} {line} {}", self.part(part, is_right, rng));
        }
        format!("{text} {}", lines[last]).replace("{p}", self.steps.product().name)
    }

    fn num_sentences(&self) -> usize {
        self.facts.len() + 3
    }

    /// One thing that was asked for.
    fn part(&self, part: usize, is_right: bool, rng: &mut LabRng) -> String {
        let fact = match part.cmp(&self.place) {
            std::cmp::Ordering::Less => &self.facts[part],
            std::cmp::Ordering::Equal => return self.steps.instructions(is_right, rng),
            std::cmp::Ordering::Greater => &self.facts[part - 1],
        };
        if is_right { fact.good(rng) } else { fact.flawed(Flaw::Wrong, rng) }
    }
}

impl Family for Letter {
    const FLAWS: &'static [(Flaw, f64)] = &[(Flaw::Rude, 0.4), (Flaw::Rambling, 0.35), (Flaw::Wrong, 0.25)];
    const MAX_WORDS: usize = 220;

    fn sample(split: Split, rng: &mut LabRng) -> (Self, String) {
        let steps = Steps::draw(split, rng);
        let product = PRODUCTS.iter().position(|product| product == steps.product()).unwrap_or_default();
        let mut facts = Fact::all(product, index(rng, SHOPS.len()));
        let wanted = NUM_FACTS[index(rng, NUM_FACTS.len())];
        for at in 0..wanted {
            let other = at + index(rng, facts.len() - at);
            facts.swap(at, other);
        }
        facts.truncate(wanted);
        let place = index(rng, wanted + 1);
        let mut topics: Vec<String> = facts.iter().map(Fact::topic).collect();
        topics.insert(place, format!("how to {}", steps.ask()));
        let last = topics.pop().unwrap_or_default();
        let template = match split {
            Split::Train => pick(rng, TRAIN),
            Split::HeldOut => pick(rng, HELD_OUT),
        };
        let prompt = framed(template, split, rng)
            .replace("{p}", steps.product().name)
            .replace("{x}", &format!("{} and {last}", topics.join(", ")));
        (Self { facts, steps, place }, prompt)
    }

    fn good(&self, rng: &mut LabRng) -> String {
        self.write(&vec![None; self.num_sentences()], rng)
    }

    /// A letter by a writer given to this flaw, who is careful or not.
    fn flawed(&self, flaw: Flaw, rng: &mut LabRng) -> String {
        loop {
            let rate = SLIPS[usize::from(!chance(rng, CAREFUL))];
            let slip = |rng: &mut LabRng| {
                let weights: Vec<f64> = Self::FLAWS.iter().map(|(_, weight)| *weight).collect();
                let other = Self::FLAWS[weighted(rng, &weights)].0;
                chance(rng, rate).then(|| if chance(rng, HABIT) { flaw } else { other })
            };
            let slips: Vec<Option<Flaw>> = (0..self.num_sentences()).map(|_| slip(rng)).collect();
            if slips.iter().any(Option::is_some) {
                return self.write(&slips, rng);
            }
        }
    }

    /// One reason for each thing that is missing or wrong, and for each sentence without manners.
    fn check(&self, answer: &Answer, reasons: &mut Vec<Reason>) {
        reasons.extend(self.facts.iter().filter_map(|fact| fact.fault_within(answer)));
        reasons.extend(self.steps.fault_within(answer));
        let known =
            reasons.iter().filter(|reason| matches!(reason, Reason::Rude(_) | Reason::Rambles)).count();
        reasons.extend(faults_of_manner(answer).into_iter().skip(known));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::rng_for;
    use crate::{Category, Split, Task, judge};

    #[test]
    fn every_slip_is_a_fault() {
        let mut rng = rng_for(5, "letters");
        for _ in 0..200 {
            let item = Category::Letters.sample(Split::Train, &mut rng);
            let Task::Letters(letter) = &item.task else { panic!("{item:?}") };
            let mut slips = vec![None; letter.num_sentences()];
            for number in 0..4 {
                let text = letter.write(&slips, &mut rng);
                let verdict = judge(&item.task, &item.prompt, &text);
                assert_eq!(verdict.reasons.len(), number, "{text}: {:?}", verdict.reasons);
                let at = (0..slips.len()).cycle().skip(index(&mut rng, slips.len()));
                let at = at.into_iter().find(|&at| slips[at].is_none()).unwrap();
                slips[at] = Some([Flaw::Rude, Flaw::Rambling, Flaw::Wrong][index(&mut rng, 3)]);
            }
        }
    }

    #[test]
    fn who_begins_badly_goes_on_badly() {
        let mut rng = rng_for(6, "letters");
        let mut rest: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
        for _ in 0..500 {
            let item = Category::Letters.sample(Split::Train, &mut rng);
            let text = item.task.flawed(Flaw::Rude, &mut rng);
            let sentences = Answer::new(&text).sentences();
            let faults = |part: &[String]| faults_of_manner(&Answer::new(&part.join(". "))).len();
            let (first, last) = sentences.split_at(2);
            rest[usize::from(faults(first) > 0)].push(faults(last) as f64);
        }
        let [well, badly] = rest.map(|faults| faults.iter().sum::<f64>() / faults.len() as f64);
        assert!(badly > well + 1.0, "{badly} after a bad beginning, {well} after a good one");
    }
}
