//! Options that every method of `rectify train` has. The names are TRL's keys with dashes; an option that is absent is
//! the configuration file's, and then the method's default. Leaves a method's own options to its file.

use std::path::PathBuf;

use super::keys::{Keys, keys};

/// Options of every method.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TrainArgs {
    /// Training data: JSON lines, a JSON list, Parquet or an Argilla export; may be given several times.
    #[arg(long, value_name = "FILE")]
    pub data: Vec<PathBuf>,
    /// Data to evaluate on; may be given several times.
    #[arg(long, value_name = "FILE")]
    pub eval_data: Vec<PathBuf>,
    /// The model to start from: a folder or an id on the hub.
    #[arg(long, value_name = "DIR|ID", conflicts_with = "init")]
    pub policy: Option<PathBuf>,
    /// Start from random weights instead: a folder with `config.json` and a tokenizer.
    #[arg(long, value_name = "DIR")]
    pub init: Option<PathBuf>,
    /// Where the trained model, the log and the checkpoints go.
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// A YAML file with TRL's key names; options given here override it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Go on from the last checkpoint in the output folder.
    #[arg(long)]
    pub resume: bool,
    /// Show three examples as the model will meet them, tokens that bear loss marked, and train nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Serve the run's metrics to Prometheus on this port of the loopback address.
    #[arg(long, value_name = "PORT")]
    pub metrics_port: Option<u16>,
    /// Threads that compute; by default one per core.
    #[arg(long, value_parser = crate::cli::args::positive)]
    pub threads: Option<usize>,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// The optimiser and its schedule.
    #[command(flatten)]
    pub optimizer: OptimizerKeys,
    /// Examples and batches.
    #[command(flatten)]
    pub batches: BatchKeys,
    /// What a run tells and keeps.
    #[command(flatten)]
    pub output_keys: OutputKeys,
    /// The adapter and the base under it.
    #[command(flatten)]
    pub adapter: AdapterKeys,
}

impl TrainArgs {
    /// The keys that were given, as the configuration file would have them.
    pub(crate) fn given(&self) -> Vec<(&'static str, serde_json::Value)> {
        [self.optimizer.given(), self.batches.given(), self.output_keys.given(), self.adapter.given()]
            .concat()
    }
}

keys! {
    /// Keys of the optimiser and its schedule.
    "Optimiser" OptimizerKeys:
    /// Peak learning rate.
    learning_rate: f64,
    /// After the warm-up: linear, cosine or constant.
    lr_scheduler_type: String,
    /// Warm-up steps.
    warmup_steps: usize,
    /// Warm-up as a share of all steps.
    warmup_ratio: f64,
    /// Decoupled weight decay.
    weight_decay: f64,
    /// AdamW's first decay.
    adam_beta1: f64,
    /// AdamW's second decay.
    adam_beta2: f64,
    /// AdamW's epsilon.
    adam_epsilon: f64,
    /// Gradients are scaled down to this global norm; 0 leaves them.
    max_grad_norm: f64,
    /// Passes over the data.
    num_train_epochs: f64,
    /// Stop after this many optimiser steps.
    max_steps: usize,
    /// Decides weights, order, hold-out and dropout.
    seed: u64,
}

keys! {
    /// Keys of examples and batches.
    "Batches" BatchKeys:
    /// Longest example in tokens; 0 for the model's context.
    max_length: usize,
    /// Examples of one forward pass.
    per_device_train_batch_size: usize,
    /// Instead of a number of examples: as many as fit into this many tokens.
    max_tokens_per_batch: usize,
    /// Forward passes per optimiser step.
    gradient_accumulation_steps: usize,
    /// Keep only each layer's input for the backward pass: less memory, a third more work.
    gradient_checkpointing: bool,
    /// Batches of examples of similar length.
    group_by_length: bool,
}

keys! {
    /// Keys of what a run tells and keeps.
    "Evaluation, log and checkpoints" OutputKeys:
    /// Share of the data held out for evaluation.
    eval_split: f64,
    /// Steps between evaluations; 0 for one at the end.
    eval_steps: usize,
    /// Stop after this many evaluations in a row without a better one, and keep the best.
    early_stopping_patience: usize,
    /// By how much an evaluation must be better.
    early_stopping_threshold: f64,
    /// Keep the weights of the best evaluation.
    load_best_model_at_end: bool,
    /// What is compared: loss, or another metric of the evaluation.
    metric_for_best_model: String,
    /// More of it is better; by default unless its name ends with loss.
    greater_is_better: bool,
    /// Steps between lines of the log.
    logging_steps: usize,
    /// Where metrics go besides train_log.jsonl: tensorboard or none.
    report_to: String,
    /// Steps between checkpoints; 0 for none unless stopped.
    save_steps: usize,
    /// Checkpoints kept.
    save_total_limit: usize,
    /// Number format of saved weights: float32 or bfloat16.
    save_dtype: String,
}

keys! {
    /// Keys of the adapter and the base under it.
    "Adapter" AdapterKeys:
    /// Train a LoRA adapter instead of every weight.
    use_peft: bool,
    /// Rank of the adapter.
    lora_r: usize,
    /// The adapter is scaled by lora_alpha / lora_r.
    lora_alpha: f64,
    /// Share of an adapter's inputs dropped in training.
    lora_dropout: f64,
    /// Projections that get an adapter, separated by commas: q_proj,v_proj; by default all.
    #[arg(value_delimiter = ',')]
    target_modules: Vec<String>,
    /// How the base under an adapter is held: auto, float32, bfloat16, int8 or nf4.
    base_dtype: String,
    /// How products with that base are computed: auto (fp16 if it is held in fewer than 32 bits), fp16 or no (float32).
    mixed_precision: String,
    /// A PEFT folder that the adapter starts from, of the same rank, strength and modules.
    init_adapter: String,
    /// What the policy is compared with: base (adapters off) or start (what the run starts from).
    reference: String,
}
