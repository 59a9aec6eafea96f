//! Supervised fine-tuning for the loop. Leaves its loss to `losses`.

use sha2::{Digest, Sha256};

use super::method::{Method, Pass, Split, Stats};
use super::model::Model;
use crate::autograd::{Logprobs, PackedBatch};
use crate::config::SftConfig;
use crate::data::{SftExample, SftText, read_sft, split};
use crate::error::TrainError;
use crate::losses::cross_entropy;

/// The examples of a run.
pub(crate) struct Sft {
    train: Vec<SftExample>,
    eval: Vec<SftExample>,
    /// Lines without anything to learn.
    pub(crate) num_empty: usize,
}

impl Sft {
    pub(crate) fn load(config: &SftConfig, model: &Model) -> Result<Self, TrainError> {
        let options = SftText {
            completion_only: config.completion_only_loss,
            assistant_only: config.assistant_only_loss,
            max_length: model.max_length(&config.train),
        };
        let mut num_empty = 0;
        let mut read = |files: &[std::path::PathBuf]| {
            let mut all = Vec::new();
            for file in files {
                let (examples, empty) = read_sft(file, &model.encoder, options)?;
                all.extend(examples);
                num_empty += empty;
            }
            Ok::<_, TrainError>(all)
        };
        let (train, mut eval) = (read(&config.train.data)?, read(&config.train.eval_data)?);
        let mut train: Vec<Option<SftExample>> = train.into_iter().map(Some).collect();
        if eval.is_empty() {
            let (_, held_out) = split(train.len(), config.train.eval_split, config.train.seed);
            eval = held_out.into_iter().filter_map(|index| train[index].take()).collect();
        }
        Ok(Self { train: train.into_iter().flatten().collect(), eval, num_empty })
    }

    fn examples(&self, split: Split) -> &[SftExample] {
        match split {
            Split::Train => &self.train,
            Split::Eval => &self.eval,
        }
    }
}

impl Method for Sft {
    fn lengths(&self, split: Split) -> Vec<usize> {
        self.examples(split).iter().map(|example| example.ids.len()).collect()
    }

    fn weight(&self, split: Split, example: usize) -> f64 {
        self.examples(split)[example].num_loss_tokens() as f64
    }

    fn batch(&self, model: &mut Model, examples: &[usize], pass: Pass) -> Result<Stats, TrainError> {
        let examples: Vec<&SftExample> =
            examples.iter().map(|index| &self.examples(pass.split)[*index]).collect();
        let (mut inputs, mut rows, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        let mut first_row = 0;
        for example in &examples {
            // Nothing after the last learnt token is needed, nor that token as an input.
            let last = example.loss.iter().rposition(|loss| *loss).unwrap_or(0);
            for (token, _) in example.loss.iter().enumerate().filter(|(_, loss)| **loss) {
                rows.push((first_row + token - 1) as u32);
                targets.push(example.ids[token]);
            }
            inputs.push(&example.ids[..last]);
            first_row += last;
        }
        let hidden = model.hidden(PackedBatch::new(inputs), &rows, pass.dropout_seed)?;
        let Model { tape, decoder, .. } = model;
        let head = *decoder.lm_head.as_ref().unwrap_or(&decoder.embedding);
        let Logprobs { logprobs, stats: token_stats, .. } = tape.logprobs(head, hidden, &targets, 1.0);
        let mut grad = Vec::new();
        let loss = cross_entropy(tape.value(logprobs), pass.normalizer, &mut grad);
        if pass.dropout_seed.is_some() {
            tape.backward(&[(logprobs, &grad)]);
        }
        let correct = token_stats.iter().filter(|stats| stats.is_argmax).count();
        let num_tokens = examples.iter().map(|example| example.ids.len()).sum();
        let mut stats = Stats { loss, num_tokens, ..Stats::default() };
        stats.add("mean_token_accuracy", correct as f64, targets.len() as f64);
        Ok(stats)
    }

    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for example in self.train.iter().chain(&self.eval) {
            hash.update((example.ids.len() as u64).to_le_bytes());
            hash.update(bytemuck::cast_slice::<u32, u8>(&example.ids));
            hash.update(example.loss.iter().map(|loss| u8::from(*loss)).collect::<Vec<u8>>());
        }
        hex(&hash.finalize())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
