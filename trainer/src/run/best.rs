//! Which evaluation was the best, its weights, and when to stop for want of a better one: as Transformers'
//! `EarlyStoppingCallback` and `load_best_model_at_end`. Leaves evaluating to `trainer`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::method::Stats;
use super::{checkpoint, files};
use crate::autograd::Params;
use crate::config::TrainConfig;
use crate::error::TrainError;

/// What the evaluations of a run have shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Evaluations {
    #[serde(default)]
    last: Option<Evaluation>,
    best: Option<Evaluation>,
    /// Evaluations in a row without one that is better by the threshold.
    num_worse: usize,
}

/// One evaluation; numbers as bits, which JSON keeps exactly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Evaluation {
    step: usize,
    loss: u64,
    sums: BTreeMap<String, (u64, u64)>,
}

impl Evaluation {
    fn new(step: usize, stats: &Stats) -> Self {
        let bits = |(sum, count): &(f64, f64)| (sum.to_bits(), count.to_bits());
        let sums = stats.sums.iter().map(|(name, sums)| (name.clone(), bits(sums))).collect();
        Self { step, loss: stats.loss.to_bits(), sums }
    }

    fn stats(&self) -> Stats {
        let number = |(sum, count): &(u64, u64)| (f64::from_bits(*sum), f64::from_bits(*count));
        let sums = self.sums.iter().map(|(name, sums)| (name.clone(), number(sums))).collect();
        Stats { loss: f64::from_bits(self.loss), num_tokens: 0, sums }
    }
}

impl Evaluations {
    /// Takes in the evaluation after `step`, and whether it is the best so far of a run that keeps it.
    ///
    /// # Errors
    /// [`TrainError::Config`] if it has no `metric_for_best_model`.
    pub(crate) fn add(
        &mut self,
        settings: &TrainConfig,
        step: usize,
        stats: &Stats,
    ) -> Result<bool, TrainError> {
        self.last = Some(Evaluation::new(step, stats));
        if !settings.keeps_best() {
            return Ok(false);
        }
        let name = &settings.metric_for_best_model;
        let short = name.strip_prefix("eval_").unwrap_or(name);
        let metric = |stats: &Stats| match stats.sums.get(short) {
            Some((sum, count)) => Ok(sum / count),
            None if short == "loss" => Ok(stats.loss),
            None => {
                let known: Vec<&str> =
                    std::iter::once("loss").chain(stats.sums.keys().map(String::as_str)).collect();
                let message = format!("evaluations have no {short}; they have {}", known.join(", "));
                Err(TrainError::config("metric_for_best_model", message))
            }
        };
        let greater = settings.greater_is_better.unwrap_or(!short.ends_with("loss"));
        let value = metric(stats)?;
        // By how much it is better; not a number is never better.
        let gain = match &self.best {
            None if value.is_nan() => f64::NAN,
            None => f64::INFINITY,
            Some(best) if greater => value - metric(&best.stats())?,
            Some(best) => metric(&best.stats())? - value,
        };
        self.num_worse = if gain > settings.early_stopping_threshold { 0 } else { self.num_worse + 1 };
        if gain > 0.0 {
            self.best = Some(Evaluation::new(step, stats));
        }
        Ok(gain > 0.0)
    }

    /// Whether enough evaluations have brought nothing better.
    pub(crate) fn is_over(&self, settings: &TrainConfig) -> bool {
        settings.early_stopping_patience > 0 && self.num_worse >= settings.early_stopping_patience
    }

    /// Numbers of the last evaluation, if it was after `step`.
    pub(crate) fn at(&self, step: usize) -> Option<Stats> {
        self.last.as_ref().filter(|last| last.step == step).map(Evaluation::stats)
    }

    /// Step and numbers of the best.
    pub(crate) fn best(&self) -> Option<(usize, Stats)> {
        self.best.as_ref().map(|best| (best.step, best.stats()))
    }
}

fn path(output_dir: &Path) -> PathBuf {
    output_dir.join("best.safetensors")
}

/// Writes the trained weights as the best.
pub(crate) fn save(output_dir: &Path, params: &Params) -> Result<(), TrainError> {
    let path = path(output_dir);
    files::write_atomic(&path, &checkpoint::weights(&path, params)?)
}

/// Brings the trained weights back to the best.
pub(crate) fn load(output_dir: &Path, params: &mut Params) -> Result<(), TrainError> {
    let path = path(output_dir);
    let bytes = std::fs::read(&path).map_err(|error| TrainError::io(&path, error))?;
    checkpoint::fill_weights(&bytes, params).map_err(|reason| TrainError::model(&path, reason))
}

/// Removes the weights, which the output now has and no resumed run will ask for.
pub(crate) fn remove(output_dir: &Path) {
    // Left behind, the file only takes room.
    let _ = std::fs::remove_file(path(output_dir));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(settings: &TrainConfig, losses: &[f64]) -> (Vec<bool>, Option<usize>, bool) {
        let mut evaluations = Evaluations::default();
        let mut better = Vec::new();
        for (step, loss) in losses.iter().enumerate() {
            let stats = Stats { loss: *loss, ..Stats::default() };
            better.push(evaluations.add(settings, step, &stats).unwrap());
            // As a resumed run finds it.
            let text = serde_json::to_string(&evaluations).unwrap();
            evaluations = serde_json::from_str(&text).unwrap();
        }
        (better, evaluations.best().map(|(step, _)| step), evaluations.is_over(settings))
    }

    #[test]
    fn patience_ends_with_too_many_evaluations_that_are_no_better() {
        let settings = TrainConfig { early_stopping_patience: 2, ..TrainConfig::default() };
        assert_eq!(run(&settings, &[3.0, 2.0, 2.5]), (vec![true, true, false], Some(1), false));
        assert!(run(&settings, &[3.0, 2.0, 2.5, f64::NAN]).2);
        assert_eq!(run(&settings, &[3.0, 2.0, 2.5, 1.9, 2.0]).1, Some(3));
    }

    #[test]
    fn a_gain_below_the_threshold_is_the_best_and_still_tries_patience() {
        let settings = TrainConfig {
            early_stopping_patience: 2,
            early_stopping_threshold: 0.5,
            ..TrainConfig::default()
        };
        assert_eq!(run(&settings, &[3.0, 2.9, 2.8]), (vec![true; 3], Some(2), true));
    }

    #[test]
    fn other_metrics_rise_and_unknown_ones_are_refused_by_name() {
        let settings = TrainConfig {
            metric_for_best_model: "eval_rewards/accuracies".to_owned(),
            load_best_model_at_end: true,
            ..TrainConfig::default()
        };
        let mut evaluations = Evaluations::default();
        for (step, right) in [3.0, 4.0, 2.0].into_iter().enumerate() {
            let mut stats = Stats::default();
            stats.add("rewards/accuracies", right, 5.0);
            assert_eq!(evaluations.add(&settings, step, &stats).unwrap(), step < 2);
        }
        let error = evaluations.add(&settings, 3, &Stats::default()).unwrap_err().to_string();
        assert!(error.contains("have no rewards/accuracies; they have loss"), "{error}");
    }
}
