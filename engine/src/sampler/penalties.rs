//! Changes to logits before temperature: bias, a ban on ending early, and penalties for what was said. Leaves choosing
//! to `choose`.

use super::SampleRow;
use super::row::Changes;

/// Whether `min_tokens` is still ahead, and a grammar leaves something else to say.
fn holds_back_ends(row: &SampleRow<'_>) -> bool {
    let goes_on = || row.mask.is_none_or(|mask| mask.is_ok_and(|mask| mask.allows_more_than(row.end_tokens)));
    row.output.len() < row.params.min_tokens && goes_on()
}

/// Finds what a row's request changes. In order: `logit_bias`; end tokens before `min_tokens`; `repetition_penalty`
/// (Keskar et al. 2019, arXiv:1909.05858, §4.1) on tokens of prompt and output; `frequency_penalty` and
/// `presence_penalty` on tokens of the output. `counts` are zero before and after.
pub(super) fn apply(row: &SampleRow<'_>, changes: &mut Changes, counts: &mut Vec<u32>) {
    let (params, logits) = (row.params, row.logits);
    changes.start(logits.len());
    for &(token, bias) in &params.logit_bias {
        if let Some(logit) = changes.logit(logits, token as usize) {
            *logit += bias;
        }
    }
    if holds_back_ends(row) {
        for &token in row.end_tokens {
            if let Some(logit) = changes.logit(logits, token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
    if params.repetition_penalty != 1.0 {
        for_each_distinct(row.prompt.iter().chain(row.output), logits.len(), counts, |token, _| {
            if let Some(logit) = changes.logit(logits, token) {
                *logit = if *logit > 0.0 {
                    *logit / params.repetition_penalty
                } else {
                    *logit * params.repetition_penalty
                };
            }
        });
    }
    if params.frequency_penalty != 0.0 || params.presence_penalty != 0.0 {
        for_each_distinct(row.output.iter(), logits.len(), counts, |token, count| {
            if let Some(logit) = changes.logit(logits, token) {
                *logit -= params.frequency_penalty * count as f32 + params.presence_penalty;
            }
        });
    }
}

/// Visits each distinct token of the vocabulary once, with how often it occurs.
fn for_each_distinct<'a>(
    tokens: impl Iterator<Item = &'a u32> + Clone,
    vocab_size: usize,
    counts: &mut Vec<u32>,
    mut visit: impl FnMut(usize, u32),
) {
    counts.resize(vocab_size, 0);
    for &token in tokens.clone() {
        if let Some(count) = counts.get_mut(token as usize) {
            *count += 1;
        }
    }
    for &token in tokens {
        if let Some(count) = counts.get_mut(token as usize)
            && *count > 0
        {
            visit(token as usize, std::mem::take(count));
        }
    }
}
