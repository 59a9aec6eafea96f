//! The loop of every method: steps, log, evaluation, checkpoints, output. Leaves what a batch is to the method,
//! what moves to `running`.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::{Map, Value};

use super::best;
use super::checkpoint::{self, State};
use super::log::{self, Log};
use super::method::{Method, Pass, Split, Stats};
use super::model::Model;
use super::output::{self, About};
use super::progress::{Control, Progress, RunInfo, StepInfo, TrainReport};
use super::running::Running;
use crate::config::TrainConfig;
use crate::data::Batches;
use crate::error::TrainError;
use crate::optim::{AdamW, Hyper, Schedule};

/// Settings that do not change the numbers of a run, and so may differ when it is resumed.
const FREE_SETTINGS: &[&str] = &[
    "output_dir",
    "resume",
    "num_threads",
    "gradient_checkpointing",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "eval_steps",
    "save_dtype",
    "early_stopping_patience",
    "early_stopping_threshold",
    "load_best_model_at_end",
    "report_to",
    "dry_run",
];

/// A run.
pub(crate) struct Trainer<'a, M> {
    pub(crate) name: &'static str,
    pub(crate) settings: &'a TrainConfig,
    pub(crate) method: M,
    pub(crate) model: Model,
}

/// The weights of a border where all was well.
struct Good {
    step: usize,
    weights: Vec<Vec<f32>>,
}

