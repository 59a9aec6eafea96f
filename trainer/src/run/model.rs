//! The model under training: its decoder on a tape, and where it came from. Leaves weights' movement to `optim`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rectify_engine::model::backend::{Backend, Matrix, Values};
use rectify_engine::model::checkpoint::Checkpoint;
use rectify_engine::model::config::ModelConfig;
use rectify_engine::model::decoder::Decoder;
use rectify_engine::model::layout::{Projection, SCORE_HEAD, parts};
use rectify_engine::model::load::load_decoder;
use rectify_engine::model::source::ModelSource;
use rectify_engine::model::weights::WeightStore;
use rectify_kernels::Pool;

use super::init;
use crate::autograd::{FrozenBase, LoraSettings, PackedBatch, Tape, Tensor, VALUE_HEAD};
use crate::config::{HeldModel, MixedPrecision, ModelStart, TrainConfig, Tuning};
use crate::data::TextEncoder;
use crate::error::TrainError;

/// A decoder and its tape.
pub(crate) struct Model {
    pub(crate) tape: Tape,
    pub(crate) decoder: Decoder<Tape>,
    /// The critic's, on the same trunk.
    pub(crate) value_head: Option<usize>,
    pub(crate) config: ModelConfig,
    /// Folder of the tokenizer and, unless it starts from nothing, the weights.
    pub(crate) folder: PathBuf,
    pub(crate) encoder: TextEncoder,
    /// The reference is asked before the first step, with adapters as they start.
    pub(crate) reference_is_start: bool,
}

impl Model {
    /// Loads or draws the weights; with `score_head`, of a reward model with one output, whose head is drawn if it is
    /// not there.
    pub(crate) fn load(settings: &TrainConfig, score_head: bool) -> Result<Self, TrainError> {
        let (source, mut config, mut checkpoint) = match &settings.model {
            ModelStart::Folder(folder) => {
                let source = ModelSource::from(folder.as_path());
                let (config, checkpoint) = (ModelConfig::load(&source)?, Checkpoint::open(&source)?);
                (source, config, Some(checkpoint))
            }
            ModelStart::Held(HeldModel { source, .. }) => {
                (source.clone(), ModelConfig::load(source)?, Some(Checkpoint::open(source)?))
            }
            ModelStart::Init(path) => {
                let path = if path.is_dir() { path.join("config.json") } else { path.clone() };
                let text = std::fs::read_to_string(&path).map_err(|error| TrainError::io(&path, error))?;
                let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
                (ModelSource::Folder(folder), ModelConfig::from_json(&path, &text)?, None)
            }
        };
        let folder = source.path();
        match (config.num_labels, score_head) {
            (Some(_), false) => {
                return Err(TrainError::model(
                    &folder,
                    "is a classifier, but this method needs a language model",
                ));
            }
            (Some(labels), true) if labels != 1 => {
                let message = format!("has {labels} outputs, but a reward model has one");
                return Err(TrainError::model(&folder, message));
            }
            (None, true) => {
                config.num_labels = Some(1);
                if let Some(checkpoint) = &mut checkpoint {
                    let weight = normal(settings.seed, config.hidden_size, 0.02);
                    let values = Values::F32(Cow::Owned(weight));
                    checkpoint.insert(format!("{SCORE_HEAD}.weight"), vec![1, config.hidden_size], values)?;
                }
            }
            _ => {}
        }
        let encoder = TextEncoder::load(&source, &config)?;
        let checkpoint = checkpoint.unwrap_or_else(|| Checkpoint::random(&config, settings.seed));
        let threads = match settings.num_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let pool =
            Pool::new(threads).map_err(|error| TrainError::config("num_threads", error.to_string()))?;
        let lora = match &settings.tuning {
            Tuning::Full => None,
            Tuning::Lora(lora) => Some(LoraSettings {
                rank: lora.lora_r,
                scale: lora.lora_alpha / lora.lora_r as f32,
                dropout: lora.lora_dropout,
                target_modules: lora.target_modules.clone(),
                seed: settings.seed,
            }),
        };
        let mixed_precision = match &settings.tuning {
            Tuning::Full => MixedPrecision::No,
            Tuning::Lora(lora) => lora.mixed_precision,
        };
        let (dtype, store) = match (&settings.model, &settings.tuning) {
            (ModelStart::Held(held), _) => (held.dtype, held.weights.clone()),
            (_, Tuning::Full) => (None, WeightStore::default()),
            (_, Tuning::Lora(lora)) => (lora.base_dtype.weights(), WeightStore::default()),
        };
        let base = FrozenBase { dtype, mixed_precision, store };
        let mut tape = Tape::new(Arc::new(pool), lora).with_base(base);
        tape.set_gradient_checkpointing(settings.gradient_checkpointing);
        let decoder = load_decoder(&mut tape, &config, &checkpoint)?;
        if let Tuning::Lora(lora) = &settings.tuning {
            check_targets(&tape, &lora.target_modules, &config)?;
            if let Some(folder) = &lora.init_adapter {
                init::from_folder(folder, &config, lora, &mut tape.params)?;
            }
        }
        let reference_is_start = settings.tuning.reference_is_start();
        Ok(Self { tape, decoder, value_head: None, config, folder, encoder, reference_is_start })
    }

