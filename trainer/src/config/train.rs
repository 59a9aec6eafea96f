//! What every method shares: model, data, optimiser, schedule, output. Leaves a method's own settings to its file.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{HeldModel, LoraConfig, ReferencePolicy, check};
use crate::error::TrainError;

/// Where the weights start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelStart {
    /// A Hugging Face folder with weights.
    Folder(PathBuf),
    /// A `config.json` with a tokenizer beside it: weights are drawn from `seed`.
    Init(PathBuf),
    /// One that an engine of this process serves; only adapters can be trained on it.
    Held(HeldModel),
}

/// What is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tuning {
    /// Every weight; the output is a Hugging Face folder.
    Full,
    /// Low-rank adapters on a frozen base (Hu et al. 2021, arXiv:2106.09685); the output is a PEFT folder.
    Lora(LoraConfig),
}

impl Tuning {
    /// Whether the reference is what the weights were at the start, and not a base that stays at hand.
    pub(crate) fn reference_is_start(&self) -> bool {
        match self {
            Self::Full => true,
            Self::Lora(lora) => lora.reference == ReferencePolicy::Start,
        }
    }
}

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrScheduler {
    /// Down to zero in a straight line.
    #[default]
    Linear,
    /// Down to zero along half a cosine.
    Cosine,
    /// Stays.
    #[serde(alias = "constant_with_warmup")]
    Constant,
}

/// Number format of saved weights; training itself is in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaveDtype {
    /// Half the size.
    Bfloat16,
    /// As trained.
    #[default]
    Float32,
}

/// Who else is told the metrics of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportTo {
    /// Nobody.
    None,
    /// TensorBoard, by event files in the output's `runs`.
    #[default]
    Tensorboard,
}

/// What every method shares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Where the weights start.
    pub model: ModelStart,
    /// What is trained.
    pub tuning: Tuning,
    /// Files of records (JSON lines, JSON lists, Parquet, Argilla's exports), read in order.
    pub data: Vec<PathBuf>,
    /// Files to evaluate on.
    pub eval_data: Vec<PathBuf>,
    /// Without `eval_data`: the share of `data` held out, chosen by `seed`.
    pub eval_split: f64,
    /// Where everything is written.
    pub output_dir: PathBuf,
    /// Go on from the newest checkpoint in `output_dir`.
    pub resume: bool,
    /// Threads; 0 for one per core.
    pub num_threads: usize,

    /// Peak learning rate.
    pub learning_rate: f64,
    /// Schedule after the warm-up.
    pub lr_scheduler_type: LrScheduler,
    /// Warm-up steps; wins over `warmup_ratio` when above 0.
    pub warmup_steps: usize,
    /// Warm-up as a share of all steps.
    pub warmup_ratio: f64,
    /// Decoupled weight decay, on matrices only.
    pub weight_decay: f64,
    /// AdamW's first decay.
    pub adam_beta1: f64,
    /// AdamW's second decay.
    pub adam_beta2: f64,
    /// AdamW's epsilon.
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this global norm; 0 leaves them.
    pub max_grad_norm: f64,

    /// Passes over the data.
    pub num_train_epochs: f64,
    /// Stop after this many optimiser steps; wins over `num_train_epochs` when above 0.
    pub max_steps: usize,
    /// Examples (pairs, for reward models) of one forward pass; ignored with `max_tokens_per_batch`.
    pub per_device_train_batch_size: usize,
    /// Instead of a fixed number of examples: as many as fit into this many tokens. 0 turns it off.
    pub max_tokens_per_batch: usize,
    /// Forward passes per optimiser step.
    pub gradient_accumulation_steps: usize,
    /// Keep only each layer's input for the backward pass and run the layer again there: less memory, a third more work,
    /// the same numbers.
    pub gradient_checkpointing: bool,
    /// Examples of similar length in a batch, in an order that is otherwise random.
    pub group_by_length: bool,
    /// Longest example, in tokens; 0 for the model's context.
    pub max_length: usize,
    /// Decides weights, order, hold-out and dropout.
    pub seed: u64,

    /// Steps between lines of `train_log.jsonl`.
    pub logging_steps: usize,
    /// Steps between checkpoints; 0 for none, unless the run is stopped.
    pub save_steps: usize,
    /// Checkpoints kept.
    pub save_total_limit: usize,
    /// Steps between evaluations; 0 for one at the end.
    pub eval_steps: usize,
    /// Number format of the weights in the output.
    pub save_dtype: SaveDtype,
    /// Stop after this many evaluations in a row without a better one; 0 never does. The best weights are the output.
    pub early_stopping_patience: usize,
    /// By how much an evaluation must be better to count as such.
    pub early_stopping_threshold: f64,
    /// The weights of the best evaluation are the output, without stopping early too.
    pub load_best_model_at_end: bool,
    /// Metric of the evaluation that says what is better, with or without `eval_`.
    pub metric_for_best_model: String,
    /// Whether more of it is better; `None`: unless its name ends with `loss`.
    pub greater_is_better: Option<bool>,
    /// Where metrics go besides `train_log.jsonl`.
    pub report_to: ReportTo,
    /// Read and render the data, show three examples, and train nothing.
    pub dry_run: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            model: ModelStart::Folder(PathBuf::new()),
            tuning: Tuning::Full,
            data: Vec::new(),
            eval_data: Vec::new(),
            eval_split: 0.0,
            output_dir: PathBuf::new(),
            resume: false,
            num_threads: 0,
            learning_rate: 2e-5,
            lr_scheduler_type: LrScheduler::Linear,
            warmup_steps: 0,
            warmup_ratio: 0.0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            num_train_epochs: 3.0,
            max_steps: 0,
            per_device_train_batch_size: 8,
            max_tokens_per_batch: 0,
            gradient_accumulation_steps: 1,
            gradient_checkpointing: false,
            group_by_length: false,
            max_length: 1024,
            seed: 42,
            logging_steps: 10,
            save_steps: 500,
            save_total_limit: 2,
            eval_steps: 0,
            save_dtype: SaveDtype::Float32,
            early_stopping_patience: 0,
            early_stopping_threshold: 0.0,
            load_best_model_at_end: false,
            metric_for_best_model: "loss".to_owned(),
            greater_is_better: None,
            report_to: ReportTo::Tensorboard,
            dry_run: false,
        }
    }
}

