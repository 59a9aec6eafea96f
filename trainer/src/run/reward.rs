//! Bradley–Terry reward modelling for the loop. Leaves its loss to `losses`.

use rectify_engine::model::backend::Backend;
use sha2::{Digest, Sha256};

use super::method::{Method, Pass, Split, Stats};
use super::model::Model;
use super::sft::hex;
use crate::autograd::PackedBatch;
use crate::config::RewardConfig;
use crate::data::{PairExample, read_pairs, split};
use crate::error::TrainError;
use crate::losses::bradley_terry;

/// The pairs of a run.
pub(crate) struct Reward {
    train: Vec<PairExample>,
    eval: Vec<PairExample>,
    centering: f64,
    min_eval_accuracy: f64,
    /// Pairs too long, or of twice the same answer.
    pub(crate) num_left_out: usize,
}

impl Reward {
    pub(crate) fn load(config: &RewardConfig, model: &Model) -> Result<Self, TrainError> {
        let max_length = model.max_length(&config.train);
        let mut num_left_out = 0;
        let mut read = |files: &[std::path::PathBuf]| {
            let mut all = Vec::new();
            for file in files {
                let (pairs, left_out) = read_pairs(file, &model.encoder, max_length)?;
                all.extend(pairs);
                num_left_out += left_out;
            }
            Ok::<_, TrainError>(all)
        };
        let (train, mut eval) = (read(&config.train.data)?, read(&config.train.eval_data)?);
        let mut train: Vec<Option<PairExample>> = train.into_iter().map(Some).collect();
        if eval.is_empty() {
            let (_, held_out) = split(train.len(), config.train.eval_split, config.train.seed);
            eval = held_out.into_iter().filter_map(|index| train[index].take()).collect();
        }
        Ok(Self {
            train: train.into_iter().flatten().collect(),
            eval,
            centering: config.center_rewards_coefficient,
            min_eval_accuracy: config.min_eval_accuracy,
            num_left_out,
        })
    }

    fn pairs(&self, split: Split) -> &[PairExample] {
        match split {
            Split::Train => &self.train,
            Split::Eval => &self.eval,
        }
    }
}

impl Method for Reward {
    fn lengths(&self, split: Split) -> Vec<usize> {
        self.pairs(split).iter().map(|pair| pair.chosen.len() + pair.rejected.len()).collect()
    }

    fn weight(&self, _: Split, _: usize) -> f64 {
        1.0
    }

    fn batch(&self, model: &mut Model, examples: &[usize], pass: Pass) -> Result<Stats, TrainError> {
        let pairs: Vec<&PairExample> = examples.iter().map(|index| &self.pairs(pass.split)[*index]).collect();
        let texts = pairs.iter().flat_map(|pair| [pair.chosen.as_slice(), pair.rejected.as_slice()]);
        let batch = PackedBatch::new(texts);
        let num_tokens = batch.ids.len();
        let last: Vec<u32> = batch.cu_seqlens[1..].iter().map(|end| end - 1).collect();
        let hidden = model.hidden(batch, &last, pass.dropout_seed)?;
        let Model { tape, decoder, folder, .. } = model;
        let Some(head) = &decoder.score_head else {
            return Err(TrainError::model(folder, "has no score head"));
        };
        let rewards = tape.linear(head, &hidden)?;
        let mut stats = Stats { num_tokens, ..Stats::default() };
        let mut grad = Vec::with_capacity(last.len());
        for (pair, rewards) in pairs.iter().zip(tape.value(rewards).chunks_exact(2)) {
            let (chosen, rejected) = (f64::from(rewards[0]), f64::from(rewards[1]));
            let loss = bradley_terry(chosen, rejected, pair.margin, self.centering);
            stats.loss += loss.loss / pass.normalizer;
            grad.push((loss.grad_chosen / pass.normalizer) as f32);
            grad.push((loss.grad_rejected / pass.normalizer) as f32);
            stats.add("accuracy", f64::from(u8::from(chosen > rejected)), 1.0);
            stats.add("margin", chosen - rejected, 1.0);
            stats.add("mean_reward", chosen + rejected, 2.0);
        }
        if pass.dropout_seed.is_some() {
            tape.backward(&[(rewards, &grad)]);
        }
        Ok(stats)
    }

    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for pair in self.train.iter().chain(&self.eval) {
            for ids in [&pair.chosen, &pair.rejected] {
                hash.update((ids.len() as u64).to_le_bytes());
                hash.update(bytemuck::cast_slice::<u32, u8>(ids));
            }
            hash.update(pair.margin.to_le_bytes());
        }
        hex(&hash.finalize())
    }

    fn check(&self, eval: &Stats) -> Result<(), TrainError> {
        let Some((right, num_pairs)) = eval.sums.get("accuracy").filter(|(_, count)| *count > 0.0) else {
            return Ok(());
        };
        let accuracy = right / num_pairs;
        if accuracy < self.min_eval_accuracy {
            let required = self.min_eval_accuracy;
            return Err(TrainError::RewardAccuracy { accuracy, required, num_pairs: *num_pairs as usize });
        }
        Ok(())
    }
}