    /// Adds a value head of zeros.
    pub(crate) fn add_value_head(&mut self) -> Result<(), TrainError> {
        let width = self.config.hidden_size;
        let head = Matrix {
            module: VALUE_HEAD.to_owned(),
            out_features: 1,
            in_features: width,
            values: Values::F32(Cow::Owned(vec![0.0; width])),
            bias: None,
            file: None,
        };
        self.value_head = Some(self.tape.new_linear(vec![head])?);
        Ok(())
    }

    /// Values of final hidden states, `[rows, 1]`.
    pub(crate) fn values(&mut self, hidden: &Tensor) -> Result<Tensor, TrainError> {
        match &self.value_head {
            Some(head) => Ok(self.tape.linear(head, hidden)?),
            None => Err(TrainError::model(&self.folder, "has no value head")),
        }
    }

    /// Longest example.
    pub(crate) fn max_length(&self, settings: &TrainConfig) -> usize {
        match settings.max_length {
            0 => self.config.max_position_embeddings,
            length => length.min(self.config.max_position_embeddings),
        }
    }

    /// Final hidden states of the tokens `rows` of `batch`, ascending. `dropout_seed` asks for gradients.
    pub(crate) fn hidden(
        &mut self,
        batch: PackedBatch,
        rows: &[u32],
        dropout_seed: Option<u64>,
    ) -> Result<Tensor, TrainError> {
        self.tape.begin(batch, dropout_seed.is_some(), dropout_seed.unwrap_or(0));
        let batch = self.tape.ids();
        Ok(self.decoder.hidden_rows(&mut self.tape, &batch.ids, rows)?)
    }

    /// As [`Model::hidden`], for rows in any order, of which some may be asked for twice.
    pub(crate) fn hidden_at(
        &mut self,
        batch: PackedBatch,
        rows: &[u32],
        dropout_seed: Option<u64>,
    ) -> Result<Tensor, TrainError> {
        let mut ascending = rows.to_vec();
        ascending.sort_unstable();
        ascending.dedup();
        let hidden = self.hidden(batch, &ascending, dropout_seed)?;
        if ascending == rows {
            return Ok(hidden);
        }
        let place = |row: &u32| ascending.partition_point(|other| other < row) as u32;
        Ok(self.tape.gather_rows(&hidden, &rows.iter().map(place).collect::<Vec<u32>>())?)
    }
}

fn check_targets(tape: &Tape, targets: &[String], config: &ModelConfig) -> Result<(), TrainError> {
    for target in targets {
        let suffix = format!(".{target}.lora_A.weight");
        if !tape.params.tensors().any(|(part, _, _)| part.name.ends_with(&suffix)) {
            let parts = Projection::ALL.into_iter().flat_map(|projection| parts(config, 0, projection));
            let known: Vec<&str> = parts.map(|part| part.short_name()).collect();
            let message =
                format!("\"{target}\" is no projection of this model; known are {}", known.join(", "));
            return Err(TrainError::config("target_modules", message));
        }
    }
    Ok(())
}

/// Normal numbers by the Box–Muller transform.
fn normal(seed: u64, count: usize, deviation: f64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::MAX);
    let mut draw = || {
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * rng.random::<f64>()).cos() * deviation) as f32
    };
    (0..count).map(|_| draw()).collect()
}
