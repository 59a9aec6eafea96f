//! Rejection-sampling fine-tuning: the likelihood of the best completion of each prompt. Leaves its loss to `losses`.

use super::forward::Grads;
use super::learner::Learner;
use super::plan::Shape;
use super::{Online, Sample};
use crate::config::RaftConfig;
use crate::error::TrainError;
use crate::run::logprobs::Role;
use crate::run::method::{Pass, Stats};
use crate::run::model::Model;

/// The method.
pub(crate) struct Raft {
    config: RaftConfig,
}

/// The best completion of a prompt.
pub(crate) struct Unit {
    sample: Sample,
    is_learnt: bool,
}

impl Raft {
    pub(crate) fn new(config: &RaftConfig) -> Self {
        Self { config: config.clone() }
    }
}

/// Index of the highest reward; the lower of equals, the first if none is known.
pub(super) fn best(samples: &[Sample]) -> usize {
    let known = samples.iter().enumerate().filter(|(_, sample)| !sample.reward.is_nan());
    known.rev().max_by(|a, b| a.1.reward.total_cmp(&b.1.reward)).map_or(0, |(index, _)| index)
}

impl Learner for Raft {
    type Unit = Unit;

    fn num_completions(&self) -> usize {
        self.config.num_generations
    }

    fn shape(&self, num_prompts: usize) -> Shape {
        let train = &self.config.train;
        Shape {
            units_per_prompt: 1,
            batches_per_rollout: Shape::round(train, num_prompts, self.config.steps_per_generation),
            epochs_per_rollout: self.config.num_iterations,
            reshuffles: true,
        }
    }

    fn units(
        &mut self,
        _: &Online,
        _: &mut Model,
        samples: Vec<Sample>,
        stats: &mut Stats,
    ) -> Result<Vec<Unit>, TrainError> {
        let least = self.config.min_reward.unwrap_or(f64::NEG_INFINITY);
        let of_prompt = samples.chunks(self.config.num_generations).map(|samples| &samples[best(samples)]);
        let units = of_prompt
            .map(|sample| Unit { sample: sample.clone(), is_learnt: sample.reward >= least })
            .collect::<Vec<_>>();
        for unit in &units {
            stats.add("frac_learnt", f64::from(u8::from(unit.is_learnt)), 1.0);
            if unit.is_learnt {
                stats.add("reward_best", unit.sample.reward, 1.0);
            }
        }
        Ok(units)
    }

    fn weight(&self, unit: &Unit) -> f64 {
        if unit.is_learnt { unit.sample.completion.tokens.len() as f64 } else { 0.0 }
    }

    fn learn(
        &self,
        online: &Online,
        model: &mut Model,
        units: &[&Unit],
        pass: Pass,
    ) -> Result<Stats, TrainError> {
        let learnt: Vec<&Sample> =
            units.iter().filter(|unit| unit.is_learnt).map(|unit| &unit.sample).collect();
        let mut stats = Stats::default();
        if learnt.is_empty() {
            return Ok(stats);
        }
        let texts = online.texts(learnt.iter().copied());
        let policy = model.token_logprobs(&texts, Role::Policy(pass.dropout_seed))?;
        stats.num_tokens = policy.num_tokens;
        let mut grads = Grads::new(&policy);
        for index in 0..learnt.len() {
            let logprobs = policy.of(index);
            let count = logprobs.len();
            stats.loss -= logprobs.iter().sum::<f64>() / pass.normalizer;
            stats.add("entropy", policy.entropy(index), count as f64);
            grads.set(&policy, index, std::iter::repeat_n(-pass.normalizer.recip(), count), 0.0);
        }
        if pass.dropout_seed.is_some() {
            grads.backward(model, &policy, None);
        }
        Ok(stats)
    }
}
