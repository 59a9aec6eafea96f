//! What the candidates of the held-out prompts show: the share of good answers by best-of-N, and how often the reward
//! model is right. Leaves words to the report.

use std::collections::BTreeMap;

use anyhow::bail;
use rectify_lab::rng::{chance, index, rng_for};
use rectify_lab::stats::{Interval, bootstrap_mean, wilson};
use rectify_lab::{Category, judge};
use serde::Serialize;

use crate::files::Generated;

/// The sizes of N that are reported.
pub(crate) const SIZES: [usize; 4] = [1, 4, 16, 64];
const PAIRS_PER_PROMPT: usize = 8;

/// The measurements of one run.
#[derive(Serialize)]
pub(crate) struct Evaluation {
    /// Held-out prompts.
    pub(crate) num_prompts: usize,
    /// Candidates of each.
    pub(crate) num_candidates: usize,
    /// Mean tokens of a candidate.
    pub(crate) mean_tokens: f64,
    /// Good answers when the reward model picks one of N, for each of [`SIZES`].
    pub(crate) best_of: Vec<Interval>,
    /// The same if the oracle picked: what a perfect reward model would reach.
    pub(crate) ceiling: Vec<f64>,
    /// By category.
    pub(crate) by_category: BTreeMap<Category, Vec<Interval>>,
    /// Pairs of a good and a bad answer of the policy on held-out prompts, of which the good one scored higher.
    pub(crate) accuracy: Interval,
    /// The same pairs with labels flipped at the training data's rate.
    pub(crate) noisy_accuracy: Interval,
    /// Accuracy by category: right, pairs.
    pub(crate) accuracy_by_category: BTreeMap<Category, (usize, usize)>,
}

struct Prompt {
    category: Category,
    good: Vec<bool>,
    rewards: Vec<f64>,
}

impl Prompt {
    /// Share of good winners over the consecutive groups of `n` candidates.
    fn best_of(&self, n: usize) -> f64 {
        let groups = self.good.chunks_exact(n).zip(self.rewards.chunks_exact(n));
        let wins = groups.map(|(good, rewards)| {
            // The first of the highest, as the engine breaks ties.
            let best = (1..n).fold(0, |best, i| if rewards[i] > rewards[best] { i } else { best });
            f64::from(u8::from(good[best]))
        });
        mean(&wins.collect::<Vec<_>>())
    }

    fn ceiling(&self, n: usize) -> f64 {
        let any = |group: &[bool]| f64::from(u8::from(group.contains(&true)));
        mean(&self.good.chunks_exact(n).map(any).collect::<Vec<_>>())
    }
}

/// Evaluates scored candidates; every line has the same number of them, at least the largest of [`SIZES`].
///
/// # Errors
/// If a candidate has no reward or a line too few candidates.
pub(crate) fn evaluate(lines: &[Generated], noise: f64, seed: u64) -> anyhow::Result<Evaluation> {
    let prompts: Vec<Prompt> = lines.iter().map(judged).collect::<anyhow::Result<_>>()?;
    if prompts.is_empty() {
        bail!("there are no held-out answers to evaluate");
    }
    let interval = |prompts: &[&Prompt], n: usize| {
        bootstrap_mean(&prompts.iter().map(|p| p.best_of(n)).collect::<Vec<_>>(), seed)
    };
    let all: Vec<&Prompt> = prompts.iter().collect();
    let mut by_category = BTreeMap::new();
    for &category in Category::ALL {
        let of: Vec<&Prompt> = all.iter().copied().filter(|p| p.category == category).collect();
        if !of.is_empty() {
            by_category.insert(category, SIZES.iter().map(|&n| interval(&of, n)).collect());
        }
    }
    let candidates: Vec<_> = lines.iter().flat_map(|line| &line.candidates).collect();
    let (accuracy, noisy_accuracy, accuracy_by_category) = accuracies(&prompts, noise, seed);
    Ok(Evaluation {
        num_prompts: prompts.len(),
        num_candidates: candidates.len() / prompts.len(),
        mean_tokens: candidates.iter().map(|c| c.tokens as f64).sum::<f64>() / candidates.len() as f64,
        best_of: SIZES.iter().map(|&n| interval(&all, n)).collect(),
        ceiling: SIZES.iter().map(|&n| mean(&all.iter().map(|p| p.ceiling(n)).collect::<Vec<_>>())).collect(),
        by_category,
        accuracy,
        noisy_accuracy,
        accuracy_by_category,
    })
}

fn judged(line: &Generated) -> anyhow::Result<Prompt> {
    let item = line.item();
    let largest = SIZES[SIZES.len() - 1];
    if line.candidates.len() < largest {
        bail!("`{}` has {} candidates, not {largest}", item.prompt, line.candidates.len());
    }
    let mut prompt = Prompt { category: item.category, good: Vec::new(), rewards: Vec::new() };
    for candidate in &line.candidates {
        let Some(reward) = candidate.reward else { bail!("an answer to `{}` has no reward", item.prompt) };
        prompt.good.push(judge(&item.task, &item.prompt, &candidate.text).good);
        prompt.rewards.push(reward);
    }
    Ok(prompt)
}

type Accuracies = (Interval, Interval, BTreeMap<Category, (usize, usize)>);

fn accuracies(prompts: &[Prompt], noise: f64, seed: u64) -> Accuracies {
    let mut rng = rng_for(seed, "accuracy");
    let (mut right, mut right_noisy, mut total) = (0, 0, 0);
    let mut by_category: BTreeMap<Category, (usize, usize)> = BTreeMap::new();
    for prompt in prompts {
        let split = |wanted| (0..prompt.good.len()).filter(|&i| prompt.good[i] == wanted).collect::<Vec<_>>();
        let (good, bad) = (split(true), split(false));
        if good.is_empty() || bad.is_empty() {
            continue;
        }
        for _ in 0..PAIRS_PER_PROMPT {
            let (g, b) = (good[index(&mut rng, good.len())], bad[index(&mut rng, bad.len())]);
            let is_right = prompt.rewards[g] > prompt.rewards[b];
            let entry = by_category.entry(prompt.category).or_default();
            entry.0 += usize::from(is_right);
            entry.1 += 1;
            right += usize::from(is_right);
            right_noisy += usize::from(is_right != chance(&mut rng, noise));
            total += 1;
        }
    }
    (wilson(right, total.max(1)), wilson(right_noisy, total.max(1)), by_category)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
