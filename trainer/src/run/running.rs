//! What moves during a run, and how it is logged, saved and reported. Leaves the steps to `trainer`.

use serde_json::{Map, Value};

use super::checkpoint::{self, State};
use super::log::{self, Log};
use super::method::{Method, Stats};
use super::progress::{Control, Progress, TrainReport};
use super::trainer::Trainer;
use crate::config::TrainConfig;
use crate::error::TrainError;
use crate::optim::AdamW;

/// What moves during a run.
pub(super) struct Running {
    pub(super) state: State,
    pub(super) optimizer: AdamW,
    pub(super) log: Log,
    /// Since the last line of the log.
    pub(super) window: Stats,
    pub(super) last_metrics: Map<String, Value>,
    pub(super) train_seconds: f64,
    pub(super) train_tokens: usize,
}

impl Running {
    pub(super) fn line(&self, epoch: f64) -> Map<String, Value> {
        let mut line = Map::new();
        line.insert("step".to_owned(), self.state.step.into());
        line.insert("epoch".to_owned(), ((epoch * 1e4).round() / 1e4).into());
        line
    }

    pub(super) fn write(
        &mut self,
        line: Map<String, Value>,
        control: &mut Control<'_>,
    ) -> Result<(), TrainError> {
        self.log.write(&line)?;
        (control.progress)(&Progress::Log(line.clone()));
        self.last_metrics.extend(line);
        Ok(())
    }

    /// Logs the means since the last line.
    pub(super) fn write_window(&mut self, epoch: f64, control: &mut Control<'_>) -> Result<(), TrainError> {
        let mut line = self.line(epoch);
        let mut means = log::metrics(&self.window, "");
        for name in ["loss", "grad_norm", "learning_rate"] {
            line.insert(name.to_owned(), means.shift_remove(name).unwrap_or_default());
        }
        line.insert("num_tokens".to_owned(), self.state.num_tokens.into());
        line.extend(means);
        self.window = Stats::default();
        self.write(line, control)
    }

    pub(super) fn save<M: Method>(
        &mut self,
        trainer: &Trainer<'_, M>,
        control: &mut Control<'_>,
    ) -> Result<(), TrainError> {
        let bits =
            |(name, (sum, count)): (&String, &(f64, f64))| (name.clone(), (sum.to_bits(), count.to_bits()));
        self.state.window = self.window.sums.iter().map(bits).collect();
        self.state.method = trainer.method.state();
        let (settings, params) = (trainer.settings, &trainer.model.tape.params);
        let limit = settings.save_total_limit;
        let path = checkpoint::save(&settings.output_dir, &self.state, params, &self.optimizer, limit)?;
        (control.progress)(&Progress::Saved(path));
        Ok(())
    }

    pub(super) fn restore_window(&mut self) {
        for (name, (sum, count)) in &self.state.window {
            self.window.sums.insert(name.clone(), (f64::from_bits(*sum), f64::from_bits(*count)));
        }
    }

    pub(super) fn report(self, settings: &TrainConfig, stopped: bool) -> TrainReport {
        TrainReport {
            steps: self.state.step,
            stopped,
            best_step: None,
            metrics: self.last_metrics,
            tokens_per_second: self.train_tokens as f64 / self.train_seconds.max(1e-9),
            output_dir: settings.output_dir.clone(),
        }
    }
}
