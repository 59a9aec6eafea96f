//! Logits to tokens. This file runs rows in parallel and reports logprobs; `penalties` changes logits, which `row`
//! keeps apart, `choose` picks, `rng` draws. Leaves which rows to sample to the engine.

mod choose;
mod nucleus;
mod penalties;
mod rng;
mod row;
#[cfg(test)]
mod tests;
mod top;

use std::sync::{Mutex, PoisonError};

use rectify_kernels::Pool;

pub use rng::Draw;

use crate::grammar::Mask;
use crate::request::{Logprobs, TokenLogprob};
use crate::{EngineError, SamplingParams};
use choose::{Masses, Scratch};
use row::Row;
use top::{Peaks, Ranked};

/// One row to sample.
#[derive(Clone, Copy, Debug)]
pub struct SampleRow<'a> {
    /// `[vocab_size]`.
    pub logits: &'a [f32],
    /// The tokens its grammar allows, or why that is not known; `None` without a grammar.
    pub mask: Option<Result<&'a Mask, &'a str>>,
    /// The request's settings, validated.
    pub params: &'a SamplingParams,
    /// Which draw this is.
    pub draw: Draw,
    /// The prompt's tokens.
    pub prompt: &'a [u32],
    /// The tokens generated so far.
    pub output: &'a [u32],
    /// Tokens that may not come before `min_tokens`.
    pub end_tokens: &'a [u32],
    /// The token's logprob is wanted even if `params.logprobs` is not set.
    pub wants_logprob: bool,
}

/// A sampled token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: u32,
    /// `ln p(token)` of the raw distribution, or of that at `temperature`; 0 unless it was wanted.
    pub logprob: f32,
    /// If `params.logprobs` is set.
    pub logprobs: Option<Logprobs>,
}

/// Samples rows on several threads, with memory kept from step to step.
#[derive(Debug, Default)]
pub struct Sampler {
    scratch: Mutex<Vec<Scratch>>,
}

impl Sampler {
    /// Samples every row; a row's result depends on that row alone. A row with a NaN, an infinity or nothing finite is
    /// an [`EngineError::Execution`] in its place.
    pub fn sample(&self, pool: &Pool, rows: &[SampleRow<'_>]) -> Vec<Result<Sampled, EngineError>> {
        self.map(pool, rows, |row, scratch| match row.mask {
            None => sample_row(row, scratch).ok_or_else(not_a_distribution),
            Some(Ok(mask)) => sample_masked(row, mask, scratch).ok_or_else(not_a_distribution),
            Some(Err(cause)) => Err(EngineError::invalid(
                "response_format",
                format!("the grammar cannot be followed any further: {cause}"),
            )),
        })
    }

    /// Logprobs of given tokens, each with the `num_top` most likely ones of its row of logits.
    pub fn logprobs(
        &self,
        pool: &Pool,
        rows: &[(&[f32], u32)],
        num_top: usize,
    ) -> Vec<Result<Logprobs, EngineError>> {
        self.map(pool, rows, |&(logits, token), scratch| {
            let row = Row::new(logits, None);
            let scales = Masses { chosen: None, model: Some(1.0) };
            scratch.read(logits, scales);
            let mass = scratch.masses(row, scales).and_then(|masses| masses.model);
            let lse = mass.ok_or_else(not_a_distribution)?.log_sum_exp();
            let Scratch { peaks, ranked, .. } = scratch;
            Ok(report(logits, token, (1.0, lse), num_top, (peaks, ranked)))
        })
    }

    fn map<T: Sync, R: Send>(
        &self,
        pool: &Pool,
        rows: &[T],
        work: impl Fn(&T, &mut Scratch) -> Result<R, EngineError> + Sync,
    ) -> Vec<Result<R, EngineError>> {
        let results: Vec<Mutex<Option<Result<R, EngineError>>>> =
            rows.iter().map(|_| Mutex::default()).collect();
        pool.run(rows.len(), |index| {
            let mut scratch = self.lock_scratch().pop().unwrap_or_default();
            let result = work(&rows[index], &mut scratch);
            self.lock_scratch().push(scratch);
            *results[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        });
        let result = |slot: Mutex<Option<_>>| {
            slot.into_inner()
                .unwrap_or_else(PoisonError::into_inner)
                .unwrap_or_else(|| Err(not_a_distribution()))
        };
        results.into_iter().map(result).collect()
    }

    fn lock_scratch(&self) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_a_distribution() -> EngineError {
    EngineError::Execution("the logits hold a NaN, an infinity or nothing finite".to_owned())
}

/// As if the other tokens were not in the vocabulary: logprobs are of what is left.
fn sample_masked(row: &SampleRow<'_>, mask: &Mask, scratch: &mut Scratch) -> Option<Sampled> {
    // Taken out, so that the rest of the scratch stays free to borrow.
    let mut allowed = std::mem::take(&mut scratch.allowed);
    mask.apply(row.logits, &mut allowed);
    let sampled = sample_row(&SampleRow { logits: &allowed, ..*row }, scratch);
    scratch.allowed = allowed;
    sampled
}

fn sample_row(row: &SampleRow<'_>, scratch: &mut Scratch) -> Option<Sampled> {
    let params = row.params;
    let chosen = (params.temperature > 0.0).then(|| 1.0 / params.temperature);
    let scale = chosen.filter(|_| params.logprobs_at_temperature).unwrap_or(1.0);
    let wanted = row.wants_logprob || params.logprobs.is_some();
    let scales = Masses { chosen, model: wanted.then_some(scale) };
    // First from end to end: what is changed lies anywhere in it, and is in a cache then.
    scratch.read(row.logits, scales);
    // Taken out, so that the rest of the scratch stays free to borrow.
    let mut changes = std::mem::take(&mut scratch.changes);
    penalties::apply(row, &mut changes, &mut scratch.counts);
    let changed = Row::new(row.logits, Some(&changes));
    let is_changed = !changed.changed().is_empty();
    let masses = scratch.masses(changed, scales);
    let token = masses.and_then(|masses| choose::token(changed, params, row.draw, masses, scratch));
    scratch.changes = changes;
    let token = token?;
    let Some(mass) = masses?.model else {
        return Some(Sampled { token, logprob: 0.0, logprobs: None });
    };
    let lse = mass.log_sum_exp();
    let logprob = scale * row.logits[token as usize] - lse;
    let Scratch { peaks, model_peaks, ranked, .. } = scratch;
    let peaks = if is_changed { model_peaks } else { peaks };
    let logprobs =
        params.logprobs.map(|num_top| report(row.logits, token, (scale, lse), num_top, (peaks, ranked)));
    Some(Sampled { token, logprob, logprobs })
}

/// The logprobs of a model's row with these peaks.
fn report(
    logits: &[f32],
    token: u32,
    (scale, lse): (f32, f32),
    num_top: usize,
    (peaks, ranked): (&mut Peaks, &mut Vec<Ranked>),
) -> Logprobs {
    peaks.top(Row::new(logits, None), num_top, ranked);
    let of = |token: u32, logit: f32| TokenLogprob { token, logprob: scale * logit - lse };
    Logprobs {
        own: of(token, logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY)),
        top: ranked.iter().map(|ranked| of(ranked.token, ranked.logit)).collect(),
    }
}
