//! One type over all task families: a category, a prompt, what the oracle must know about it, and the kinds of flaws.
//! Leaves what the families ask and accept to [`crate::families`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::families::{
    Arithmetic, Benign, Fact, Family, Harmful, Insult, Letter, OneWord, Parcels, Spelling, Steps,
};
use crate::rng::{LabRng, weighted};
use crate::text::Answer;

/// Training or evaluation. The two share no phrasing, and no operands, requests or facts where a model can
/// generalise over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// What the policy and the reward model may learn from.
    Train,
    /// Only for evaluation.
    HeldOut,
}

/// What is wrong with an answer made to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flaw {
    /// Unkind to the person who asks.
    Rude,
    /// Says something false.
    Wrong,
    /// Does not come to the point, or does not stop there.
    Rambling,
    /// Refuses something harmless.
    OverRefusing,
    /// Helps with something harmful.
    Harmful,
}

macro_rules! tasks {
    ($($(#[$doc:meta])* $name:ident($family:ty) = $label:literal, $share:literal;)*) => {
        /// A kind of task.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Category { $($(#[$doc])* $name,)* }

        /// What was asked, as the oracle needs to know it.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Task { $($(#[$doc])* $name($family),)* }

        impl Category {
            /// Every category of every world, in the order of reports.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its share of its world's training text: tasks that need practice have more.
            pub fn train_share(self) -> f64 {
                match self { $(Self::$name => $share,)* }
            }

            /// Its name in reports.
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// Draws a task and its prompt.
            pub fn sample(self, split: Split, rng: &mut LabRng) -> Item {
                match self {
                    $(Self::$name => {
                        let (task, prompt) = <$family as Family>::sample(split, rng);
                        Item { category: self, prompt, task: Task::$name(task) }
                    })*
                }
            }

            /// The flaws of this family's bad answers, with their weights.
            pub fn flaws(self) -> &'static [(Flaw, f64)] {
                match self { $(Self::$name => <$family as Family>::FLAWS,)* }
            }
        }

        impl Task {
            /// The kind of task.
            pub fn category(&self) -> Category {
                match self { $(Self::$name(_) => Category::$name,)* }
            }

            /// An answer that the oracle calls good.
            pub fn good(&self, rng: &mut LabRng) -> String {
                match self { $(Self::$name(task) => task.good(rng),)* }
            }

            /// An answer with this flaw, which is one of the category's [`Category::flaws`].
            pub fn flawed(&self, flaw: Flaw, rng: &mut LabRng) -> String {
                match self { $(Self::$name(task) => task.flawed(flaw, rng),)* }
            }

            pub(crate) fn check(&self, answer: &Answer, reasons: &mut Vec<crate::Reason>) {
                match self { $(Self::$name(task) => task.check(answer, reasons),)* }
            }

            pub(crate) fn may_say(&self, word: &str) -> bool {
                match self { $(Self::$name(task) => task.may_say(word),)* }
            }

            pub(crate) fn max_words(&self) -> usize {
                match self { $(Self::$name(_) => <$family as Family>::MAX_WORDS,)* }
            }
        }
    };
}

tasks! {
    /// An insult, to be met kindly.
    Insult(Insult) = "insult", 0.05;
    /// Two-digit sums and differences.
    Arithmetic(Arithmetic) = "arithmetic", 0.28;
    /// Reversing, capitals, counting, first and last of a few letters.
    Spelling(Spelling) = "spelling", 0.20;
    /// Facts about the company's products and cities.
    Fact(Fact) = "fact", 0.11;
    /// A question about a parcel that the prompt itself describes.
    Parcels(Parcels) = "parcels", 0.12;
    /// Harmless, though it sounds harmful.
    Benign(Benign) = "benign", 0.06;
    /// Harmful, to be refused.
    Harmful(Harmful) = "harmful", 0.05;
    /// One word and no more.
    OneWord(OneWord) = "one-word", 0.06;
    /// Instructions in several steps.
    Steps(Steps) = "steps", 0.07;
    /// Letters of several parts.
    Letters(Letter) = "letters", 1.0;
}

/// What a model is made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum World {
    /// Short answers of nine kinds: the demo.
    #[default]
    Demo,
    /// Letters of a hundred tokens and more.
    Letters,
}

impl World {
    /// Its categories, in the order of reports.
    pub fn categories(self) -> &'static [Category] {
        match self {
            Self::Demo => &Category::ALL[..Category::ALL.len() - 1],
            Self::Letters => &[Category::Letters],
        }
    }

    /// Draws a category by its training share.
    pub fn draw(self, rng: &mut LabRng) -> Category {
        let shares: Vec<f64> = self.categories().iter().map(|c| c.train_share()).collect();
        self.categories()[weighted(rng, &shares)]
    }

    /// More tokens than any good answer needs.
    pub fn max_new_tokens(self) -> usize {
        match self {
            Self::Demo => 96,
            Self::Letters => 288,
        }
    }
}

impl Category {
    /// Draws one of its flaws.
    pub fn draw_flaw(self, rng: &mut LabRng) -> Flaw {
        let weights: Vec<f64> = self.flaws().iter().map(|(_, weight)| *weight).collect();
        self.flaws()[weighted(rng, &weights)].0
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A prompt together with what the oracle needs to judge answers to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The kind of task.
    pub category: Category,
    /// What the person writes.
    pub prompt: String,
    /// What was asked.
    pub task: Task,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::rng::rng_for;

    fn prompts(category: Category, split: Split) -> HashSet<String> {
        let mut rng = rng_for(3, category.label());
        (0..3000).map(|_| category.sample(split, &mut rng).prompt).collect()
    }

    #[test]
    fn held_out_prompts_are_never_training_prompts() {
        for &category in Category::ALL {
            let train = prompts(category, Split::Train);
            let held_out = prompts(category, Split::HeldOut);
            assert!(train.is_disjoint(&held_out), "{category}");
            assert!(held_out.len() >= 30, "{category} has only {} held-out prompts", held_out.len());
        }
    }

    #[test]
    fn training_shares_sum_to_one() {
        for world in [World::Demo, World::Letters] {
            let sum: f64 = world.categories().iter().map(|c| c.train_share()).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{world:?}: {sum}");
        }
    }

    #[test]
    fn items_survive_json() {
        let mut rng = rng_for(3, "json");
        for &category in Category::ALL {
            let item = category.sample(Split::Train, &mut rng);
            let json = serde_json::to_string(&item).unwrap();
            assert_eq!(serde_json::from_str::<Item>(&json).unwrap(), item);
        }
    }
}
