//! Which prompts each rollout is for, and which of what it gave each step sees: functions of the step alone. Leaves
//! sampling to the methods.

use crate::config::TrainConfig;
use crate::data::shuffled;
use crate::run::steps::Steps;

/// Streams of the run's seed, behind those of the offline order.
const PROMPTS: u64 = 1 << 32;
const SAMPLES: u64 = 1 << 33;

/// The order of an online run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Prompts of the data.
    pub(crate) num_prompts: usize,
    /// Units of a prompt.
    pub(crate) units_per_prompt: usize,
    /// Units of a batch.
    pub(crate) batch_size: usize,
    /// Batches of a step.
    pub(crate) accumulation: usize,
    /// Batches of a rollout.
    pub(crate) batches_per_rollout: usize,
    /// Passes over a rollout.
    pub(crate) epochs_per_rollout: usize,
    /// Each pass has an order of its own.
    pub(crate) reshuffles: bool,
    pub(crate) seed: u64,
    /// Optimiser steps of the run.
    pub(crate) total: usize,
}

/// What the methods choose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) units_per_prompt: usize,
    /// 0 for those of a step.
    pub(crate) batches_per_rollout: usize,
    pub(crate) epochs_per_rollout: usize,
    pub(crate) reshuffles: bool,
}

impl Shape {
    /// Batches of a round: `batches`, or if that is 0 as many whole steps as the data needs.
    pub(crate) fn round(train: &TrainConfig, num_prompts: usize, batches: usize) -> usize {
        match batches {
            0 => num_prompts
                .div_ceil(train.per_device_train_batch_size)
                .next_multiple_of(train.gradient_accumulation_steps),
            batches => batches,
        }
    }
}

impl Plan {
    /// The plan of a run over `num_prompts`; the error is the sentence about a shape that does not divide.
    pub(crate) fn new(train: &TrainConfig, num_prompts: usize, shape: Shape) -> Result<Self, String> {
        let (batch_size, accumulation) =
            (train.per_device_train_batch_size, train.gradient_accumulation_steps);
        let batches_per_rollout = match shape.batches_per_rollout {
            0 => accumulation,
            batches => batches,
        };
        if batches_per_rollout % accumulation != 0 {
            return Err(format!(
                "{batches_per_rollout} batches are sampled for at once, but a step has {accumulation}: sample for whole \
                 steps"
            ));
        }
        let samples = batch_size * batches_per_rollout;
        if samples % shape.units_per_prompt != 0 {
            return Err(format!(
                "per_device_train_batch_size {batch_size} × {batches_per_rollout} batches are {samples} samples at once, \
                 but must be a multiple of the {} of each prompt",
                shape.units_per_prompt
            ));
        }
        let mut plan = Self {
            num_prompts,
            units_per_prompt: shape.units_per_prompt,
            batch_size,
            accumulation,
            batches_per_rollout,
            epochs_per_rollout: shape.epochs_per_rollout,
            reshuffles: shape.reshuffles,
            seed: train.seed,
            total: train.max_steps,
        };
        if plan.total == 0 {
            let rollouts = train.num_train_epochs * num_prompts as f64 / plan.prompts_per_rollout() as f64;
            plan.total = (rollouts.round().max(1.0) as usize) * plan.steps_per_rollout();
        }
        Ok(plan)
    }

    /// Units of a rollout.
    pub(crate) fn units_per_rollout(&self) -> usize {
        self.batch_size * self.batches_per_rollout
    }

    pub(crate) fn prompts_per_rollout(&self) -> usize {
        self.units_per_rollout() / self.units_per_prompt
    }

    pub(crate) fn steps_per_rollout(&self) -> usize {
        self.batches_per_rollout / self.accumulation * self.epochs_per_rollout
    }

    /// The rollout that `step` learns from.
    pub(crate) fn rollout(&self, step: usize) -> usize {
        step / self.steps_per_rollout()
    }

    /// Whether `step` is the first to learn from its rollout.
    pub(crate) fn starts_rollout(&self, step: usize) -> bool {
        step.is_multiple_of(self.steps_per_rollout())
    }

    /// The prompts of a rollout: every epoch has an order of its own, and a rollout may span two.
    pub(crate) fn prompts(&self, rollout: usize) -> Vec<usize> {
        let from = rollout * self.prompts_per_rollout();
        let mut order = (usize::MAX, Vec::new());
        (from..from + self.prompts_per_rollout())
            .map(|position| {
                let epoch = position / self.num_prompts;
                if order.0 != epoch {
                    order = (epoch, shuffled(self.num_prompts, self.seed, PROMPTS + epoch as u64));
                }
                order.1[position % self.num_prompts]
            })
            .collect()
    }
}

impl Steps for Plan {
    fn total(&self) -> usize {
        self.total
    }

    fn batches(&mut self, step: usize) -> Vec<Vec<usize>> {
        let first = step % self.steps_per_rollout() * self.accumulation;
        let epoch = first / self.batches_per_rollout;
        let stream = self.rollout(step) * self.epochs_per_rollout + if self.reshuffles { epoch } else { 0 };
        let order = shuffled(self.units_per_rollout(), self.seed, SAMPLES + stream as u64);
        let first = first % self.batches_per_rollout * self.batch_size;
        order[first..first + self.accumulation * self.batch_size]
            .chunks(self.batch_size)
            .map(<[_]>::to_vec)
            .collect()
    }

    fn epochs(&self, step: usize) -> f64 {
        let rollouts = step as f64 / self.steps_per_rollout() as f64;
        rollouts * self.prompts_per_rollout() as f64 / self.num_prompts as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(batches_per_rollout: usize, epochs_per_rollout: usize) -> Plan {
        let train = TrainConfig {
            per_device_train_batch_size: 4,
            gradient_accumulation_steps: 2,
            num_train_epochs: 2.0,
            ..TrainConfig::default()
        };
        let shape = Shape { units_per_prompt: 2, batches_per_rollout, epochs_per_rollout, reshuffles: true };
        Plan::new(&train, 10, shape).unwrap()
    }

    #[test]
    fn every_pass_sees_every_sample_and_every_epoch_every_prompt() {
        let mut plan = plan(4, 3);
        assert_eq!((plan.prompts_per_rollout(), plan.steps_per_rollout()), (8, 6));
        for step in [0, 2, 4] {
            let mut seen = [plan.batches(step), plan.batches(step + 1)].concat().concat();
            seen.sort_unstable();
            assert_eq!(seen, (0..16).collect::<Vec<_>>());
        }
        assert_ne!(plan.batches(0), plan.batches(2));
        let prompts: Vec<usize> = (0..5).flat_map(|rollout| plan.prompts(rollout)).collect();
        for epoch in prompts.chunks(10) {
            let mut epoch = epoch.to_vec();
            epoch.sort_unstable();
            assert_eq!(epoch, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_run_is_as_long_as_its_epochs() {
        assert_eq!(plan(0, 1).total(), 5);
        assert_eq!(plan(4, 3).total(), 3 * 6);
        assert_eq!(plan(0, 1).epochs(5), 2.0);
    }

    #[test]
    fn what_does_not_divide_is_a_sentence() {
        let train = TrainConfig { per_device_train_batch_size: 3, ..TrainConfig::default() };
        let shape =
            Shape { units_per_prompt: 2, batches_per_rollout: 0, epochs_per_rollout: 1, reshuffles: false };
        let error = Plan::new(&train, 10, shape).unwrap_err();
        assert!(error.contains("must be a multiple of the 2 of each prompt"), "{error}");
    }
}
