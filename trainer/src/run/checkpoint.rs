//! Checkpoints: all that a run needs to go on as if it had never stopped. Leaves the final model to `output`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::files::{self, Named};
use crate::autograd::Params;
use crate::error::TrainError;
use crate::optim::AdamW;

const STATE: &str = "trainer_state.json";
const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";

/// Where a run is. Order and dropout follow from the seed and the step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Steps done.
    pub(crate) step: usize,
    /// Tokens trained on.
    pub(crate) num_tokens: usize,
    /// What is to be logged next: sums and counts, as bits, which JSON keeps exactly.
    pub(crate) window: BTreeMap<String, (u64, u64)>,
    /// What the method keeps.
    #[serde(default)]
    pub(crate) method: Value,
    /// Settings of the run that decide its numbers.
    pub(crate) config: Value,
    /// Fingerprint of the examples.
    pub(crate) data: String,
}

/// Folder of the checkpoint of `step`.
fn folder(output_dir: &Path, step: usize) -> PathBuf {
    output_dir.join(format!("checkpoint-{step}"))
}

/// Whole checkpoints of `output_dir` by step.
fn all(output_dir: &Path) -> BTreeMap<usize, PathBuf> {
    let entries = fs::read_dir(output_dir).into_iter().flatten().flatten();
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok();
    let paths = entries.map(|entry| entry.path()).filter(|path| path.join(STATE).is_file());
    paths.filter_map(|path| Some((step(&path)?, path))).collect()
}

/// Writes a checkpoint, then removes the oldest beyond `limit`.
pub(crate) fn save(
    output_dir: &Path,
    state: &State,
    params: &Params,
    optimizer: &AdamW,
    limit: usize,
) -> Result<PathBuf, TrainError> {
    let path = folder(output_dir, state.step);
    remove_torn(output_dir)?;
    files::write_folder(&path, |aside| {
        let weights: Vec<Named<'_>> =
            params.trainable().zip(0..).map(|(param, i)| flat("weight", i, &param.data)).collect();
        files::write(&aside.join(WEIGHTS), &files::safetensors(&path, &weights)?)?;
        let moments = optimizer.moments.iter().zip(0..);
        let moments: Vec<Named<'_>> =
            moments.flat_map(|((m, v), i)| [flat("exp_avg", i, m), flat("exp_avg_sq", i, v)]).collect();
        files::write(&aside.join(OPTIMIZER), &files::safetensors(&path, &moments)?)?;
        let text =
            serde_json::to_vec_pretty(state).map_err(|error| TrainError::model(&path, error.to_string()))?;
        files::write(&aside.join(STATE), &text)
    })?;
    let steps = all(output_dir);
    for (_, old) in steps.iter().take(steps.len().saturating_sub(limit)) {
        fs::remove_dir_all(old).map_err(|error| TrainError::io(old, error))?;
    }
    Ok(path)
}

/// Removes what a run that was killed while saving left.
fn remove_torn(output_dir: &Path) -> Result<(), TrainError> {
    for path in fs::read_dir(output_dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(".checkpoint-") && name.ends_with(".tmp") {
            fs::remove_dir_all(&path).map_err(|error| TrainError::io(&path, error))?;
        }
    }
    Ok(())
}

fn flat<'a>(name: &str, index: usize, values: &'a [f32]) -> Named<'a> {
    Named::f32(format!("{name}.{index}"), vec![values.len()], values)
}

/// Brings weights and optimiser to the newest checkpoint of `output_dir`; `None` if there is none.
pub(crate) fn load(
    output_dir: &Path,
    expected: &State,
    params: &mut Params,
    optimizer: &mut AdamW,
) -> Result<Option<State>, TrainError> {
    let Some((_, path)) = all(output_dir).pop_last() else { return Ok(None) };
    let fail = |reason: String| TrainError::model(&path, reason);
    let read =
        |file: &str| fs::read(path.join(file)).map_err(|error| TrainError::io(&path.join(file), error));
    let state: State = serde_json::from_slice(&read(STATE)?).map_err(|error| {
        fail(format!("{STATE} is not whole: {error}; remove this folder to go on from an older one"))
    })?;
    if let Some(field) = first_difference("", &state.config, &expected.config) {
        return Err(fail(format!(
            "was made with another {field}; give the same settings to resume, or another output_dir to start anew"
        )));
    }
    if state.data != expected.data {
        return Err(fail(
            "was made on other data; give the same data to resume, or another output_dir".to_owned(),
        ));
    }
    let (weights, moments) = (read(WEIGHTS)?, read(OPTIMIZER)?);
    let parse =
        |bytes| SafeTensors::deserialize(bytes).map_err(|error| fail(format!("is not whole: {error}")));
    let (weights, moments) = (parse(&weights)?, parse(&moments)?);
    let fill = |tensors: &SafeTensors<'_>, name: String, into: &mut [f32]| {
        let tensor = tensors.tensor(&name).map_err(|error| fail(error.to_string()))?;
        if tensor.dtype() != Dtype::F32 || tensor.data().len() != 4 * into.len() {
            return Err(fail(format!("`{name}` does not fit the model")));
        }
        bytemuck::cast_slice_mut::<f32, u8>(into).copy_from_slice(tensor.data());
        Ok(())
    };
    for (index, param) in params.trainable_mut().enumerate() {
        fill(&weights, format!("weight.{index}"), &mut param.data)?;
    }
    for (index, (m, v)) in optimizer.moments.iter_mut().enumerate() {
        fill(&moments, format!("exp_avg.{index}"), m)?;
        fill(&moments, format!("exp_avg_sq.{index}"), v)?;
    }
    optimizer.step = state.step as u64;
    Ok(Some(state))
}

/// The first setting in which two configurations differ.
fn first_difference(name: &str, a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            let null = Value::Null;
            keys.into_iter().find_map(|key| {
                first_difference(key, a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null))
            })
        }
        _ => (a != b).then(|| name.to_owned()),
    }
}
