//! Token log-probabilities of whole texts under the policy and the reference, the one pass of every method on
//! completions. Leaves what is done with them to the losses.

use std::ops::Range;

use rectify_kernels::train::TokenStats;

use super::model::Model;
use crate::autograd::{Logprobs, PackedBatch, Placed, Tensor};
use crate::error::TrainError;
use crate::losses::Completions;

/// A text whose tokens from `from` on are asked for, each given those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) ids: Vec<u32>,
    pub(crate) from: usize,
}

impl Asked {
    /// A completion after its prompt. Nothing is before the first token of all, so it is never asked for.
    pub(crate) fn completion(prompt: &[u32], completion: &[u32]) -> Self {
        Self { ids: [prompt, completion].concat(), from: prompt.len().max(1) }
    }

    /// The same text from its second token on.
    pub(crate) fn whole(self) -> Self {
        Self { from: 1, ..self }
    }
}

/// Whose log-probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The model as it is; with a seed for dropout, for [`Model::backward`] to follow.
    Policy(Option<u64>),
    /// The model with its adapters off; where the reference is the start, the model as it is, before the first step.
    Reference,
}

/// Log-probabilities of some texts, end to end.
#[derive(Clone, Debug)]
pub(crate) struct TokenLogprobs {
    /// Log-probabilities and entropies on the tape, `[num_tokens, 1]`.
    pub(crate) tensor: Tensor,
    pub(crate) entropies: Tensor,
    /// Hidden states from which the tokens are predicted, `[num_tokens, hidden_size]`.
    pub(crate) hidden: Tensor,
    /// In nats.
    pub(crate) values: Vec<f64>,
    pub(crate) stats: Vec<TokenStats>,
    /// Tokens of each text.
    pub(crate) spans: Vec<Range<usize>>,
    /// Of whole texts.
    pub(crate) num_tokens: usize,
}

impl TokenLogprobs {
    /// As losses see them.
    pub(crate) fn completions(&self) -> Completions<'_> {
        Completions { logprobs: &self.values, spans: &self.spans }
    }

    /// Log-probabilities of text `index`.
    pub(crate) fn of(&self, index: usize) -> &[f64] {
        &self.values[self.spans[index].clone()]
    }

    /// Sum of the entropies of the tokens of text `index`.
    pub(crate) fn entropy(&self, index: usize) -> f64 {
        self.sum(index, |token| f64::from(token.entropy))
    }

    /// Sum of a statistic over the tokens of text `index`.
    pub(crate) fn sum(&self, index: usize, of: impl Fn(&TokenStats) -> f64) -> f64 {
        self.stats[self.spans[index].clone()].iter().map(of).sum()
    }
}

impl Model {
    /// Log-probabilities of the tokens of `texts`. Those that begin alike, as the answers to one prompt do, share the
    /// work of their common beginning.
    pub(crate) fn token_logprobs(
        &mut self,
        texts: &[Asked],
        role: Role,
    ) -> Result<TokenLogprobs, TrainError> {
        self.token_logprobs_at(texts, role, 1.0)
    }

    /// As [`Model::token_logprobs`], with logits divided by `temperature`.
    pub(crate) fn token_logprobs_at(
        &mut self,
        texts: &[Asked],
        role: Role,
        temperature: f32,
    ) -> Result<TokenLogprobs, TrainError> {
        let (mut inputs, mut wanted, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        let mut spans = vec![0..0; texts.len()];
        // Side by side, wherever they stand in the batch.
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by(|a, b| texts[*a].ids.cmp(&texts[*b].ids));
        for index in order {
            let (text, start) = (&texts[index], targets.len());
            if text.from < text.ids.len() {
                // The last token is only a target.
                let input = &text.ids[..text.ids.len() - 1];
                wanted.push(text.from - 1..input.len());
                targets.extend_from_slice(&text.ids[text.from..]);
                inputs.push(input);
            }
            spans[index] = start..targets.len();
        }
        let (batch, placed) = PackedBatch::sharing(&inputs);
        let rows = |(placed, wanted): (&Placed, Range<usize>)| {
            let placed = *placed;
            wanted.map(move |token| placed.row(token))
        };
        let rows: Vec<u32> = placed.iter().zip(wanted).flat_map(rows).collect();
        let dropout_seed = match role {
            Role::Policy(dropout_seed) => dropout_seed,
            Role::Reference => None,
        };
        self.tape.set_adapters(role != Role::Reference || self.reference_is_start);
        let hidden = self.hidden_at(batch, &rows, dropout_seed);
        self.tape.set_adapters(true);
        let hidden = hidden?;
        let head = *self.decoder.lm_head.as_ref().unwrap_or(&self.decoder.embedding);
        let Logprobs { logprobs, entropies, stats } = self.tape.logprobs(head, hidden, &targets, temperature);
        let values = stats.iter().map(|stats| f64::from(stats.logprob)).collect();
        let num_tokens = texts.iter().map(|text| text.ids.len()).sum();
        Ok(TokenLogprobs { tensor: logprobs, entropies, hidden, values, stats, spans, num_tokens })
    }

    /// Adds the gradients of `Σ grad · logprob`, `[num_tokens]`, of the policy's last pass to the weights.
    pub(crate) fn backward(&mut self, logprobs: &TokenLogprobs, grad: &[f64]) {
        let grad: Vec<f32> = grad.iter().map(|grad| *grad as f32).collect();
        self.tape.backward(&[(logprobs.tensor, &grad)]);
    }
}
