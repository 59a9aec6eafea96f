//! Which batches each optimiser step sees, as a function of the step alone, so that a resumed run needs no more. Leaves
//! what a batch is to the method.

use crate::config::TrainConfig;
use crate::data::Batches;

/// The order of a run.
pub(crate) trait Steps {
    /// Optimiser steps of the whole run.
    fn total(&self) -> usize;

    /// Batches of examples of a step; steps are asked for in ascending order.
    fn batches(&mut self, step: usize) -> Vec<Vec<usize>>;

    /// Passes over the data after `step` steps, for the last step asked for or the one after.
    fn epochs(&self, step: usize) -> f64;
}

/// Epoch after epoch over examples that do not change.
pub(crate) struct Epochs {
    batches: Batches,
    total: usize,
    epoch: usize,
    /// Steps of earlier epochs.
    before: usize,
    steps: Vec<Vec<Vec<usize>>>,
}

impl Epochs {
    pub(crate) fn new(settings: &TrainConfig, lengths: Vec<usize>) -> Self {
        let batches = Batches::new(settings, lengths);
        let total = match settings.max_steps {
            0 => batches.num_steps(settings.num_train_epochs),
            steps => steps,
        };
        let steps = batches.epoch(0);
        Self { batches, total, epoch: 0, before: 0, steps }
    }
}

impl Steps for Epochs {
    fn total(&self) -> usize {
        self.total
    }

    fn batches(&mut self, step: usize) -> Vec<Vec<usize>> {
        while step >= self.before + self.steps.len() {
            self.before += self.steps.len();
            self.epoch += 1;
            self.steps = self.batches.epoch(self.epoch);
        }
        self.steps[step - self.before].clone()
    }

    fn epochs(&self, step: usize) -> f64 {
        self.epoch as f64 + (step - self.before) as f64 / self.steps.len() as f64
    }
}
