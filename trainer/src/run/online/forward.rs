//! Forward passes over prompts and their completions, for the policy and for the reference. Leaves losses to the methods.

use std::ops::Range;

use crate::autograd::{Logprobs, PackedBatch};
use crate::error::TrainError;
use crate::run::model::Model;

/// A completion behind its prompt.
pub(super) type Text<'a> = (&'a [u32], &'a [u32]);

/// A forward pass over some texts; all tokens of completions end to end.
pub(super) struct Forward {
    /// Log-probabilities and entropies of those tokens.
    pub(super) out: Logprobs,
    /// Tokens of each completion.
    pub(super) spans: Vec<Range<usize>>,
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
    Ok(Forward { out, spans })
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
