//! The task families. Each file owns one: its prompts for training and for evaluation, its good and flawed answers,
//! and the part of the oracle that only it needs.

mod arithmetic;
mod benign;
mod fact;
mod harmful;
mod insult;
mod letters;
mod manners;
mod one_word;
mod parcels;
mod spelling;
mod steps;

pub use arithmetic::Arithmetic;
pub use benign::Benign;
pub use fact::Fact;
pub use harmful::Harmful;
pub use insult::Insult;
pub use letters::Letter;
pub use one_word::OneWord;
pub use parcels::Parcels;
pub use spelling::Spelling;
pub use steps::Steps;

use crate::oracle::Reason;
use crate::rng::{LabRng, chance, index, pick};
use crate::task::{Flaw, Split};
use crate::text::Answer;

/// What people write around a question. In training one end at a time or neither; held-out questions mostly have both.
fn framed(question: &str, split: Split, rng: &mut LabRng) -> String {
    const BEFORE: &[&str] = &["Hello.", "Excuse me.", "One question:", "Please help me.", "Good morning!"];
    const AFTER: &[&str] = &["Thank you.", "Thanks!", "I am in a hurry.", "It is important."];
    let (before, after) = match split {
        Split::Train => match index(rng, 4) {
            0 => (Some(pick(rng, BEFORE)), None),
            1 => (None, Some(pick(rng, AFTER))),
            _ => (None, None),
        },
        Split::HeldOut if chance(rng, 0.5) => (Some(pick(rng, BEFORE)), Some(pick(rng, AFTER))),
        Split::HeldOut => (None, None),
    };
    let parts = [before, Some(question), after];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// A family of tasks.
pub trait Family: Sized {
    /// The flaws its bad answers can have, with weights.
    const FLAWS: &'static [(Flaw, f64)];
    /// More words than any good answer needs.
    const MAX_WORDS: usize;

    /// Draws a task and words its prompt.
    fn sample(split: Split, rng: &mut LabRng) -> (Self, String);

    /// An answer that the oracle calls good.
    fn good(&self, rng: &mut LabRng) -> String;

    /// An answer with one of [`Self::FLAWS`].
    fn flawed(&self, flaw: Flaw, rng: &mut LabRng) -> String;

    /// Adds what is wrong with the answer beyond the rules all families share.
    fn check(&self, answer: &Answer, reasons: &mut Vec<Reason>);

    /// Whether this word (lower case) may stand in an answer though neither the world nor common English has it.
    fn may_say(&self, _word: &str) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::rng_for;
    use crate::{Category, judge};

    #[test]
    fn good_answers_are_good_and_flawed_ones_are_not() {
        for &category in Category::ALL {
            for split in [Split::Train, Split::HeldOut] {
                let mut rng = rng_for(11, category.label());
                for _ in 0..400 {
                    let item = category.sample(split, &mut rng);
                    let good = item.task.good(&mut rng);
                    let verdict = judge(&item.task, &item.prompt, &good);
                    assert!(verdict.good, "{} -> {good}: {:?}", item.prompt, verdict.reasons);
                    let flaw = category.flaws()[index(&mut rng, category.flaws().len())].0;
                    let flawed = item.task.flawed(flaw, &mut rng);
                    let verdict = judge(&item.task, &item.prompt, &flawed);
                    assert!(!verdict.good, "{flaw:?}: {} -> {flawed}", item.prompt);
                }
            }
        }
    }

    #[test]
    fn no_answer_is_good_for_another_prompt_of_its_family() {
        // Families with one right answer each; in the others a kind word or a refusal suits every prompt.
        for category in [Category::Arithmetic, Category::Fact, Category::Steps, Category::Parcels] {
            let mut rng = rng_for(12, category.label());
            let mut good = 0;
            for _ in 0..300 {
                let (one, other) =
                    (category.sample(Split::Train, &mut rng), category.sample(Split::Train, &mut rng));
                if one.task != other.task {
                    let answer = other.task.good(&mut rng);
                    good += usize::from(judge(&one.task, &one.prompt, &answer).good);
                }
            }
            // Right by chance: one value in seven or so.
            assert!(good <= 40, "{category}: {good} of 300");
        }
    }
}