impl<M: Method> Trainer<'_, M> {
    /// Runs to the end, or until stopped.
    pub(crate) fn run(mut self, config: Value, control: &mut Control<'_>) -> Result<TrainReport, TrainError> {
        let settings = self.settings;
        let lengths = self.method.lengths(Split::Train);
        if lengths.is_empty() {
            return Err(TrainError::config("data", "no example is left to train on"));
        }
        if settings.dry_run {
            return Ok(self.preview(control));
        }
        let (num_examples, num_tokens) = (lengths.len(), lengths.iter().sum());
        let mut steps = self.method.steps(settings);
        let total_steps = steps.total();
        fs::create_dir_all(&settings.output_dir)
            .map_err(|error| TrainError::io(&settings.output_dir, error))?;
        self.refuse_mixture()?;
        let num_eval_examples = self.method.lengths(Split::Eval).len();
        if settings.keeps_best() && num_eval_examples == 0 {
            let message = "give eval_data or eval_split; the best weights are those of the best evaluation";
            return Err(TrainError::config("load_best_model_at_end", message));
        }
        self.method.start(&mut self.model, control)?;
        let mut running = self.start(config, control)?;
        (control.progress)(&Progress::Started(RunInfo {
            method: self.name,
            total_steps,
            resumed_steps: running.state.step,
            num_examples,
            num_eval_examples,
            num_tokens,
            num_parameters: self.model.tape.num_parameters(),
            num_trainable_parameters: self.model.tape.params.num_trainable(),
        }));
        let schedule = Schedule::new(settings, total_steps);
        let mut good = None;
        let mut save_is_due = false;
        while running.state.step < total_steps {
            let step = running.state.step;
            let outcome = self.prepare(step, &mut running, &mut good, control).and_then(|()| {
                let learning_rate = schedule.learning_rate(step);
                self.step(&steps.batches(step), learning_rate, &mut running, control)
            });
            if let Err(error) = outcome {
                return Err(self.fall_back(error, good, &running)?);
            }
            let step = running.state.step;
            let is_last = step == total_steps;
            let epoch = steps.epochs(step);
            if step.is_multiple_of(settings.logging_steps) || is_last {
                running.write_window(epoch, control)?;
            }
            // The last one too before a checkpoint knows of this step: a run that ends twice logs it once.
            let eval_is_due = settings.eval_steps > 0 && step.is_multiple_of(settings.eval_steps);
            if num_eval_examples > 0 && (eval_is_due || is_last) {
                self.evaluate(epoch, &mut running, control)?;
                if running.state.evaluations.is_over(settings) {
                    if !is_last && running.window != Stats::default() {
                        running.write_window(epoch, control)?;
                    }
                    let patience = settings.early_stopping_patience;
                    let note = format!("stopped at step {step}: no better evaluation in the last {patience}");
                    (control.progress)(&Progress::Note(note));
                    break;
                }
            }
            save_is_due |= settings.save_steps > 0 && step.is_multiple_of(settings.save_steps);
            let stopped = control.stop.load(Ordering::Relaxed) && !is_last;
            if (save_is_due || stopped) && self.method.is_border(step) {
                running.save(&self, control)?;
                save_is_due = false;
                if stopped {
                    return Ok(running.report(self.settings, true));
                }
            }
        }
        let mut best_step = None;
        if num_eval_examples > 0 {
            let step = running.state.step;
            let mut stats = match running.state.evaluations.at(step) {
                Some(stats) => stats,
                None => self.evaluate(steps.epochs(step), &mut running, control)?,
            };
            if let Some((best, best_stats)) =
                running.state.evaluations.best().filter(|(best, _)| *best != step)
            {
                best::load(&settings.output_dir, &mut self.model.tape.params)?;
                running.last_metrics.extend(eval_metrics(&best_stats));
                (control.progress)(&Progress::Note(format!(
                    "the output has the weights of step {best}, the best"
                )));
                (best_step, stats) = (Some(best), best_stats);
            }
            self.method.check(&stats)?;
        }
        self.write_output(&running)?;
        if checkpoint::all(&settings.output_dir).is_empty() {
            best::remove(&settings.output_dir);
        }
        (control.progress)(&Progress::Saved(settings.output_dir.clone()));
        Ok(TrainReport { best_step, ..running.report(settings, false) })
    }

    fn write_output(&self, running: &Running) -> Result<(), TrainError> {
        let about = About {
            method: self.name,
            metrics: &running.last_metrics,
            config: &running.state.config,
            data: &running.state.data,
        };
        output::write(self.settings, &self.model, &about)
    }

    /// Lets the method get ready for a step, and remembers the weights if it could.
    fn prepare(
        &mut self,
        step: usize,
        running: &mut Running,
        good: &mut Option<Good>,
        control: &mut Control<'_>,
    ) -> Result<(), TrainError> {
        let start = Instant::now();
        let stats = self.method.prepare(&mut self.model, step, control)?;
        running.window.merge(&stats);
        running.train_seconds += start.elapsed().as_secs_f64();
        if self.method.restores() && self.method.is_border(step) {
            let weights = self.model.tape.params.trainable().map(|param| param.data.clone()).collect();
            *good = Some(Good { step, weights });
        }
        Ok(())
    }

    /// What to say when a step failed; a run that diverged leaves the last good weights as its output.
    fn fall_back(
        &mut self,
        error: TrainError,
        good: Option<Good>,
        running: &Running,
    ) -> Result<TrainError, TrainError> {
        let (Some(good), Some(reason)) = (good, error.divergence()) else { return Ok(error) };
        for (param, weights) in self.model.tape.params.trainable_mut().zip(good.weights) {
            param.data = weights;
        }
        self.write_output(running)?;
        let output_dir = self.settings.output_dir.clone();
        Ok(TrainError::Restored { reason, step: good.step, output_dir })
    }

    /// A new run beside the checkpoints of an old one could not be told from it later.
    fn refuse_mixture(&self) -> Result<(), TrainError> {
        let output_dir = &self.settings.output_dir;
        match checkpoint::all(output_dir).last_key_value() {
            Some((step, _)) if !self.settings.resume => {
                let message = format!(
                    "has the checkpoint of step {step} of an earlier run: resume goes on from it; to start anew, remove \
                     it or name another folder"
                );
                Err(TrainError::model(output_dir, message))
            }
            _ => Ok(()),
        }
    }

    fn start(&mut self, mut config: Value, control: &mut Control<'_>) -> Result<Running, TrainError> {
        if let Some(train) = config.get_mut("train").and_then(Value::as_object_mut) {
            train.retain(|name, _| !FREE_SETTINGS.contains(&name.as_str()));
        }
        let params = &mut self.model.tape.params;
        let mut optimizer = AdamW::new(Hyper::from(self.settings), params);
        let mut state = State { config, data: self.method.fingerprint(), ..State::default() };
        let output_dir = &self.settings.output_dir;
        if self.settings.resume {
            let warn = |sentence| (control.progress)(&Progress::Warning(sentence));
            if let Some(saved) = checkpoint::load(output_dir, &state, params, &mut optimizer, warn)? {
                state = saved;
                self.method.resume(&state.method);
            }
        }
        let (log, last_metrics) = Log::open(self.settings, state.step)?;
        let mut running = Running {
            state,
            optimizer,
            log,
            window: Stats::default(),
            last_metrics,
            train_seconds: 0.0,
            train_tokens: 0,
        };
        running.restore_window();
        Ok(running)
    }

    /// One optimiser step.
    fn step(
        &mut self,
        batches: &[Vec<usize>],
        learning_rate: f64,
        running: &mut Running,
        control: &mut Control<'_>,
    ) -> Result<(), TrainError> {
        let start = Instant::now();
        let step = running.state.step;
        let weight = |example: &usize| self.method.weight(Split::Train, *example);
        let normalizer: f64 = batches.iter().flatten().map(weight).sum();
        let loss_tokens = |example: &usize| self.method.loss_tokens(Split::Train, *example);
        let loss_tokens: f64 = batches.iter().flatten().map(loss_tokens).sum();
        self.model.tape.params.zero_grad();
        let mut stats = Stats::default();
        let parts = batches.iter().flat_map(|examples| self.method.parts(examples));
        for (index, examples) in parts.enumerate() {
            let dropout_seed = Some(seed_of(self.settings.seed, step, index));
            let pass = Pass { split: Split::Train, normalizer, loss_tokens, dropout_seed };
            stats.merge(&self.method.batch(&mut self.model, examples, pass)?);
        }
        let finite = |what, value: f64| {
            if value.is_finite() {
                Ok(())
            } else {
                Err(TrainError::NotFinite { step: step + 1, what, value })
            }
        };
        finite("loss", stats.loss)?;
        let pool = std::sync::Arc::clone(self.model.tape.pool());
        let params = &mut self.model.tape.params;
        let grad_norm = AdamW::grad_norm(&pool, params);
        finite("gradient norm", grad_norm)?;
        running.optimizer.step(&pool, params, learning_rate, grad_norm);

        running.state.step += 1;
        running.state.num_tokens += stats.num_tokens;
        running.window.add("loss", stats.loss, 1.0);
        running.window.sums.insert("grad_norm".to_owned(), (grad_norm, 1.0));
        running.window.sums.insert("learning_rate".to_owned(), (learning_rate, 1.0));
        running.window.merge(&Stats { loss: 0.0, ..stats.clone() });
        let seconds = start.elapsed().as_secs_f64();
        running.train_seconds += seconds;
        running.train_tokens += stats.num_tokens;
        let info = StepInfo { step: step + 1, loss: stats.loss, num_tokens: stats.num_tokens, seconds };
        (control.progress)(&Progress::Step(info));
        Ok(())
    }

    /// Means over the hold-out, logged.
    fn evaluate(
        &mut self,
        epoch: f64,
        running: &mut Running,
        control: &mut Control<'_>,
    ) -> Result<Stats, TrainError> {
        let lengths = self.method.lengths(Split::Eval);
        let weights: f64 = (0..lengths.len()).map(|example| self.method.weight(Split::Eval, example)).sum();
        let loss_tokens =
            (0..lengths.len()).map(|example| self.method.loss_tokens(Split::Eval, example)).sum();
        let batches = Batches::new(self.settings, lengths).in_order();
        let mut stats = Stats::default();
        for (done, examples) in batches.iter().enumerate() {
            let pass = Pass { split: Split::Eval, normalizer: weights, loss_tokens, dropout_seed: None };
            stats.merge(&self.method.batch(&mut self.model, examples, pass)?);
            (control.progress)(&Progress::Evaluating { done: done + 1, total: batches.len() });
        }
        let mut line = running.line(epoch);
        line.extend(eval_metrics(&stats));
        running.write(line, control)?;
        let step = running.state.step;
        if running.state.evaluations.add(self.settings, step, &stats)? {
            best::save(&self.settings.output_dir, &self.model.tape.params)?;
        }
        Ok(stats)
    }
}

fn eval_metrics(stats: &Stats) -> Map<String, Value> {
    let mut metrics = Map::new();
    metrics.insert("eval_loss".to_owned(), stats.loss.into());
    metrics.extend(log::metrics(stats, "eval_"));
    metrics
}

/// The seed of `index` in `step`: what is dropped in a batch, what is sampled for a prompt.
pub(crate) fn seed_of(seed: u64, step: usize, index: usize) -> u64 {
    let mixed = seed
        .wrapping_mul(0xD6E8_FEB8_6659_FD93)
        .wrapping_add(step as u64)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (index as u64).wrapping_mul(0xC2B2_AE3D_27D4_EB4F)).rotate_left(23)
}
