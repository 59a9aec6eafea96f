//! Completions as losses see them: spans of token log-probabilities, read as one number per completion, whose
//! slope is spread over the tokens it came from. Leaves what the numbers mean to each loss.

use std::ops::Range;

/// What the losses of one pass are means over: sums of the whole optimiser step, so that a step is the same however it
/// is spread over passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalizer {
    /// Pairs, or single examples of unpaired losses.
    pub examples: f64,
    /// Tokens of the likelihood term, for losses that have one.
    pub tokens: f64,
}

/// A loss and its gradient.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenLoss {
    /// In nats, over the normaliser.
    pub loss: f64,
    /// To every log-probability, `[num_tokens]`.
    pub grad: Vec<f64>,
}

/// How the log-probabilities of a completion's tokens become one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reduction {
    /// `ln π(y|x)`.
    Sum,
    /// Divided by the number of tokens to this power: 1 is the mean.
    Length(f64),
    /// The first `shared` tokens in full, later ones times `alpha`: LD-DPO, Liu et al. 2024 (arXiv:2409.06411), Eq. 10.
    Tail {
        /// Tokens of the shorter answer.
        shared: usize,
        /// Weight of what the longer one has beyond.
        alpha: f64,
    },
}

impl Reduction {
    /// Weight of token `token` of a completion of `len`.
    fn weight(self, token: usize, len: usize) -> f64 {
        match self {
            Self::Sum => 1.0,
            Self::Length(power) => (len as f64).powf(-power),
            Self::Tail { shared, alpha } => {
                if token < shared {
                    1.0
                } else {
                    alpha
                }
            }
        }
    }
}

/// Completions as spans of token log-probabilities. Pairs are a chosen completion, then its rejected one.
#[derive(Clone, Copy, Debug)]
pub struct Completions<'a> {
    /// In nats, `[num_tokens]`.
    pub logprobs: &'a [f64],
    /// Tokens of each completion.
    pub spans: &'a [Range<usize>],
}

impl Completions<'_> {
    /// Tokens of completion `index`.
    pub fn num_tokens(&self, index: usize) -> usize {
        self.spans[index].len()
    }

    /// Completion `index` as one number; 0 if it has no tokens.
    pub fn reduce(&self, index: usize, reduction: Reduction) -> f64 {
        let tokens = &self.logprobs[self.spans[index].clone()];
        tokens.iter().enumerate().map(|(t, logprob)| logprob * reduction.weight(t, tokens.len())).sum()
    }

    /// Adds to `grad`, `[num_tokens]`, what a slope to [`Completions::reduce`] is to its tokens.
    pub fn spread(&self, index: usize, reduction: Reduction, slope: f64, grad: &mut [f64]) {
        let tokens = &mut grad[self.spans[index].clone()];
        let len = tokens.len();
        for (token, grad) in tokens.iter_mut().enumerate() {
            *grad += slope * reduction.weight(token, len);
        }
    }

    /// Adds `slope · ln π` of completion `index` to a loss: the likelihood term of several methods.
    pub(super) fn add_likelihood(&self, index: usize, slope: f64, into: &mut TokenLoss) {
        into.loss += slope * self.reduce(index, Reduction::Sum);
        self.spread(index, Reduction::Sum, slope, &mut into.grad);
    }
}
