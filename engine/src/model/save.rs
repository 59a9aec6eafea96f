//! Writes safetensors files that anyone can read: whole or not at all. Leaves the choice of tensors to the caller.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use super::backend::{Result, Values};
use crate::EngineError;

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct NamedTensor<'a> {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values; they are stored in the dtype they have, blocks as the numbers they stand for.
    pub values: Values<'a>,
}

/// Writes `tensors` to `path` through a temporary file beside it, so that a reader never sees half a file.
///
/// # Errors
/// [`EngineError::Load`] naming the file, if a tensor's values do not fill its shape or the file cannot be written.
pub fn save_safetensors(path: &Path, tensors: &[NamedTensor<'_>]) -> Result<()> {
    let mut views = BTreeMap::new();
    let numbers: Vec<Option<Vec<f32>>> = tensors.iter().map(|tensor| in_blocks(&tensor.values)).collect();
    for (tensor, numbers) in tensors.iter().zip(&numbers) {
        let (dtype, bytes): (Dtype, &[u8]) = match (numbers, &tensor.values) {
            (Some(numbers), _) => (Dtype::F32, bytemuck::cast_slice(numbers)),
            (None, Values::Bf16(values)) => (Dtype::BF16, bytemuck::cast_slice(values)),
            (None, Values::F32(values)) => (Dtype::F32, bytemuck::cast_slice(values)),
            (None, Values::Blocks(..)) => continue,
        };
        let view = TensorView::new(dtype, tensor.shape.clone(), bytes).map_err(|error| {
            EngineError::load(path, format!("the tensor `{}` cannot be written: {error}", tensor.name))
        })?;
        views.insert(tensor.name.as_str(), view);
    }
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let bytes = safetensors::serialize(views, metadata)
        .map_err(|error| EngineError::load(path, format!("cannot be written: {error}")))?;
    write_whole(path, &bytes).map_err(|error| EngineError::load(path, format!("cannot be written: {error}")))
}

/// Writes a file through a temporary one beside it.
///
/// # Errors
/// What the file system says.
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let mut file = std::fs::File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&partial, path)
}

/// The numbers of values in blocks.
fn in_blocks(values: &Values<'_>) -> Option<Vec<f32>> {
    matches!(values, Values::Blocks(..)).then(|| values.reborrow().into_f32())
}
