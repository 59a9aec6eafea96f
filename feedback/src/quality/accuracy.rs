//! How often each annotator is right, where the truth is unknown: the one-coin model of Dawid & Skene (1979, Applied
//! Statistics 28), as in Zhang et al. (2014, arXiv:1406.3824), with a prior of each item's truth that is learnt from
//! the reward model's score, as in Raykar et al. (2010, JMLR 11, "Learning From Crowds"), and items whose truth is
//! known. Knows neither votes nor people: leaves what an item is to `opinion`, and what follows to `annotators`.
//!
//! A coordinated minority is found because an annotator is measured by what everybody *else* and the reward say of the
//! same item, each weighted by how right they were elsewhere: those who vote together against the rest lose weight
//! together. A majority that lies is found only by known answers or by the reward.

use super::stats::Interval;

/// Something that is true or not, and what is known of it besides the answers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Item {
    /// The truth, where it is known.
    pub known: Option<bool>,
    /// A number that grows with the odds of the truth (a reward, a difference of rewards).
    pub score: Option<f64>,
    /// Scores of different kinds are not compared.
    pub kind: usize,
}

/// One annotator's answer about one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Index of the item.
    pub item: usize,
    /// Index of the annotator.
    pub annotator: usize,
    /// What was answered.
    pub says: bool,
}

/// What the model says.
#[derive(Clone, Debug, PartialEq)]
pub struct Accuracies {
    /// Per annotator: how often they are right.
    pub annotators: Vec<Accuracy>,
    /// Per item: the probability of its truth, given everything.
    pub truth: Vec<f64>,
    /// Per answer: the probability that it is right, given everything but the annotator's own answers to the item.
    pub others: Vec<f64>,
}

/// How often one annotator is right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// Mean and central 95 % of the posterior under a flat prior.
    pub interval: Interval,
    /// How many answers with a sure truth the evidence is worth: an answer to an item nobody else knows anything of
    /// counts 0.
    pub evidence: f64,
}

/// Prior of an annotator's accuracy in the model: right four times out of five. It also says which of the two mirror
/// images of the answers is meant.
const PRIOR_RIGHT: f64 = 4.0;
const PRIOR_WRONG: f64 = 1.0;

/// Most rounds, and the change that ends them.
const ROUNDS: usize = 100;
const SETTLED: f64 = 1e-5;

/// Points of the accuracy's posterior.
const GRID: usize = 200;

/// Estimates all accuracies. Indices of `answers` lie within `items` and `num_annotators`.
pub fn estimate(items: &[Item], answers: &[Answer], num_annotators: usize) -> Accuracies {
    let mut model = Model::new(items, answers, num_annotators);
    for _ in 0..ROUNDS {
        model.update_accuracies();
        model.update_priors();
        if model.update_truth() < SETTLED {
            break;
        }
    }
    let others: Vec<f64> = answers.iter().map(|answer| model.without_own(answer)).collect();
    let mut likelihoods = vec![Likelihood::default(); num_annotators];
    for (answer, &right) in answers.iter().zip(&others) {
        likelihoods[answer.annotator].observe(right);
    }
    Accuracies {
        annotators: likelihoods.iter().map(Likelihood::accuracy).collect(),
        truth: model.truth,
        others,
    }
}

/// The likelihood of an accuracy `p` after answers that are right with probability `w` by what others know:
/// `Π p·w + (1 − p)(1 − w)`. Likelihoods of several annotators multiply to that of a group.
#[derive(Clone, Debug)]
pub(crate) struct Likelihood {
    log: Vec<f64>,
    evidence: f64,
}

impl Default for Likelihood {
    fn default() -> Self {
        Self { log: vec![0.0; GRID], evidence: 0.0 }
    }
}

impl Likelihood {
    pub(crate) fn observe(&mut self, right: f64) {
        for (index, log) in self.log.iter_mut().enumerate() {
            let p = grid(index);
            *log += (p * right + (1.0 - p) * (1.0 - right)).max(1e-12).ln();
        }
        self.evidence += (2.0 * right - 1.0).abs();
    }

    pub(crate) fn accuracy(&self) -> Accuracy {
        let top = self.log.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = self.log.iter().map(|log| (log - top).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mean =
            weights.iter().enumerate().map(|(index, weight)| grid(index) * weight).sum::<f64>() / total;
        let quantile = |share: f64| {
            let mut left = share * total;
            let index = weights.iter().position(|weight| {
                left -= weight;
                left <= 0.0
            });
            grid(index.unwrap_or(GRID - 1))
        };
        let interval = Interval { value: mean, low: quantile(0.025), high: quantile(0.975) };
        Accuracy { interval, evidence: self.evidence }
    }
}

fn grid(index: usize) -> f64 {
    (index as f64 + 0.5) / GRID as f64
}

/// Prior odds of the items of one kind: `logit P(true) = base + slope · score`, scores standardised.
#[derive(Clone, Copy, Debug)]
struct Prior {
    mean: f64,
    deviation: f64,
    base: f64,
    slope: f64,
    /// Log-odds of the items without a score.
    bare: f64,
}

struct Model<'a> {
    items: &'a [Item],
    answers: &'a [Answer],
    accuracies: Vec<f64>,
    priors: Vec<Prior>,
    log_odds: Vec<f64>,
    truth: Vec<f64>,
}

