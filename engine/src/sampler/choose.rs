//! Chooses one token from a row of logits: greedy, by temperature alone, or from the tokens that top-k, top-p and min-p
//! leave. No path sorts the vocabulary. Leaves penalties and logprobs to their files.

use rectify_kernels::{self as kernels, MASS_CHUNK};

use super::nucleus;
use super::top::{Peaks, Ranked};
use crate::SamplingParams;

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
    /// Finds a row's peaks and, in the same pass, its mass at each of `scales`; `None` unless it is a distribution: no NaN, no
    /// infinity, something finite. The sums of the first remain.
    pub(super) fn masses<const N: usize>(&mut self, row: &[f32], scales: [f32; N]) -> Option<[Mass; N]> {
        let max = self.peaks.find(row, &scales, &mut self.sums);
        let chunks = row.len().div_ceil(MASS_CHUNK);
        let mut masses = scales.map(|scale| Mass { max, scale, total: 0.0 });
        for (mass, sums) in masses.iter_mut().zip(self.sums.chunks(chunks.max(1))) {
            mass.total = sums.iter().sum();
        }
        self.sums.truncate(chunks);
        masses.iter().all(|mass| mass.total.is_finite() && mass.total > 0.0).then_some(masses)
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
    /// `exp(scale · (x − max))` of part of the row.
    pub(super) fn weights<'a>(&self, part: &[f32], buffer: &'a mut Vec<f32>) -> Option<&'a [f32]> {
        buffer.resize(part.len(), 0.0);
        kernels::exp_below(part, self.max, self.scale, buffer).ok()?;
        Some(buffer)
    }

    /// `ln Σ exp(scale · x)`.
    pub(super) fn log_sum_exp(&self) -> f32 {
        (f64::from(self.scale) * f64::from(self.max) + self.total.ln()) as f32
    }

    /// Together.
    fn of(&self, ranked: &[Ranked]) -> f64 {
        ranked.iter().map(|candidate| self.weight(candidate.logit)).sum()
    }

    pub(super) fn weight(&self, logit: f32) -> f64 {
        f64::from((self.scale * (logit - self.max)).exp())
    }
}

/// The token that `params` choose; `uniform` lies in [0, 1). `None` unless the row is a distribution. Finds the row's peaks, and its
/// mass at the scale `also` in the same pass.
pub(super) fn token(
    row: &[f32],
    params: &SamplingParams,
    uniform: f64,
    also: Option<f32>,
    scratch: &mut Scratch,
) -> Option<(u32, Option<Mass>)> {
    let at = (params.temperature > 0.0).then(|| 1.0 / params.temperature);
    let (token, mass) = match (at, also) {
        (None, None) => (greedy(row, &mut scratch.peaks), None),
        (None, Some(scale)) => {
            let [mass] = scratch.masses(row, [scale])?;
            (scratch.peaks.position(row, mass.max), Some(mass))
        }
        (Some(at), Some(scale)) if at != scale => {
            let [mass, also] = scratch.masses(row, [at, scale])?;
            (draw(row, params, uniform, mass, scratch), Some(also))
        }
        (Some(at), _) => {
            let [mass] = scratch.masses(row, [at])?;
            (draw(row, params, uniform, mass, scratch), also.map(|_| mass))
        }
    };
    Some((token?, mass))
}

/// The most likely token, the lowest of equals; `None` if there is a NaN or nothing finite.
fn greedy(row: &[f32], peaks: &mut Peaks) -> Option<u32> {
    let max = peaks.find(row, &[], &mut Vec::new());
    if !max.is_finite() || row.iter().fold(false, |any, x| any | x.is_nan()) {
        return None;
    }
    peaks.position(row, max)
}

/// Draws from a row whose mass at the request's temperature was the first found.
fn draw(
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
    let start = chunk * MASS_CHUNK;
    let part = &row[start..row.len().min(start + MASS_CHUNK)];
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
