//! Files as memory: the one place of the engine that maps a file. Leaves reading them to `checkpoint`.
#![expect(unsafe_code, reason = "mapping a file into memory has no safe interface")]

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use super::backend::Result;
use crate::EngineError;

/// A whole file, read-only.
#[derive(Debug)]
pub struct MappedFile(Option<memmap2::Mmap>);

impl MappedFile {
    /// Maps the file at `path`. Model files must not be changed in place while they are being loaded; writers replace
    /// them by renaming, as `rectify train` does.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| EngineError::load(path, format!("cannot be read: {error}"));
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(EngineError::load(path, "is not a regular file"));
        }
        if metadata.len() == 0 {
            return Ok(Self(None)); // An empty mapping is an error on some systems.
        }
        // SAFETY: the mapping is read-only and private to this value; its bytes stay as they are unless someone
        // changes the file in place, which the documentation above forbids, as every user of mapped weights does.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
        #[cfg(unix)]
        if let Err(error) = map.advise(memmap2::Advice::WillNeed) {
            tracing::debug!(%error, "no read-ahead for {}", path.display());
        }
        Ok(Self(Some(map)))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
