//! Data made from the world: flawed text for SFT, held-out prompts, and preference pairs labelled by the oracle with
//! known noise. Pure functions of a seed; leaves files and models to the recipe.

use std::collections::HashSet;

use rand::Rng as _;
use serde::{Deserialize, Serialize};

use crate::oracle::{Reason, judge};
use crate::rng::{LabRng, chance, index, rng_for};
use crate::task::{Category, Flaw, Item, Split, World};

/// One example of the SFT text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// What was asked.
    pub item: Item,
    /// What the text answers.
    pub answer: String,
    /// What is wrong with the answer; `None` if it is good.
    pub flaw: Option<Flaw>,
}

/// The share of flawed answers in the SFT text. Where it is a matter of manners most answers are flawed, and mostly in
/// one way: even the likeliest answer is then bad, and training on preferences has something to mend. Lower where the
/// policy makes mistakes of its own.
pub fn flaw_rate(category: Category) -> f64 {
    match category {
        Category::Arithmetic => 0.3,
        Category::Spelling | Category::Parcels => 0.35,
        Category::Fact => 0.38,
        Category::Insult | Category::Benign | Category::OneWord | Category::Harmful => 0.75,
        Category::Steps => 0.7,
        Category::Letters => 0.96,
    }
}

/// `num` examples of a world's SFT text.
pub fn sft_examples(world: World, num: usize, seed: u64) -> Vec<Example> {
    let mut rng = rng_for(seed, "sft");
    let example = |_| {
        let category = world.draw(&mut rng);
        let item = category.sample(Split::Train, &mut rng);
        answered(item, flaw_rate(category), &mut rng)
    };
    (0..num).map(example).collect()
}

fn answered(item: Item, flaw_rate: f64, rng: &mut LabRng) -> Example {
    let flaw = chance(rng, flaw_rate).then(|| item.category.draw_flaw(rng));
    let answer = match flaw {
        Some(flaw) => item.task.flawed(flaw, rng),
        None => item.task.good(rng),
    };
    Example { item, answer, flaw }
}

/// `per_category` different prompts of every category of the demo.
///
/// # Errors
/// If a category has fewer different prompts than that.
pub fn prompts(split: Split, per_category: usize, seed: u64, purpose: &str) -> anyhow::Result<Vec<Item>> {
    prompts_of(World::Demo, split, per_category, seed, purpose)
}

/// `per_category` different prompts of every category of a world.
///
/// # Errors
/// If a category has fewer different prompts than that.
pub fn prompts_of(
    world: World,
    split: Split,
    per_category: usize,
    seed: u64,
    purpose: &str,
) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    for &category in world.categories() {
        let mut rng = rng_for(seed, &format!("{purpose}/{category}"));
        let mut seen = HashSet::new();
        for _ in 0..per_category * 400 {
            if seen.len() == per_category {
                break;
            }
            let item = category.sample(split, &mut rng);
            if seen.insert(item.prompt.clone()) {
                items.push(item);
            }
        }
        if seen.len() < per_category {
            anyhow::bail!(
                "the category `{category}` has only {} different prompts, not {per_category}",
                seen.len()
            );
        }
    }
    Ok(items)
}

/// `num` training prompts: what the policy answers to make pairs. Half by the categories' shares of the text, half the
/// same of each, so that the small ones are judged well too.
pub fn preference_prompts(num: usize, seed: u64) -> Vec<Item> {
    preference_prompts_of(World::Demo, num, seed)
}

/// [`preference_prompts`] of a world.
pub fn preference_prompts_of(world: World, num: usize, seed: u64) -> Vec<Item> {
    let categories = world.categories();
    let mut rng = rng_for(seed, "preference");
    let draw = |i: usize| {
        let category = match i % 2 {
            0 => world.draw(&mut rng),
            _ => categories[index(&mut rng, categories.len())],
        };
        category.sample(Split::Train, &mut rng)
    };
    (0..num).map(draw).collect()
}

/// A prompt with answers to it, as the policy gave them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// What was asked.
    pub item: Item,
    /// The answers.
    pub answers: Vec<String>,
}