impl<'a> Model<'a> {
    /// Begins with the share of yes answers to each item, drawn to one half.
    fn new(items: &'a [Item], answers: &'a [Answer], num_annotators: usize) -> Self {
        let (mut yes, mut all) = (vec![0.5; items.len()], vec![1.0; items.len()]);
        for answer in answers {
            yes[answer.item] += f64::from(u8::from(answer.says));
            all[answer.item] += 1.0;
        }
        let begin = |(item, (yes, all)): (&Item, (f64, f64))| item.known.map_or(yes / all, certainty);
        let truth = items.iter().zip(yes.into_iter().zip(all)).map(begin).collect();
        let num_kinds = items.iter().map(|item| item.kind + 1).max().unwrap_or(0);
        let priors = (0..num_kinds).map(|kind| Prior::new(items, kind)).collect();
        let accuracies = vec![PRIOR_RIGHT / (PRIOR_RIGHT + PRIOR_WRONG); num_annotators];
        Self { items, answers, accuracies, priors, log_odds: vec![0.0; items.len()], truth }
    }

    fn update_accuracies(&mut self) {
        let num = self.accuracies.len();
        let (mut right, mut all) = (vec![PRIOR_RIGHT; num], vec![PRIOR_RIGHT + PRIOR_WRONG; num]);
        for answer in self.answers {
            let truth = self.truth[answer.item];
            right[answer.annotator] += if answer.says { truth } else { 1.0 - truth };
            all[answer.annotator] += 1.0;
        }
        for ((accuracy, right), all) in self.accuracies.iter_mut().zip(right).zip(all) {
            *accuracy = right / all;
        }
    }

    fn update_priors(&mut self) {
        for (kind, prior) in self.priors.iter_mut().enumerate() {
            let of_kind = self.items.iter().zip(&self.truth).filter(|(item, _)| item.kind == kind);
            prior.fit(of_kind.map(|(item, &truth)| (item.score, truth)));
        }
    }

    /// The greatest change of any item.
    fn update_truth(&mut self) -> f64 {
        for (log_odds, item) in self.log_odds.iter_mut().zip(self.items) {
            *log_odds = self.priors[item.kind].log_odds(item.score);
        }
        for answer in self.answers {
            self.log_odds[answer.item] += weight(self.accuracies[answer.annotator], answer.says);
        }
        let mut change: f64 = 0.0;
        for ((truth, &log_odds), item) in self.truth.iter_mut().zip(&self.log_odds).zip(self.items) {
            let next = item.known.map_or_else(|| sigmoid(log_odds), certainty);
            change = change.max((next - *truth).abs());
            *truth = next;
        }
        change
    }

    /// The probability that the answer is right, without what the annotator says of the item.
    fn without_own(&self, answer: &Answer) -> f64 {
        let truth = match self.items[answer.item].known {
            Some(known) => certainty(known),
            None => {
                sigmoid(self.log_odds[answer.item] - weight(self.accuracies[answer.annotator], answer.says))
            }
        };
        if answer.says { truth } else { 1.0 - truth }
    }
}

impl Prior {
    fn new(items: &[Item], kind: usize) -> Self {
        let scores: Vec<f64> =
            items.iter().filter(|item| item.kind == kind).filter_map(|item| item.score).collect();
        let n = scores.len().max(1) as f64;
        let mean = scores.iter().sum::<f64>() / n;
        let deviation = (scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / n).sqrt();
        Self {
            mean,
            deviation: if deviation > 0.0 { deviation } else { 1.0 },
            base: 0.0,
            slope: 0.0,
            bare: 0.0,
        }
    }

    fn log_odds(&self, score: Option<f64>) -> f64 {
        score.map_or(self.bare, |score| self.base + self.slope * self.standard(score))
    }

    fn standard(&self, score: f64) -> f64 {
        (score - self.mean) / self.deviation
    }

    /// A few of Newton's steps on the items' present truths, with a weak pull of both numbers to 0. The slope is never
    /// negative: a reward that everybody contradicts is worth nothing, not the opposite.
    fn fit(&mut self, truths: impl Iterator<Item = (Option<f64>, f64)>) {
        const RIDGE: f64 = 0.1;
        let (mut scored, mut bare, mut num_bare) = (Vec::new(), 1.0, 2.0);
        for (score, truth) in truths {
            match score {
                Some(score) => scored.push((self.standard(score), truth)),
                None => {
                    bare += truth;
                    num_bare += 1.0;
                }
            }
        }
        self.bare = logit(bare / num_bare);
        for _ in 0..8 {
            let (mut g0, mut g1) = (-RIDGE * self.base, -RIDGE * self.slope);
            let (mut h00, mut h01, mut h11) = (RIDGE, 0.0, RIDGE);
            for &(x, truth) in &scored {
                let p = sigmoid(self.base + self.slope * x);
                let spread = p * (1.0 - p);
                g0 += truth - p;
                g1 += (truth - p) * x;
                h00 += spread;
                h01 += spread * x;
                h11 += spread * x * x;
            }
            let determinant = h00 * h11 - h01 * h01;
            // Within ±2 a step, so that a plateau does not throw the numbers far away.
            self.base += ((h11 * g0 - h01 * g1) / determinant).clamp(-2.0, 2.0);
            self.slope = (self.slope + ((h00 * g1 - h01 * g0) / determinant).clamp(-2.0, 2.0)).max(0.0);
        }
    }
}

