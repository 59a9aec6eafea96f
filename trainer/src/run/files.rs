//! Files and folders that are either whole or absent: written aside, forced to disk, renamed. Leaves their content to
//! `checkpoint` and `output`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};

use crate::error::TrainError;

/// Writes `bytes` and forces them to disk.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let io = |error| TrainError::io(path, error);
    let mut file = File::create(path).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.sync_all().map_err(io)
}

/// Writes a file so that a reader sees the old or the new one.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".tmp");
    let aside = PathBuf::from(aside);
    if let Err(error) = write(&aside, bytes) {
        // Half a file takes room that a full disk has not.
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    fs::rename(&aside, path).map_err(|error| TrainError::io(path, error))
}

/// A tensor to write.
pub(crate) struct Named<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: Dtype,
    pub(crate) bytes: std::borrow::Cow<'a, [u8]>,
}

impl<'a> Named<'a> {
    /// Single precision.
    pub(crate) fn f32(name: String, shape: Vec<usize>, values: &'a [f32]) -> Self {
        Self { name, shape, dtype: Dtype::F32, bytes: bytemuck::cast_slice(values).into() }
    }
}

/// The bytes of a safetensors file.
pub(crate) fn safetensors(path: &Path, tensors: &[Named<'_>]) -> Result<Vec<u8>, TrainError> {
    let fail = |error: safetensors::SafeTensorError| TrainError::model(path, error.to_string());
    let view = |tensor: &'_ Named<'_>| {
        TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).map(|_| ())
    };
    tensors.iter().try_for_each(|tensor| view(tensor).map_err(fail))?;
    let views = tensors
        .iter()
        .map(|tensor| {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).map_err(fail)?;
            Ok((tensor.name.as_str(), view))
        })
        .collect::<Result<Vec<_>, TrainError>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(fail)
}

/// Fills the folder `path` by `fill`, which is given a folder beside it; a folder that is there is replaced.
pub(crate) fn write_folder(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let aside = path.with_file_name(format!(".{name}.tmp"));
    let io = |error| TrainError::io(path, error);
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(io)?;
    }
    fs::create_dir_all(&aside).map_err(io)?;
    if let Err(error) = fill(&aside).and_then(|()| sync_folder(&aside)) {
        // Half a folder takes room that a full disk has not.
        let _ = fs::remove_dir_all(&aside);
        return Err(error);
    }
    if path.exists() {
        fs::remove_dir_all(path).map_err(io)?;
    }
    fs::rename(&aside, path).map_err(io)?;
    sync_folder(path.parent().unwrap_or(path))
}

/// Forces a folder's names to disk.
fn sync_folder(path: &Path) -> Result<(), TrainError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| TrainError::io(path, error))
}