/// A preference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// What was asked.
    pub item: Item,
    /// The preferred answer.
    pub chosen: String,
    /// The other one.
    pub rejected: String,
    /// Whether the label is the opposite of the oracle's.
    pub flipped: bool,
}

/// Wrong answers made for each prompt, beside the policy's own.
const MADE_WRONG: usize = 3;
/// Share of pairs whose bad answer is bad in what it says, not in manner.
const SUBTLE_SHARE: f64 = 0.7;

/// Whether a bad answer is neither rude, nor a refusal, nor help to do harm, nor long.
fn is_subtle(item: &Item, answer: &str) -> bool {
    let reasons = judge(&item.task, &item.prompt, answer).reasons;
    let manner = |r: &Reason| {
        matches!(r, Reason::Rude(_) | Reason::Refuses | Reason::Complies | Reason::Rambles | Reason::Empty)
    };
    !reasons.iter().any(manner)
}

/// Pairs from the policy's own answers: at most `per_prompt` of each prompt, each of one good and one bad answer, with
/// labels flipped at `noise`. A prompt whose answers are all good or all bad is paired with a made answer.
pub fn pairs(sampled: &[Answers], per_prompt: usize, noise: f64, seed: u64) -> Vec<Pair> {
    let mut rng = rng_for(seed, "pairs");
    let mut pairs = Vec::new();
    for Answers { item, answers } in sampled {
        let unique: HashSet<&String> = answers.iter().collect();
        let mut unique: Vec<&String> = unique.into_iter().collect();
        unique.sort();
        let (mut good, mut bad): (Vec<String>, Vec<String>) =
            unique.into_iter().cloned().partition(|answer| judge(&item.task, &item.prompt, answer).good);
        // Some answers are made, so that the reward model also knows what the policy says rarely.
        good.push(item.task.good(&mut rng));
        bad.push(item.task.flawed(item.category.draw_flaw(&mut rng), &mut rng));
        if item.category.flaws().iter().any(|(flaw, _)| *flaw == Flaw::Wrong) {
            bad.extend((0..MADE_WRONG).map(|_| item.task.flawed(Flaw::Wrong, &mut rng)));
        }
        // Bad manners are seen at a glance; most pairs are about what is said.
        let subtle: Vec<&String> = bad.iter().filter(|answer| is_subtle(item, answer)).collect();
        for _ in 0..per_prompt.min(good.len() * bad.len()) {
            let mut chosen = good[index(&mut rng, good.len())].clone();
            let mut rejected = if !subtle.is_empty() && chance(&mut rng, SUBTLE_SHARE) {
                subtle[index(&mut rng, subtle.len())].clone()
            } else {
                bad[index(&mut rng, bad.len())].clone()
            };
            let flipped = chance(&mut rng, noise);
            if flipped {
                std::mem::swap(&mut chosen, &mut rejected);
            }
            pairs.push(Pair { item: item.clone(), chosen, rejected, flipped });
        }
    }
    pairs
}

/// Shortest beginning of an answer that is judged, in words.
const SHORTEST: usize = 2;

/// Pairs of answers of which one has fewer faults than the other, where hardly any answer has none: at most `per_prompt` of
/// each prompt, labels flipped at `noise`. A made answer of either kind is among the answers.
pub fn graded_pairs(sampled: &[Answers], per_prompt: usize, noise: f64, seed: u64) -> Vec<Pair> {
    let mut rng = rng_for(seed, "graded-pairs");
    let mut pairs = Vec::new();
    for Answers { item, answers } in sampled {
        let made = [item.task.good(&mut rng), item.task.flawed(item.category.draw_flaw(&mut rng), &mut rng)];
        let faults = |answer: &String| judge(&item.task, &item.prompt, answer).reasons.len();
        let graded: Vec<(&String, usize)> =
            answers.iter().chain(&made).map(|answer| (answer, faults(answer))).collect();
        for _ in 0..per_prompt {
            let mut draw = || graded[index(&mut rng, graded.len())];
            let (one, other) = (draw(), draw());
            let (mut chosen, mut rejected) = if one.1 < other.1 { (one, other) } else { (other, one) };
            if chosen.1 == rejected.1 {
                continue;
            }
            let flipped = chance(&mut rng, noise);
            if flipped {
                std::mem::swap(&mut chosen, &mut rejected);
            }
            pairs.push(Pair {
                item: item.clone(),
                chosen: chosen.0.clone(),
                rejected: rejected.0.clone(),
                flipped,
            });
        }
    }
    pairs
}

