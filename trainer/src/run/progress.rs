//! What a run tells its caller while it goes on, and how the caller stops it. Leaves drawing and signals to the command line.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use serde_json::{Map, Value};

/// The caller's side of a run.
pub struct Control<'a> {
    /// Called on the training thread; must be quick.
    pub progress: &'a mut dyn FnMut(&Progress),
    /// Set to true to save a checkpoint after the current step and return.
    pub stop: &'a AtomicBool,
}

/// An event of a run.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Data and model are loaded.
    Started(RunInfo),
    /// An optimiser step is done.
    Step(StepInfo),
    /// A line was added to `train_log.jsonl`.
    Log(Map<String, Value>),
    /// An evaluation goes on.
    Evaluating {
        /// Forward passes done.
        done: usize,
        /// Forward passes in all.
        total: usize,
    },
    /// The reference policy is asked before the first step.
    Reference {
        /// Forward passes done.
        done: usize,
        /// Forward passes in all.
        total: usize,
    },
    /// A checkpoint or the output was written.
    Saved(PathBuf),
    /// Something the user should know that is not an error.
    Warning(String),
    /// What the run decided by itself.
    Note(String),
    /// An example of a dry run.
    Example(Example),
}

/// An example as the model will meet it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Example {
    /// Counted from 1.
    pub number: usize,
    /// What is read of it: one text, or several.
    pub texts: Vec<ExampleText>,
}

/// A text of an example.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExampleText {
    /// `chosen`, `rejected`, `prompt`…
    pub name: &'static str,
    /// Tokens.
    pub num_tokens: usize,
    /// Tokens that bear loss.
    pub num_loss_tokens: usize,
    /// The text in pieces, and whether each bears loss.
    pub pieces: Vec<(String, bool)>,
}

/// What is about to run.
#[derive(Clone, Debug, Serialize)]
pub struct RunInfo {
    /// As it is typed: `sft`, `online-dpo`…
    pub method: &'static str,
    /// Optimiser steps in all.
    pub total_steps: usize,
    /// Steps already done by the run this one resumes.
    pub resumed_steps: usize,
    /// Training examples (pairs, for reward models).
    pub num_examples: usize,
    /// Held-out examples.
    pub num_eval_examples: usize,
    /// Tokens of one pass over the training examples.
    pub num_tokens: usize,
    /// Weights of the model.
    pub num_parameters: usize,
    /// Weights that are trained.
    pub num_trainable_parameters: usize,
}

/// One optimiser step.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StepInfo {
    /// From 1.
    pub step: usize,
    /// Of this step.
    pub loss: f64,
    /// Tokens of this step.
    pub num_tokens: usize,
    /// Wall time of this step.
    pub seconds: f64,
}

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct TrainReport {
    /// Optimiser steps done, earlier runs included.
    pub steps: usize,
    /// The stop flag ended it before its last step.
    pub stopped: bool,
    /// The step whose weights the output has, if it is not the last.
    pub best_step: Option<usize>,
    /// Last logged metrics.
    pub metrics: Map<String, Value>,
    /// Training tokens per second of this run, evaluation and saving left out.
    pub tokens_per_second: f64,
    /// Where the output is.
    pub output_dir: PathBuf,
}
