//! Checkpoints: all that a run needs to go on as if it had never stopped. Leaves the final model to `output`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::best::Evaluations;
use super::files::{self, Named};
use crate::autograd::Params;
use crate::data::hex;
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
    /// What the evaluations have shown.
    #[serde(default)]
    pub(crate) evaluations: Evaluations,
    /// What the method keeps.
    #[serde(default)]
    pub(crate) method: Value,
    /// Settings of the run that decide its numbers.
    pub(crate) config: Value,
    /// Fingerprint of the examples.
    pub(crate) data: String,
}

/// A state on the disk, with what its other files must hold.
#[derive(Serialize, Deserialize)]
struct Saved {
    #[serde(flatten)]
    state: State,
    /// SHA-256 of each file.
    files: BTreeMap<String, String>,
}

/// Folder of the checkpoint of `step`.
fn folder(output_dir: &Path, step: usize) -> PathBuf {
    output_dir.join(format!("checkpoint-{step}"))
}

/// Checkpoints of `output_dir` by step; without their last file, killed runs leave none, but copies may be torn.
pub(crate) fn all(output_dir: &Path) -> BTreeMap<usize, PathBuf> {
    let entries = fs::read_dir(output_dir).into_iter().flatten().flatten();
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok();
    let paths = entries.map(|entry| entry.path()).filter(|path| path.join(STATE).is_file());
    paths.filter_map(|path| Some((step(&path)?, path))).collect()
}

/// Writes a checkpoint, then removes the oldest beyond `limit` and those of later steps, which were damaged.
///
/// # Errors
/// One sentence with what the system says (a full disk) and the step that a resumed run goes on from.
pub(crate) fn save(
    output_dir: &Path,
    state: &State,
    params: &Params,
    optimizer: &AdamW,
    limit: usize,
) -> Result<PathBuf, TrainError> {
    let path = folder(output_dir, state.step);
    remove_torn(output_dir)?;
    let written = files::write_folder(&path, |aside| write(aside, state, params, optimizer));
    if let Err(error) = written {
        let kept = all(output_dir).into_keys().rfind(|step| *step < state.step);
        let kept = match kept {
            Some(step) => {
                format!("the checkpoint of step {step} is whole: make room, then --resume goes on from it")
            }
            None => "there is no earlier one; make room and start again".to_owned(),
        };
        return Err(TrainError::Checkpoint { step: state.step, source: Box::new(error), kept });
    }
    let mut steps = all(output_dir);
    let later = steps.split_off(&(state.step + 1));
    let oldest = steps.len().saturating_sub(limit);
    for old in steps.values().take(oldest).chain(later.values()) {
        fs::remove_dir_all(old).map_err(|error| TrainError::io(old, error))?;
    }
    Ok(path)
}

fn write(folder: &Path, state: &State, params: &Params, optimizer: &AdamW) -> Result<(), TrainError> {
    let moments = optimizer.moments.iter().zip(0..);
    let moments: Vec<Named<'_>> =
        moments.flat_map(|((m, v), i)| [flat("exp_avg", i, m), flat("exp_avg_sq", i, v)]).collect();
    let mut hashes = BTreeMap::new();
    for (name, bytes) in
        [(WEIGHTS, weights(folder, params)?), (OPTIMIZER, files::safetensors(folder, &moments)?)]
    {
        files::write(&folder.join(name), &bytes)?;
        hashes.insert(name.to_owned(), hash(&bytes));
    }
    let saved = Saved { state: state.clone(), files: hashes };
    let text =
        serde_json::to_vec_pretty(&saved).map_err(|error| TrainError::model(folder, error.to_string()))?;
    files::write(&folder.join(STATE), &text)
}

fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The trained weights as a file; `path` is what errors name.
pub(crate) fn weights(path: &Path, params: &Params) -> Result<Vec<u8>, TrainError> {
    let weights: Vec<Named<'_>> =
        params.trainable().zip(0..).map(|(param, i)| flat("weight", i, &param.data)).collect();
    files::safetensors(path, &weights)
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

/// Brings weights and optimiser to the newest whole checkpoint of `output_dir`; `None` if there is none at all. Each
/// damaged one is told to `warn`.
///
/// # Errors
/// One sentence if the checkpoint is of other settings or data, or if there are only damaged ones.
pub(crate) fn load(
    output_dir: &Path,
    expected: &State,
    params: &mut Params,
    optimizer: &mut AdamW,
    mut warn: impl FnMut(String),
) -> Result<Option<State>, TrainError> {
    let mut damaged = None;
    for (_, path) in all(output_dir).into_iter().rev() {
        match read(&path) {
            Ok(whole) => return whole.restore(&path, expected, params, optimizer).map(Some),
            Err(reason) => {
                warn(format!("{}: {reason}; this checkpoint is left out", path.display()));
                damaged = Some(path);
            }
        }
    }
    match damaged {
        None => Ok(None),
        Some(path) => Err(TrainError::model(
            &path,
            "is damaged, and there is no other checkpoint; remove it to start from the beginning",
        )),
    }
}

/// The files of a checkpoint, whole.
struct Whole {
    state: State,
    weights: Vec<u8>,
    moments: Vec<u8>,
}

fn read(path: &Path) -> Result<Whole, String> {
    let file =
        |name: &str| fs::read(path.join(name)).map_err(|error| format!("{name} cannot be read: {error}"));
    let Saved { state, files } =
        serde_json::from_slice(&file(STATE)?).map_err(|error| format!("{STATE} is not whole: {error}"))?;
    let checked = |name: &str| {
        let bytes = file(name)?;
        match files.get(name) {
            Some(expected) if *expected == hash(&bytes) => Ok(bytes),
            _ => Err(format!("{name} is not what was written (its SHA-256 differs)")),
        }
    };
    Ok(Whole { weights: checked(WEIGHTS)?, moments: checked(OPTIMIZER)?, state })
}

impl Whole {
    fn restore(
        self,
        path: &Path,
        expected: &State,
        params: &mut Params,
        optimizer: &mut AdamW,
    ) -> Result<State, TrainError> {
        let fail = |reason: String| TrainError::model(path, reason);
        let Self { state, weights, moments } = self;
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
        fill_weights(&weights, params).map_err(fail)?;
        let moments = SafeTensors::deserialize(&moments).map_err(|error| fail(error.to_string()))?;
        for (index, (m, v)) in optimizer.moments.iter_mut().enumerate() {
            fill(&moments, &format!("exp_avg.{index}"), m).map_err(fail)?;
            fill(&moments, &format!("exp_avg_sq.{index}"), v).map_err(fail)?;
        }
        optimizer.step = state.step as u64;
        Ok(state)
    }
}

/// Puts [`weights`] back.
///
/// # Errors
/// One sentence if they are not this model's.
pub(crate) fn fill_weights(bytes: &[u8], params: &mut Params) -> Result<(), String> {
    let weights = SafeTensors::deserialize(bytes).map_err(|error| format!("is not whole: {error}"))?;
    let mut params = params.trainable_mut().enumerate();
    params.try_for_each(|(index, param)| fill(&weights, &format!("weight.{index}"), &mut param.data))
}

fn fill(tensors: &SafeTensors<'_>, name: &str, into: &mut [f32]) -> Result<(), String> {
    let tensor = tensors.tensor(name).map_err(|error| error.to_string())?;
    if tensor.dtype() != Dtype::F32 || tensor.data().len() != 4 * into.len() {
        return Err(format!("`{name}` does not fit the model"));
    }
    bytemuck::cast_slice_mut::<f32, u8>(into).copy_from_slice(tensor.data());
    Ok(())
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