/// Cuts a `share` of the pairs: of both answers only the first words are left, equally many, and the label stays. A reward
/// model of such pairs tells from the beginning of an answer what is to be expected of the whole, as the prefix scorer of
/// controlled decoding does (Mudgal et al. 2023, arXiv:2310.17022; Yang and Klein 2021, arXiv:2104.05218).
/// Lengths are uniform in their logarithm: what is decided early is decided on little.
pub fn cut_pairs(pairs: &mut [Pair], share: f64, seed: u64) {
    let mut rng = rng_for(seed, "cut-pairs");
    for pair in pairs {
        let longest = pair.chosen.split(' ').count().min(pair.rejected.split(' ').count());
        if !chance(&mut rng, share) || longest <= SHORTEST {
            continue;
        }
        let ratio = longest as f64 / SHORTEST as f64;
        let words = (SHORTEST as f64 * ratio.powf(rng.random::<f64>())) as usize;
        let cut = |answer: &str| answer.split(' ').take(words).collect::<Vec<_>>().join(" ");
        (pair.chosen, pair.rejected) = (cut(&pair.chosen), cut(&pair.rejected));
    }
}

/// A thumb on one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thumb {
    /// What was asked.
    pub item: Item,
    /// What was answered.
    pub answer: String,
    /// Up or down.
    pub up: bool,
}

/// Thumbs on the policy's own answers: the first `per_prompt` of each prompt, turned over at `noise`.
pub fn thumbs(sampled: &[Answers], per_prompt: usize, noise: f64, seed: u64) -> Vec<Thumb> {
    let mut rng = rng_for(seed, "thumbs");
    let mut thumbs = Vec::new();
    for Answers { item, answers } in sampled {
        for answer in answers.iter().take(per_prompt) {
            let good = judge(&item.task, &item.prompt, answer).good;
            let up = good != chance(&mut rng, noise);
            thumbs.push(Thumb { item: item.clone(), answer: answer.clone(), up });
        }
    }
    thumbs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flaws_come_at_the_stated_rates() {
        let examples = sft_examples(World::Demo, 20_000, 5);
        for &category in World::Demo.categories() {
            let of: Vec<&Example> = examples.iter().filter(|e| e.item.category == category).collect();
            let flawed = of.iter().filter(|e| e.flaw.is_some()).count() as f64 / of.len() as f64;
            assert!((flawed - flaw_rate(category)).abs() < 0.05, "{category}: {flawed}");
        }
    }

    #[test]
    fn pairs_hold_a_good_and_a_bad_answer_and_the_noise_that_was_asked_for() {
        let items = prompts(Split::Train, 40, 1, "pairs-test").unwrap();
        let sampled: Vec<Answers> =
            items.into_iter().map(|item| Answers { answers: vec![item.prompt.clone()], item }).collect();
        let pairs = pairs(&sampled, 4, 0.05, 1);
        for pair in &pairs {
            let good = |answer: &str| judge(&pair.item.task, &pair.item.prompt, answer).good;
            assert_eq!((good(&pair.chosen), good(&pair.rejected)), (!pair.flipped, pair.flipped));
        }
        let flipped = pairs.iter().filter(|p| p.flipped).count() as f64 / pairs.len() as f64;
        assert!((0.02..0.09).contains(&flipped), "{flipped}");
    }

    #[test]
    fn the_same_seed_gives_the_same_text() {
        assert_eq!(sft_examples(World::Demo, 50, 9), sft_examples(World::Demo, 50, 9));
        assert_ne!(sft_examples(World::Demo, 50, 9), sft_examples(World::Demo, 50, 10));
    }
}