impl TrainConfig {
    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the first field that cannot work.
    pub fn validate(&self) -> Result<(), TrainError> {
        check(!self.data.is_empty(), "data", "name at least one file of records")?;
        check(self.dry_run || !self.output_dir.as_os_str().is_empty(), "output_dir", "name a folder")?;
        check((0.0..1.0).contains(&self.eval_split), "eval_split", "give a share from 0 to below 1")?;
        check(
            self.learning_rate > 0.0 && self.learning_rate.is_finite(),
            "learning_rate",
            "give a number above 0",
        )?;
        check((0.0..=1.0).contains(&self.warmup_ratio), "warmup_ratio", "give a share from 0 to 1")?;
        check(self.weight_decay >= 0.0, "weight_decay", "give 0 or more")?;
        check((0.0..1.0).contains(&self.adam_beta1), "adam_beta1", "give a number from 0 to below 1")?;
        check((0.0..1.0).contains(&self.adam_beta2), "adam_beta2", "give a number from 0 to below 1")?;
        check(self.adam_epsilon > 0.0, "adam_epsilon", "give a number above 0")?;
        check(self.max_grad_norm >= 0.0, "max_grad_norm", "give 0 (no clipping) or more")?;
        check(
            self.max_steps > 0 || self.num_train_epochs > 0.0,
            "num_train_epochs",
            "give a number above 0",
        )?;
        check(
            self.max_tokens_per_batch > 0 || self.per_device_train_batch_size > 0,
            "per_device_train_batch_size",
            "give 1 or more",
        )?;
        check(self.gradient_accumulation_steps > 0, "gradient_accumulation_steps", "give 1 or more")?;
        check(self.logging_steps > 0, "logging_steps", "give 1 or more")?;
        check(self.save_total_limit > 0, "save_total_limit", "give 1 or more")?;
        check(self.early_stopping_threshold >= 0.0, "early_stopping_threshold", "give 0 or more")?;
        check(
            !self.keeps_best() || self.eval_steps > 0,
            "eval_steps",
            "give how often to evaluate; early_stopping_patience and load_best_model_at_end compare evaluations",
        )?;
        match &self.tuning {
            Tuning::Full => check(
                !matches!(self.model, ModelStart::Held(_)),
                "use_peft",
                "set it to true: the weights that are served must not change under their engine",
            ),
            Tuning::Lora(lora) => lora.validate(),
        }
    }

    /// Whether the weights of the best evaluation are the output.
    pub fn keeps_best(&self) -> bool {
        self.early_stopping_patience > 0 || self.load_best_model_at_end
    }
}
