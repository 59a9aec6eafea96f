//! What a method is to the loop: its examples and what one batch of them gives. Leaves the loop to `trainer`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

use super::model::Model;
use super::progress::Control;
use super::steps::{Epochs, Steps};
use crate::config::TrainConfig;
use crate::data::Splits;
use crate::error::TrainError;
use crate::losses::Normalizer;

/// Which examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    Train,
    Eval,
}

impl Split {
    /// Its examples.
    pub(crate) fn of<T>(self, examples: &Splits<T>) -> &[T] {
        match self {
            Self::Train => &examples.train,
            Self::Eval => &examples.eval,
        }
    }
}

/// How a batch is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    pub(crate) split: Split,
    /// The loss is a sum over this: the weight of the whole step.
    pub(crate) normalizer: f64,
    /// [`Method::loss_tokens`] of the whole step.
    pub(crate) loss_tokens: f64,
    /// Asks for gradients.
    pub(crate) dropout_seed: Option<u64>,
}

impl Pass {
    /// What a loss is a mean over.
    pub(crate) fn means(&self) -> Normalizer {
        Normalizer { examples: self.normalizer, tokens: self.loss_tokens }
    }
}

/// What batches gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Stats {
    /// Sum over the batches, each over its pass's normaliser.
    pub(crate) loss: f64,
    pub(crate) num_tokens: usize,
    /// Metrics as sums and counts.
    pub(crate) sums: BTreeMap<String, (f64, f64)>,
}

impl Stats {
    /// Adds to a metric.
    pub(crate) fn add(&mut self, name: &str, sum: f64, count: f64) {
        let entry = self.sums.entry(name.to_owned()).or_default();
        *entry = (entry.0 + sum, entry.1 + count);
    }

    /// Adds other batches of the same normaliser.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.loss += other.loss;
        self.num_tokens += other.num_tokens;
        for (name, (sum, count)) in &other.sums {
            self.add(name, *sum, *count);
        }
    }
}

/// A text of an example, for people to look at.
pub(crate) struct Preview<'a> {
    pub(crate) name: &'static str,
    pub(crate) ids: Cow<'a, [u32]>,
    /// Which tokens bear loss.
    pub(crate) loss: Cow<'a, [bool]>,
}

impl<'a> Preview<'a> {
    pub(crate) fn masked(name: &'static str, ids: &'a [u32], loss: &'a [bool]) -> Self {
        Self { name, ids: Cow::Borrowed(ids), loss: Cow::Borrowed(loss) }
    }

    /// A prompt, which bears none, and what follows it, which does.
    pub(crate) fn prompted(name: &'static str, prompt: &[u32], answer: &[u32]) -> Self {
        let loss = (0..prompt.len() + answer.len()).map(|token| token >= prompt.len()).collect();
        Self { name, ids: Cow::Owned([prompt, answer].concat()), loss: Cow::Owned(loss) }
    }
}

/// A training method. Offline ones have their examples from the start; online ones make them in [`Method::prepare`].
pub(crate) trait Method {
    /// Tokens of each example.
    fn lengths(&self, split: Split) -> Vec<usize>;

    /// How much an example counts in the mean that is the loss: its loss tokens, or 1.
    fn weight(&self, split: Split, example: usize) -> f64;

    /// Tokens of the example's likelihood, for losses that add the mean over tokens to one over examples.
    fn loss_tokens(&self, split: Split, example: usize) -> f64 {
        let _ = (split, example);
        0.0
    }

    /// Called once, with the weights that a run starts from, also if it goes on from a checkpoint: asks the reference
    /// policy, if it will be gone.
    fn start(&mut self, model: &mut Model, control: &mut Control<'_>) -> Result<(), TrainError> {
        let _ = (model, control);
        Ok(())
    }

    /// Runs a batch; with [`Pass::dropout_seed`], adds its gradients.
    fn batch(&self, model: &mut Model, examples: &[usize], pass: Pass) -> Result<Stats, TrainError>;

    /// Parts in which a training batch may be run, because its loss and its metrics are sums over examples.
    fn parts<'a>(&self, examples: &'a [usize]) -> Vec<&'a [usize]> {
        vec![examples]
    }

    /// Which batches each step sees.
    fn steps(&self, settings: &TrainConfig) -> Box<dyn Steps> {
        Box::new(Epochs::new(settings, self.lengths(Split::Train)))
    }

    /// Gets ready for `step`, counted from 0: online methods sample and score here, with the weights as they are.
    ///
    /// # Errors
    /// What sampling or scoring says; [`TrainError::Diverged`] if the policy has left its bounds.
    fn prepare(
        &mut self,
        model: &mut Model,
        step: usize,
        control: &mut Control<'_>,
    ) -> Result<Stats, TrainError> {
        let _ = (model, step, control);
        Ok(Stats::default())
    }

    /// Whether nothing but weights, optimiser and [`Method::state`] is needed to go on after `step` steps: not in the
    /// middle of what [`Method::prepare`] made.
    fn is_border(&self, step: usize) -> bool {
        let _ = step;
        true
    }

    /// Whether a run that diverges ends with the weights of the last border where all was well.
    fn restores(&self) -> bool {
        false
    }

    /// What else a checkpoint keeps.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Goes on from what [`Method::state`] gave.
    fn resume(&mut self, state: &Value) {
        let _ = state;
    }

    /// The texts of a training example.
    fn preview(&self, example: usize) -> Vec<Preview<'_>>;

    /// Changes when the examples do.
    fn fingerprint(&self) -> String;

    /// Judges the last evaluation.
    fn check(&self, eval: &Stats) -> Result<(), TrainError> {
        let _ = eval;
        Ok(())
    }
}
