//! Bradley–Terry reward modelling for the loop. Leaves its loss to `losses`.

use rectify_engine::model::backend::Backend;

use super::method::{Method, Pass, Preview, Split, Stats};
use super::model::Model;
use super::parts::parts;
use crate::autograd::PackedBatch;
use crate::config::RewardConfig;
use crate::data::{Fingerprint, PairExample, Splits, read_pairs};
use crate::error::TrainError;
use crate::losses::bradley_terry;

/// The pairs of a run.
pub(crate) struct Reward {
    pairs: Splits<PairExample>,
    centering: f64,
    min_eval_accuracy: f64,
    /// Pairs too long, or of twice the same answer.
    pub(crate) num_left_out: usize,
}

impl Reward {
    pub(crate) fn load(config: &RewardConfig, model: &Model) -> Result<Self, TrainError> {
        let max_length = model.max_length(&config.train);
        let mut num_left_out = 0;
        let pairs = Splits::load(&config.train, |file| {
            let (pairs, left_out) = read_pairs(file, &model.encoder, max_length)?;
            num_left_out += left_out;
            Ok(pairs)
        })?;
        Ok(Self {
            pairs,
            centering: config.center_rewards_coefficient,
            min_eval_accuracy: config.min_eval_accuracy,
            num_left_out,
        })
    }

    fn pairs(&self, split: Split) -> &[PairExample] {
        match split {
            Split::Train => &self.pairs.train,
            Split::Eval => &self.pairs.eval,
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

    fn parts<'a>(&self, examples: &'a [usize]) -> Vec<&'a [usize]> {
        let num_tokens = |pair: &PairExample| pair.chosen.len() + pair.rejected.len();
        parts(examples, |example| num_tokens(&self.pairs(Split::Train)[example]))
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

    /// Only the last token of each is scored.
    fn preview(&self, example: usize) -> Vec<Preview<'_>> {
        let pair = &self.pairs.train[example];
        let scored = |name, ids: &[u32]| {
            let (last, before) = ids
                .split_last()
                .map_or((&[][..], ids), |(last, before)| (std::slice::from_ref(last), before));
            Preview::prompted(name, before, last)
        };
        vec![scored("chosen", &pair.chosen), scored("rejected", &pair.rejected)]
    }

    fn fingerprint(&self) -> String {
        let mut hash = Fingerprint::default();
        for pair in self.pairs.train.iter().chain(&self.pairs.eval) {
            hash.ids(&pair.chosen);
            hash.ids(&pair.rejected);
            hash.number(pair.margin);
        }
        hash.finish()
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
