//! Supervised fine-tuning for the loop. Leaves its loss to `losses`.

use super::method::{Method, Pass, Preview, Split, Stats};
use super::model::Model;
use super::parts::parts;
use crate::autograd::{Logprobs, PackedBatch};
use crate::config::SftConfig;
use crate::data::{Fingerprint, SftExample, SftNotes, SftText, Splits, pack, read_sft};
use crate::error::TrainError;
use crate::losses::cross_entropy;

/// The examples of a run, each one demonstration or, packed, several.
pub(crate) struct Sft {
    bins: Splits<Vec<SftExample>>,
    pub(crate) notes: SftNotes,
}

impl Sft {
    pub(crate) fn load(config: &SftConfig, model: &Model) -> Result<Self, TrainError> {
        let max_length = model.max_length(&config.train);
        let options = SftText {
            completion_only: config.completion_only_loss,
            assistant_only: config.assistant_only_loss,
            ghost_attention: config.ghost_attention,
            // Packing cuts, or splits, by itself.
            max_length: if config.packing { usize::MAX } else { max_length },
            truncation_mode: config.truncation_mode,
        };
        let mut notes = SftNotes::default();
        let examples =
            Splits::load(&config.train, |file| read_sft(file, &model.encoder, options, &mut notes))?;
        let bins = |examples: Vec<SftExample>| {
            if config.packing {
                pack(examples, max_length, config.packing_strategy)
            } else {
                examples.into_iter().map(|example| vec![example]).collect()
            }
        };
        Ok(Self { bins: Splits { train: bins(examples.train), eval: bins(examples.eval) }, notes })
    }

    fn bins(&self, split: Split) -> &[Vec<SftExample>] {
        match split {
            Split::Train => &self.bins.train,
            Split::Eval => &self.bins.eval,
        }
    }
}

impl Method for Sft {
    fn lengths(&self, split: Split) -> Vec<usize> {
        self.bins(split).iter().map(|bin| bin.iter().map(|example| example.ids.len()).sum()).collect()
    }

    fn weight(&self, split: Split, example: usize) -> f64 {
        self.bins(split)[example].iter().map(SftExample::num_loss_tokens).sum::<usize>() as f64
    }

    fn parts<'a>(&self, examples: &'a [usize]) -> Vec<&'a [usize]> {
        let num_tokens = |bin: &[SftExample]| bin.iter().map(|example| example.ids.len()).sum();
        parts(examples, |example| num_tokens(&self.bins.train[example]))
    }

    fn batch(&self, model: &mut Model, examples: &[usize], pass: Pass) -> Result<Stats, TrainError> {
        let examples: Vec<&SftExample> =
            examples.iter().flat_map(|index| &self.bins(pass.split)[*index]).collect();
        likelihood(model, &examples, pass.normalizer, pass.dropout_seed)
    }

    fn preview(&self, example: usize) -> Vec<Preview<'_>> {
        self.bins.train[example].iter().map(|text| Preview::masked("text", &text.ids, &text.loss)).collect()
    }

    fn fingerprint(&self) -> String {
        let mut hash = Fingerprint::default();
        for example in self.bins.train.iter().chain(&self.bins.eval).flatten() {
            hash.ids(&example.ids);
            hash.flags(&example.loss);
        }
        hash.finish()
    }
}

/// Minus the log-likelihood of what is learnt of `examples`, over `normalizer`; with `dropout_seed`, adds its gradients.
pub(super) fn likelihood(
    model: &mut Model,
    examples: &[&SftExample],
    normalizer: f64,
    dropout_seed: Option<u64>,
) -> Result<Stats, TrainError> {
    let (mut inputs, mut rows, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    let mut first_row = 0;
    for example in examples {
        // Nothing after the last learnt token is needed, nor that token as an input.
        let last = example.loss.iter().rposition(|loss| *loss).unwrap_or(0);
        for (token, _) in example.loss.iter().enumerate().filter(|(_, loss)| **loss) {
            rows.push((first_row + token - 1) as u32);
            targets.push(example.ids[token]);
        }
        inputs.push(&example.ids[..last]);
        first_row += last;
    }
    let hidden = model.hidden(PackedBatch::new(inputs), &rows, dropout_seed)?;
    let Model { tape, decoder, .. } = model;
    let head = *decoder.lm_head.as_ref().unwrap_or(&decoder.embedding);
    let Logprobs { logprobs, stats: token_stats, .. } = tape.logprobs(head, hidden, &targets, 1.0);
    let mut grad = Vec::new();
    let loss = cross_entropy(tape.value(logprobs), normalizer, &mut grad);
    if dropout_seed.is_some() {
        tape.backward(&[(logprobs, &grad)]);
    }
    let correct = token_stats.iter().filter(|stats| stats.is_argmax).count();
    let num_tokens = examples.iter().map(|example| example.ids.len()).sum();
    let mut stats = Stats { loss, num_tokens, ..Stats::default() };
    stats.add("mean_token_accuracy", correct as f64, targets.len() as f64);
    Ok(stats)
}
