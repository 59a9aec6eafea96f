//! The learning rate of each step: linear warm-up, then linear, cosine or constant.

use crate::config::{LrScheduler, TrainConfig};

/// A run's learning rates, the numbers `transformers` gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    kind: LrScheduler,
    peak: f64,
    warmup_steps: usize,
    total_steps: usize,
}

impl Schedule {
    /// The schedule of a run of `total_steps`.
    pub fn new(config: &TrainConfig, total_steps: usize) -> Self {
        let warmup_steps = match config.warmup_steps {
            0 => (config.warmup_ratio * total_steps as f64).ceil() as usize,
            steps => steps,
        };
        Self { kind: config.lr_scheduler_type, peak: config.learning_rate, warmup_steps, total_steps }
    }

    /// Learning rate of step `step`, counted from 0: with a warm-up the first step is at 0.
    pub fn learning_rate(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps.max(1) as f64;
        }
        let rest = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / rest).min(1.0);
        match self.kind {
            LrScheduler::Linear => self.peak * (1.0 - progress),
            LrScheduler::Cosine => self.peak * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            LrScheduler::Constant => self.peak,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: LrScheduler, warmup_steps: usize) -> Schedule {
        Schedule { kind, peak: 2.0, warmup_steps, total_steps: 10 }
    }

    #[test]
    fn warms_up_and_comes_down() {
        let linear = schedule(LrScheduler::Linear, 2);
        let rates: Vec<f64> = (0..10).map(|step| linear.learning_rate(step)).collect();
        assert_eq!(rates, [0.0, 1.0, 2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25]);
        let cosine = schedule(LrScheduler::Cosine, 2);
        assert_eq!(cosine.learning_rate(2), 2.0);
        assert!((cosine.learning_rate(6) - 1.0).abs() < 1e-12);
        assert_eq!(schedule(LrScheduler::Constant, 0).learning_rate(9), 2.0);
    }
}
