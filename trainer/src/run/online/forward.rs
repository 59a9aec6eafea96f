//! Forward passes over prompts and their completions, and what goes back through them. Leaves losses to the methods.

use std::ops::Range;

use crate::autograd::{Logprobs, PackedBatch, Tensor};
use crate::error::TrainError;
use crate::run::model::Model;

/// A completion behind its prompt.
pub(super) type Text<'a> = (&'a [u32], &'a [u32]);

/// A forward pass over some texts; all tokens of completions end to end.
pub(super) struct Forward {
    /// Hidden states from which the tokens of completions are predicted, `[num_tokens, hidden_size]`.
    pub(super) hidden: Tensor,
    /// Log-probabilities and entropies of those tokens.
    pub(super) out: Logprobs,
    /// Tokens of each completion.
    pub(super) spans: Vec<Range<usize>>,
    /// Of whole texts.
    pub(super) num_tokens: usize,
}

/// Gradients to a pass's log-probabilities and entropies.
pub(super) struct Grads {
    logprobs: Vec<f32>,
    entropies: Vec<f32>,
}

impl Forward {
    /// Log-probabilities of a completion, in nats.
    pub(super) fn logprobs(&self, index: usize) -> Vec<f64> {
        self.out.stats[self.spans[index].clone()].iter().map(|token| f64::from(token.logprob)).collect()
    }

    /// Sum of the entropies of a completion's tokens.
    pub(super) fn entropy(&self, index: usize) -> f64 {
        self.out.stats[self.spans[index].clone()].iter().map(|token| f64::from(token.entropy)).sum()
    }

    /// Gradients of zero.
    pub(super) fn grads(&self) -> Grads {
        let zeros = vec![0.0; self.out.stats.len()];
        Grads { logprobs: zeros.clone(), entropies: zeros }
    }
}

impl Grads {
    /// Sets those of a completion; `entropy` is that of each of its tokens.
    pub(super) fn set(
        &mut self,
        forward: &Forward,
        index: usize,
        logprobs: impl Iterator<Item = f64>,
        entropy: f64,
    ) {
        let span = forward.spans[index].clone();
        for (to, grad) in self.logprobs[span.clone()].iter_mut().zip(logprobs) {
            *to = grad as f32;
        }
        self.entropies[span].fill(entropy as f32);
    }

    /// Adds the gradients to the weights, with those of another tensor of the same pass.
    pub(super) fn backward(&self, model: &mut Model, forward: &Forward, other: Option<(Tensor, &[f32])>) {
        let mut seeds = vec![(forward.out.logprobs, self.logprobs.as_slice())];
        if self.entropies.iter().any(|grad| *grad != 0.0) {
            seeds.push((forward.out.entropies, self.entropies.as_slice()));
        }
        seeds.extend(other);
        model.tape.backward(&seeds);
    }
}

/// Runs the policy over `texts` at `temperature`; `dropout_seed` asks for gradients.
pub(super) fn policy(
    model: &mut Model,
    texts: &[Text<'_>],
    temperature: f32,
    dropout_seed: Option<u64>,
) -> Result<Forward, TrainError> {
    let (mut inputs, mut rows, mut targets, mut spans) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut first_row = 0;
    for (prompt, completion) in texts {
        let mut text = [*prompt, *completion].concat();
        // The last token is only a target.
        text.pop();
        rows.extend((prompt.len() - 1..text.len()).map(|row| (first_row + row) as u32));
        spans.push(targets.len()..targets.len() + completion.len());
        targets.extend_from_slice(completion);
        first_row += text.len();
        inputs.push(text);
    }
    let batch = PackedBatch::new(inputs.iter().map(Vec::as_slice));
    let hidden = model.hidden(batch, &rows, dropout_seed)?;
    let head = *model.decoder.lm_head.as_ref().unwrap_or(&model.decoder.embedding);
    let out = model.tape.logprobs(head, hidden, &targets, temperature);
    Ok(Forward { hidden, out, spans, num_tokens: first_row + texts.len() })
}

/// Log-probabilities of completions without gradients, `batch_size` at a time; of the base alone, if `reference`.
pub(super) fn logprobs(
    model: &mut Model,
    texts: &[Text<'_>],
    temperature: f32,
    batch_size: usize,
    reference: bool,
) -> Result<Vec<Vec<f64>>, TrainError> {
    let mut all = Vec::with_capacity(texts.len());
    model.tape.set_adapters(!reference);
    let mut run = || {
        for texts in texts.chunks(batch_size.max(1)) {
            let forward = policy(model, texts, temperature, None)?;
            all.extend((0..texts.len()).map(|index| forward.logprobs(index)));
        }
        Ok(())
    };
    let outcome = run();
    model.tape.set_adapters(true);
    outcome.map(|()| all)
}