/// What an answer adds to the log-odds of its item's truth.
fn weight(accuracy: f64, says: bool) -> f64 {
    if says { logit(accuracy) } else { -logit(accuracy) }
}

/// A known truth is trusted, but not for all the world.
fn certainty(known: bool) -> f64 {
    if known { 0.999 } else { 0.001 }
}

fn logit(p: f64) -> f64 {
    let p = p.clamp(1e-3, 1.0 - 1e-3);
    (p / (1.0 - p)).ln()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::words::mix;

    /// A number in [0, 1) that depends on the seed alone.
    fn uniform(seed: u64) -> f64 {
        (mix(seed) >> 11) as f64 / (1u64 << 53) as f64
    }

    struct World {
        items: Vec<Item>,
        answers: Vec<Answer>,
    }

    /// Annotator `a` is right with probability `accuracies[a]` on `each` items, drawn from `num_items`. The score says
    /// the truth with noise of one deviation where `scored`.
    fn world(accuracies: &[f64], num_items: usize, each: usize, scored: bool) -> World {
        let truth = |item: usize| uniform(item as u64) < 0.5;
        let noise =
            |item: usize| (0..12).map(|k| uniform((item * 12 + k) as u64 + 1_000_000)).sum::<f64>() - 6.0;
        let score = |item: usize| scored.then(|| noise(item) + if truth(item) { 1.0 } else { -1.0 });
        let items = (0..num_items).map(|item| Item { score: score(item), ..Item::default() }).collect();
        let mut answers = Vec::new();
        for (annotator, &accuracy) in accuracies.iter().enumerate() {
            for k in 0..each {
                let item = (annotator * each + k * 7 + k * k) % num_items;
                let right = uniform((annotator * 100_003 + k) as u64 + 2_000_000) < accuracy;
                answers.push(Answer { item, annotator, says: truth(item) == right });
            }
        }
        World { items, answers }
    }

    fn estimates(world: &World, num: usize) -> Vec<Accuracy> {
        estimate(&world.items, &world.answers, num).annotators
    }

    #[test]
    fn a_lying_minority_is_told_from_noise_by_shared_items() {
        let accuracies: Vec<f64> = (0..20).map(|a| if a < 4 { 0.1 } else { 0.9 }).collect();
        for (annotator, found) in estimates(&world(&accuracies, 60, 20, false), 20).iter().enumerate() {
            let liar = annotator < 4;
            assert_eq!(found.interval.high < 0.5, liar, "{annotator}: {found:?}");
            assert_eq!(found.interval.low > 0.5, !liar, "{annotator}: {found:?}");
        }
    }

    #[test]
    fn a_lying_minority_is_found_by_the_reward_alone() {
        let accuracies: Vec<f64> = (0..20).map(|a| if a < 4 { 0.1 } else { 0.9 }).collect();
        // Every item has one answer: nobody shares anything with anybody.
        let world = world(&accuracies, 100_000, 25, true);
        for (annotator, found) in estimates(&world, 20).iter().enumerate() {
            assert_eq!(found.interval.high < 0.6, annotator < 4, "{annotator}: {found:?}");
        }
    }

    #[test]
    fn without_any_evidence_nothing_is_claimed() {
        let world = world(&[0.1, 0.9], 100_000, 20, false);
        for found in estimates(&world, 2) {
            assert!(found.interval.low < 0.5 && found.interval.high > 0.5, "{found:?}");
        }
    }

    #[test]
    fn known_answers_find_a_lying_majority() {
        let accuracies: Vec<f64> = (0..10).map(|a| if a < 7 { 0.1 } else { 0.9 }).collect();
        let mut world = world(&accuracies, 40, 30, false);
        for item in 0..20 {
            world.items[item].known = Some(uniform(item as u64) < 0.5);
        }
        for (annotator, found) in estimates(&world, 10).iter().enumerate() {
            assert_eq!(found.interval.high < 0.5, annotator < 7, "{annotator}: {found:?}");
        }
    }

    #[test]
    fn the_interval_holds_the_accuracy_of_ten_percent_noise() {
        let world = world(&[0.9; 100], 300, 60, true);
        let inside =
            estimates(&world, 100).iter().filter(|a| a.interval.low <= 0.9 && 0.9 <= a.interval.high).count();
        assert!(inside >= 88, "{inside} of 100");
    }
}
