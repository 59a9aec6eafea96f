//! What can go wrong while training, each a sentence that names the file, field or number. Leaves presentation to the caller.

use std::path::{Path, PathBuf};

use rectify_engine::EngineError;
use rectify_feedback::FeedbackError;

/// Why training did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting that cannot work.
    #[error("{field}: {reason}")]
    Config {
        /// The key as users type it.
        field: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A record of the data that is not a training example.
    #[error("{file}:{line}: {reason}", file = .file.display())]
    Data {
        /// The file.
        file: PathBuf,
        /// Line, or record of a file that has no lines; from 1.
        line: usize,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A file that cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// A checkpoint that could not be written.
    #[error("the checkpoint of step {step} could not be written: {source}; {kept}")]
    Checkpoint {
        /// Optimiser step, from 1.
        step: usize,
        /// Why.
        source: Box<TrainError>,
        /// What there is to go on from.
        kept: String,
    },
    /// A model folder, checkpoint or adapter that does not fit.
    #[error("{path}: {reason}", path = .path.display())]
    Model {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The loss or a gradient is not a number.
    #[error(
        "step {step}: the {what} is {value}; the last checkpoint is kept: lower learning_rate, lengthen the warm-up, or look for broken lines in the data"
    )]
    NotFinite {
        /// Optimiser step, from 1.
        step: usize,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// The policy has left its bounds.
    #[error("step {step}: {reason}")]
    Diverged {
        /// Optimiser step, from 1.
        step: usize,
        /// What was measured, and what to change.
        reason: String,
    },
    /// A run that diverged and left its last good weights.
    #[error("{reason}; the weights of step {step} are restored and saved in {dir}", dir = .output_dir.display())]
    Restored {
        /// What happened, and what to change.
        reason: String,
        /// The step they are of.
        step: usize,
        /// Where they are.
        output_dir: PathBuf,
    },
    /// A reward model that learned nothing it can repeat on unseen pairs.
    #[error(
        "the reward model is right on {percent:.1} % of {num_pairs} held-out pairs, below {required:.0} %: labels are noisy or the task is subjective",
        percent = 100.0 * .accuracy, required = 100.0 * .required
    )]
    RewardAccuracy {
        /// Share of held-out pairs whose chosen answer scored higher.
        accuracy: f64,
        /// `min_eval_accuracy`.
        required: f64,
        /// Held-out pairs.
        num_pairs: usize,
    },
    /// A judge of completions that cannot work.
    #[error("the reward {name} failed: {reason}")]
    Reward {
        /// Which.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of records that cannot be read.
    #[error(transparent)]
    Feedback(#[from] FeedbackError),
    /// The model refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl TrainError {
    pub(crate) fn config(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Config { field, reason: reason.into() }
    }

    pub(crate) fn data(file: &Path, line: u64, reason: String) -> Self {
        Self::Data { file: file.to_owned(), line: line as usize, reason }
    }

    /// The sentence about a run that diverged; `None` for every other error.
    pub(crate) fn divergence(&self) -> Option<String> {
        match self {
            Self::Diverged { .. } => Some(self.to_string()),
            Self::NotFinite { step, what, value } => Some(format!(
                "step {step}: the {what} is {value}: lower learning_rate or look for broken lines in the data"
            )),
            _ => None,
        }
    }

    pub(crate) fn model(path: &Path, reason: impl Into<String>) -> Self {
        Self::Model { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}
