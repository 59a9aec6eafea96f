//! Passes over sampled completions, and what goes back through them. Leaves losses to the methods.

use crate::autograd::Tensor;
use crate::error::TrainError;
use crate::run::logprobs::{Asked, Role, TokenLogprobs};
use crate::run::model::Model;

/// Gradients to a pass's log-probabilities and entropies.
pub(super) struct Grads {
    logprobs: Vec<f32>,
    entropies: Vec<f32>,
}

impl Grads {
    /// Zeros.
    pub(super) fn new(pass: &TokenLogprobs) -> Self {
        let zeros = vec![0.0; pass.values.len()];
        Self { logprobs: zeros.clone(), entropies: zeros }
    }

    /// Sets those of a completion; `entropy` is that of each of its tokens.
    pub(super) fn set(
        &mut self,
        pass: &TokenLogprobs,
        index: usize,
        logprobs: impl Iterator<Item = f64>,
        entropy: f64,
    ) {
        let span = pass.spans[index].clone();
        for (to, grad) in self.logprobs[span.clone()].iter_mut().zip(logprobs) {
            *to = grad as f32;
        }
        self.entropies[span].fill(entropy as f32);
    }

    /// Adds the gradients to the weights, with those of another tensor of the same pass.
    pub(super) fn backward(&self, model: &mut Model, pass: &TokenLogprobs, other: Option<(Tensor, &[f32])>) {
        let mut seeds = vec![(pass.tensor, self.logprobs.as_slice())];
        if self.entropies.iter().any(|grad| *grad != 0.0) {
            seeds.push((pass.entropies, self.entropies.as_slice()));
        }
        seeds.extend(other);
        model.tape.backward(&seeds);
    }
}

/// Log-probabilities of completions without gradients, `batch_size` at a time.
pub(super) fn logprobs(
    model: &mut Model,
    texts: &[Asked],
    role: Role,
    temperature: f32,
    batch_size: usize,
) -> Result<Vec<Vec<f64>>, TrainError> {
    let mut all = Vec::with_capacity(texts.len());
    for texts in texts.chunks(batch_size.max(1)) {
        let pass = model.token_logprobs_at(texts, role, temperature)?;
        all.extend((0..texts.len()).map(|index| pass.of(index).to_vec()));
    }
    Ok(all)
}
