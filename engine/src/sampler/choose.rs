//! Chooses one token from a row of logits: greedy, by temperature alone, or from the tokens that top-k, top-p and min-p
//! leave. No path sorts the vocabulary. Leaves penalties and logprobs to their files.

use rectify_kernels as kernels;

use super::nucleus;
use super::top::{Peaks, Ranked};
use crate::SamplingParams;

/// Values per partial sum: a row is summed in chunks, and only the chosen chunk is looked at again.
pub(super) const CHUNK: usize = 1024;
/// Candidates that top-p looks at first; a nucleus that is larger takes `nucleus`.
const FIRST_NUCLEUS: usize = 256;

/// Memory of one thread's choices.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// A changed copy of the logits.
    pub(super) logits: Vec<f32>,
    /// The logits that a grammar allows.
    pub(super) allowed: Vec<f32>,
    pub(super) counts: Vec<u32>,
    pub(super) peaks: Peaks,
    pub(super) ranked: Vec<Ranked>,
    pub(super) sums: Vec<f64>,
    pub(super) weights: Vec<f32>,
}

impl Scratch {
    /// Finds a row's peaks and sums it by chunks; `None` unless it is a distribution.
    pub(super) fn mass(&mut self, row: &[f32], scale: f32) -> Option<Mass> {
        let max = self.peaks.find(row);
        Mass::new(max, row, scale, &mut self.sums)
    }
}

/// `exp` of a row by chunks: `total` is `Σ exp(scale · (x − max))`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mass {
    pub(super) max: f32,
    pub(super) scale: f32,
    pub(super) total: f64,
}

impl Mass {
    /// Sums a row whose largest value is `max`; `None` unless the row is a distribution: no NaN, no infinity, something
    /// finite.
    fn new(max: f32, row: &[f32], scale: f32, sums: &mut Vec<f64>) -> Option<Self> {
        let mut mass = Self { max, scale, total: 0.0 };
        sums.clear();
        for chunk in row.chunks(CHUNK) {
            let sum = f64::from(kernels::exp_sum(chunk, scale * max, scale));
            mass.total += sum;
            sums.push(sum);
        }
        (mass.total.is_finite() && mass.total > 0.0).then_some(mass)
    }

    /// `exp(scale · (x − max))` of part of the row.
    pub(super) fn weights<'a>(&self, part: &[f32], buffer: &'a mut Vec<f32>) -> Option<&'a [f32]> {
        buffer.resize(part.len(), 0.0);
        kernels::exp_shifted(part, self.scale * self.max, self.scale, buffer).ok()?;
        Some(buffer)
    }

    /// `ln Σ exp(scale · x)`.
    pub(super) fn log_sum_exp(&self) -> f32 {
        (f64::from(self.scale * self.max) + self.total.ln()) as f32
    }

    /// Together.
    fn of(&self, ranked: &[Ranked]) -> f64 {
        ranked.iter().map(|candidate| self.weight(candidate.logit)).sum()
    }

    pub(super) fn weight(&self, logit: f32) -> f64 {
        f64::from((self.scale * logit - self.scale * self.max).exp())
    }
}

/// `ln Σ exp(scale · row)` in nats of a row whose largest value is `max`; `None` unless it is a distribution.
pub(super) fn log_sum_exp(row: &[f32], max: f32, scale: f32, scratch: &mut Scratch) -> Option<f32> {
    Some(Mass::new(max, row, scale, &mut scratch.sums)?.log_sum_exp())
}

/// The most likely token, the lowest of equals; `None` if there is a NaN or nothing finite. Finds the row's peaks.
pub(super) fn greedy(row: &[f32], peaks: &mut Peaks) -> Option<u32> {
    let max = peaks.find(row);
    if !max.is_finite() || row.iter().fold(false, |any, x| any | x.is_nan()) {
        return None;
    }
    peaks.position(row, max).map(|index| index as u32)
}

