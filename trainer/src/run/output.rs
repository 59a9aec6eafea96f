//! What a run leaves: a Hugging Face folder of all weights, or a PEFT folder of adapters. Leaves checkpoints to
//! `checkpoint`, the card to `card`.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use half::bf16;
use rectify_engine::model::layout::SCORE_HEAD;
use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};

use super::card;
use super::files::{self, Named};
use super::model::Model;
use crate::autograd::{Part, VALUE_HEAD};
use crate::config::{LoraConfig, ModelStart, SaveDtype, TrainConfig, Tuning};
use crate::error::TrainError;

/// Files that make a folder's text the model's.
const TEXT_FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
];

/// What the card says of a run.
pub(crate) struct About<'a> {
    pub(crate) method: &'a str,
    /// Last value of each.
    pub(crate) metrics: &'a Map<String, Value>,
    /// Settings that decided the run's numbers.
    pub(crate) config: &'a Value,
    /// Fingerprint of the examples.
    pub(crate) data: &'a str,
}

/// Writes the output of a run beside its log and checkpoints.
pub(crate) fn write(settings: &TrainConfig, model: &Model, about: &About<'_>) -> Result<(), TrainError> {
    match &settings.tuning {
        Tuning::Full => write_model(settings, model)?,
        Tuning::Lora(lora) => write_adapter(settings, lora, model)?,
    }
    let has_score_head = model.decoder.score_head.is_some();
    let text = card::text(settings, &base(settings), has_score_head, about);
    files::write_atomic(&settings.output_dir.join("README.md"), text.as_bytes())
}

/// What the weights started from, as a loader finds it.
/// What PEFT should look for: a folder, or the id of one that lies in the hub's cache, which other machines know too.
fn base(settings: &TrainConfig) -> String {
    let path = match &settings.model {
        ModelStart::Folder(path) | ModelStart::Init(path) => path.clone(),
        ModelStart::Held(held) => held.source.path(),
    };
    hub_id(&path).unwrap_or_else(|| path.display().to_string())
}

/// `owner/name` of `…/models--owner--name/snapshots/COMMIT`.
fn hub_id(path: &Path) -> Option<String> {
    let snapshots =
        path.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "snapshots"))?;
    let repository = snapshots.parent()?.file_name()?.to_str()?;
    Some(repository.strip_prefix("models--")?.replacen("--", "/", 1))
}

fn tensor<'a>(name: String, part: &Part, values: &'a [f32], dtype: SaveDtype) -> Named<'a> {
    match dtype {
        SaveDtype::Float32 => Named::f32(name, part.shape.clone(), values),
        SaveDtype::Bfloat16 => {
            let values: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
            let bytes = Cow::Owned(bytemuck::cast_slice(&values).to_vec());
            Named { name, shape: part.shape.clone(), dtype: Dtype::BF16, bytes }
        }
    }
}

fn write_model(settings: &TrainConfig, model: &Model) -> Result<(), TrainError> {
    let folder = &settings.output_dir;
    for file in TEXT_FILES {
        let (from, to) = (model.folder.join(file), folder.join(file));
        if from.is_file() && from != to {
            let bytes = fs::read(&from).map_err(|error| TrainError::io(&from, error))?;
            files::write_atomic(&to, &bytes)?;
        }
    }
    let dtype = match settings.save_dtype {
        SaveDtype::Float32 => "float32",
        SaveDtype::Bfloat16 => "bfloat16",
    };
    let config = pretty(&model.config.to_json(dtype));
    files::write_atomic(&folder.join("config.json"), config.as_bytes())?;
    let path = folder.join("model.safetensors");
    let tensors: Vec<Named<'_>> = model
        .tape
        .params
        .tensors()
        .map(|(part, values, _)| tensor(part.name.clone(), part, values, settings.save_dtype))
        .collect();
    files::write_atomic(&path, &files::safetensors(&path, &tensors)?)
}

fn write_adapter(settings: &TrainConfig, lora: &LoraConfig, model: &Model) -> Result<(), TrainError> {
    let folder = &settings.output_dir;
    let has_score_head = model.decoder.score_head.is_some();
    let write = |file: &str, prefix: &str, kept: fn(&Part) -> bool| {
        let tensors: Vec<Named<'_>> = model
            .tape
            .params
            .tensors()
            .filter(|(part, _, trainable)| *trainable && kept(part))
            .map(|(part, values, _)| {
                tensor(format!("{prefix}{}", part.name), part, values, settings.save_dtype)
            })
            .collect();
        let path = folder.join(file);
        files::write_atomic(&path, &files::safetensors(&path, &tensors)?)
    };
    write("adapter_model.safetensors", "base_model.model.", |part| !is_value_head(part))?;
    if model.value_head.is_some() {
        // Beside the adapter, which others load and which knows no critic.
        write("value_head.safetensors", "", is_value_head)?;
    }
    let config = json!({
        "peft_type": "LORA",
        "task_type": if has_score_head { "SEQ_CLS" } else { "CAUSAL_LM" },
        "base_model_name_or_path": base(settings),
        "r": lora.lora_r,
        "lora_alpha": lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "target_modules": lora.target_modules,
        "modules_to_save": if has_score_head { json!([SCORE_HEAD]) } else { Value::Null },
        "rank_pattern": {},
        "alpha_pattern": {},
        "layers_to_transform": null,
        "bias": "none",
        "lora_bias": false,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "use_rslora": false,
        "use_dora": false,
    });
    files::write_atomic(&folder.join("adapter_config.json"), pretty(&config).as_bytes())
}

fn is_value_head(part: &Part) -> bool {
    part.name.starts_with(VALUE_HEAD)
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}
