//! Chooses one token from a row of logits: greedy, by temperature alone, or from the tokens that top-k, top-p and min-p
//! leave. No path sorts the vocabulary. Leaves penalties and logprobs to their files.

use rectify_kernels::{self as kernels, MASS_CHUNK};

use super::nucleus;
use super::rng::Draw;
use super::row::{Changes, Row};
use super::top::{Peaks, Ranked};
use crate::SamplingParams;

/// Candidates that top-p looks at first; a nucleus that is larger takes `nucleus`.
const FIRST_NUCLEUS: usize = 256;

/// Memory of one thread's choices.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// What the request in hand changes.
    pub(super) changes: Changes,
    /// The logits that a grammar allows.
    pub(super) allowed: Vec<f32>,
    pub(super) counts: Vec<u32>,
    /// Of the row to choose from.
    pub(super) peaks: Peaks,
    /// Of the model's row, if the request changes it.
    pub(super) model_peaks: Peaks,
    pub(super) ranked: Vec<Ranked>,
    pub(super) sums: Vec<f64>,
    pub(super) weights: Vec<f32>,
    /// Peaks and sum of a chunk that is looked at again.
    chunk: (Vec<f32>, Vec<f64>),
}

/// Which sums of a row are wanted, by what multiplies its logits; or these sums.
#[derive(Clone, Copy, Debug)]
pub(super) struct Masses<T> {
    /// That of the row to choose from, at the temperature; none to be greedy.
    pub(super) chosen: Option<T>,
    /// That of the model's row, for logprobs.
    pub(super) model: Option<T>,
}

impl Scratch {
    /// Finds the peaks of the model's row and, in the same pass, what its chunks sum to.
    pub(super) fn read(&mut self, logits: &[f32], scales: Masses<f32>) {
        let scales: &[f32] = match (&scales.chosen, &scales.model) {
            (Some(chosen), Some(model)) if chosen != model => &[*chosen, *model],
            (Some(scale), _) | (None, Some(scale)) => std::slice::from_ref(scale),
            (None, None) => &[],
        };
        self.peaks.find(logits, scales, &mut self.sums);
    }

    /// The masses of a row of which the model's was read, after what was changed is read again; the sums of the row to choose
    /// from remain. `None` unless they are of distributions: no NaN, no infinity, something finite.
    pub(super) fn masses(&mut self, row: Row<'_>, scales: Masses<f32>) -> Option<Masses<Mass>> {
        let Self { peaks, model_peaks, sums, chunk: (maxima, sum), .. } = self;
        let (is_changed, chunks) = (!row.changed().is_empty(), row.len().div_ceil(MASS_CHUNK));
        let mut masses = Masses { chosen: None, model: None };
        if let Some(scale) = scales.model
            && (is_changed || scales.chosen != scales.model)
        {
            sum.clear();
            sum.extend_from_slice(&sums[sums.len() - chunks..]);
            masses.model = Some(Mass::of_chunks(peaks, scale, sum)?);
        }
        sums.truncate(chunks);
        if is_changed {
            model_peaks.clone_from(peaks);
        }
        for &index in row.changed() {
            kernels::masses(row.chunk(index), scales.chosen.as_slice(), maxima, sum);
            peaks.replace(index, maxima);
            if let Some(sum) = sum.first() {
                sums[index] = *sum;
            }
        }
        if let Some(scale) = scales.chosen {
            masses.chosen = Some(Mass::of_chunks(peaks, scale, sums)?);
            masses.model = masses.model.or(scales.model.and(masses.chosen));
        }
        Some(masses)
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
    /// Of a row with these peaks and [`kernels::masses`]' sums, which are then relative to its largest value.
    fn of_chunks(peaks: &Peaks, scale: f32, sums: &mut [f64]) -> Option<Self> {
        let max = kernels::settle(peaks.maxima(), scale, sums);
        let total: f64 = sums.iter().sum();
        (total.is_finite() && total > 0.0).then_some(Self { max, scale, total })
    }

    /// `exp(scale · (x − max))` of part of the row.
    fn weights(&self, part: &[f32], out: &mut Vec<f32>) -> Option<()> {
        out.resize(part.len(), 0.0);
        kernels::exp_below(part, self.max, self.scale, out).ok()
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

/// The token that `params` choose from a row with these masses; `None` if it is no distribution.
pub(super) fn token(
    row: Row<'_>,
    params: &SamplingParams,
    draws: Draw,
    masses: Masses<Mass>,
    scratch: &mut Scratch,
) -> Option<u32> {
    match masses.chosen {
        Some(mass) => draw(row, params, draws, mass, scratch),
        // A sum would have shown a NaN.
        None if masses.model.is_none() && row.chunks().any(has_nan) => None,
        None => scratch.peaks.position(row).filter(|&token| row.logit(token as usize).is_finite()),
    }
}

fn has_nan(logits: &[f32]) -> bool {
    logits.iter().fold(false, |any, x| any | x.is_nan())
}

/// Draws from a row whose mass at the request's temperature is `mass`.
fn draw(
    row: Row<'_>,
    params: &SamplingParams,
    draws: Draw,
    mass: Mass,
    scratch: &mut Scratch,
) -> Option<u32> {
    let top_k = if params.top_k == 0 { row.len() } else { params.top_k };
    let by_k = top_k < row.len();
    if !by_k && params.top_p >= 1.0 && params.min_p <= 0.0 {
        return draw_plain(row, &mass, draws.uniform(), (&scratch.sums, &mut scratch.weights));
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
            return nucleus::draw(row, &mass, wanted, draws.uniforms(), (sums, weights));
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
    let target = draws.uniform() * mass.of(ranked);
    let mut sum = 0.0;
    let drawn = ranked.iter().find(|candidate| {
        sum += mass.weight(candidate.logit);
        sum > target
    });
    drawn.or(ranked.first()).map(|candidate| candidate.token)
}

/// Inverse of the cumulative distribution: finds the chunk, then the token in it.
pub(super) fn draw_plain(
    row: Row<'_>,
    mass: &Mass,
    uniform: f64,
    (sums, weights): (&[f64], &mut Vec<f32>),
) -> Option<u32> {
    let target = uniform * mass.total;
    let (chunk, before) = chunk_at(sums, target)?;
    mass.weights(row.chunk(chunk), weights)?;
    let offset = place_at(weights, before, target)?;
    Some((chunk * MASS_CHUNK + offset) as u32)
}

/// The chunk in which the running sum passes `target`, the last with anything if rounding leaves it beyond, and the sum
/// before it.
fn chunk_at(sums: &[f64], target: f64) -> Option<(usize, f64)> {
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

/// The same within a chunk, of its weights.
fn place_at(weights: &[f32], before: f64, target: f64) -> Option<usize> {
    let mut sum = before;
    let found = weights.iter().position(|&weight| {
        sum += f64::from(weight);
        weight > 0.0 && sum > target
    });
    found.or_else(|| weights.iter().rposition(|&weight| weight > 0.0))
}