/// Draws a token; `uniform` lies in [0, 1). `None` unless the row is a distribution. Also returns the mass at the
/// request's temperature, which at 1 is that of the raw row. Finds the row's peaks.
pub(super) fn draw(
    row: &[f32],
    params: &SamplingParams,
    uniform: f64,
    scratch: &mut Scratch,
) -> Option<(u32, Mass)> {
    let mass = scratch.mass(row, 1.0 / params.temperature)?;
    Some((draw_from(row, params, uniform, mass, scratch)?, mass))
}

fn draw_from(
    row: &[f32],
    params: &SamplingParams,
    uniform: f64,
    mass: Mass,
    scratch: &mut Scratch,
) -> Option<u32> {
    let top_k = if params.top_k == 0 { row.len() } else { params.top_k };
    let by_k = top_k < row.len();
    if !by_k && params.top_p >= 1.0 && params.min_p <= 0.0 {
        return draw_plain(row, &mass, uniform, scratch);
    }
    let Scratch { peaks, ranked, sums, weights, .. } = scratch;
    // min-p compares probabilities, that is, differences of logits: p ≥ min_p · p_max.
    let least = mass.max + params.temperature * params.min_p.max(0.0).ln();
    let mut total = mass.total;
    if by_k {
        peaks.top(row, top_k, ranked);
    } else if params.min_p > 0.0 {
        peaks.at_least(row, least, ranked);
        // Order matters to top-p alone.
        if params.top_p < 1.0 {
            ranked.sort_unstable();
        }
    } else {
        peaks.top(row, FIRST_NUCLEUS, ranked);
        let wanted = f64::from(params.top_p) * mass.total;
        if mass.of(ranked) < wanted && ranked.len() == FIRST_NUCLEUS {
            return nucleus::draw(row, &mass, wanted, uniform, nucleus::Memory { ranked, weights, sums });
        }
    }
    ranked.retain(|candidate| candidate.logit >= least);
    if by_k || params.min_p > 0.0 {
        total = mass.of(ranked);
    }
    if params.top_p < 1.0 {
        let wanted = f64::from(params.top_p) * total;
        let mut sum = 0.0;
        let enough = ranked.iter().position(|candidate| {
            sum += mass.weight(candidate.logit);
            sum >= wanted
        });
        ranked.truncate(enough.map_or(ranked.len(), |index| index + 1));
    }
    let target = uniform * mass.of(ranked);
    let mut sum = 0.0;
    let drawn = ranked.iter().find(|candidate| {
        sum += mass.weight(candidate.logit);
        sum > target
    });
    drawn.or(ranked.first()).map(|candidate| candidate.token)
}

/// Inverse of the cumulative distribution: finds the chunk, then the token in it.
fn draw_plain(row: &[f32], mass: &Mass, uniform: f64, scratch: &mut Scratch) -> Option<u32> {
    let target = uniform * mass.total;
    let (chunk, before) = chunk_at(&scratch.sums, target)?;
    let start = chunk * CHUNK;
    let part = &row[start..row.len().min(start + CHUNK)];
    let offset = place_at(mass.weights(part, &mut scratch.weights)?, before, target, 0.0)?;
    Some((start + offset) as u32)
}

/// The chunk in which the running sum passes `target`, the last with anything if rounding leaves it beyond, and the sum
/// before it.
pub(super) fn chunk_at(sums: &[f64], target: f64) -> Option<(usize, f64)> {
    let mut before = 0.0;
    let mut chosen = None;
    for (index, &sum) in sums.iter().enumerate() {
        if sum > 0.0 {
            chosen = Some((index, before));
            if before + sum > target {
                break;
            }
        }
        before += sum;
    }
    chosen
}

/// The same within a chunk, of the weights above `low`.
pub(super) fn place_at(weights: &[f32], before: f64, target: f64, low: f32) -> Option<usize> {
    let mut sum = before;
    let found = weights.iter().position(|&weight| {
        sum += if weight > low { f64::from(weight) } else { 0.0 };
        weight > low && sum > target
    });
    found.or_else(|| weights.iter().rposition(|&weight| weight > low))
}
