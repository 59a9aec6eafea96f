//! A version as a local PEFT folder: copied into a cache, each file checked against its hash. Leaves loading to the engine.

use std::path::{Path as FilePath, PathBuf};

use super::{ADAPTER_FILES, FileHash, GATE_REPORT, MANIFEST, MODEL_CARD, Manifest, Registry, RegistryError};
use crate::run::files;

/// Files beside the adapter that tell of it.
const TOLD: [&str; 3] = [MANIFEST, GATE_REPORT, MODEL_CARD];

impl Registry {
    /// Writes a version into a folder as anyone loads it, with its manifest, report and card; the names of the files.
    ///
    /// # Errors
    /// As [`Registry::fetch`].
    pub async fn export(
        &self,
        name: &str,
        version: u64,
        folder: &FilePath,
    ) -> Result<Vec<String>, RegistryError> {
        let manifest = self.manifest(name, version).await?;
        self.write_adapter(&manifest, folder).await?;
        let mut written: Vec<String> = ADAPTER_FILES.map(str::to_owned).into();
        for file in TOLD {
            if let Some(bytes) = self.get(name, version, file).await? {
                write(&folder.join(file), &bytes)?;
                written.push(file.to_owned());
            }
        }
        Ok(written)
    }

    /// The folder with the adapter of a version, below `cache`. What is there already is checked and used again.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`] if a stored file is not what its manifest says; nothing is left behind then.
    pub async fn fetch(&self, name: &str, version: u64, cache: &FilePath) -> Result<PathBuf, RegistryError> {
        let manifest = self.manifest(name, version).await?;
        // The hash tells apart versions of one number in two registries.
        let short = manifest.content_hash.get(..12).unwrap_or(&manifest.content_hash);
        let folder = cache.join(name).join(format!("{version}-{short}"));
        self.write_adapter(&manifest, &folder).await?;
        Ok(folder)
    }

    /// Writes the adapter's files that are not there yet, each checked against its hash.
    async fn write_adapter(&self, manifest: &Manifest, folder: &FilePath) -> Result<(), RegistryError> {
        std::fs::create_dir_all(folder).map_err(|error| RegistryError::file(folder, &error))?;
        for file in ADAPTER_FILES {
            let location = self.location(&manifest.name, manifest.version, file)?;
            let damaged = |reason: String| RegistryError::damaged(&location, reason);
            let Some(hash) = manifest.files.get(file) else {
                return Err(damaged("is not in its manifest".to_owned()));
            };
            let path = folder.join(file);
            if std::fs::read(&path).is_ok_and(|bytes| FileHash::of(&bytes) == *hash) {
                continue;
            }
            let Some(bytes) = self.read(&location).await? else {
                return Err(damaged("is missing".to_owned()));
            };
            let found = FileHash::of(&bytes);
            if found.bytes != hash.bytes {
                return Err(damaged(format!("has {} bytes, not {}", found.bytes, hash.bytes)));
            }
            if found != *hash {
                return Err(damaged(format!("has the SHA-256 {}, not {}", found.sha256, hash.sha256)));
            }
            write(&path, &bytes)?;
        }
        Ok(())
    }
}

fn write(path: &FilePath, bytes: &[u8]) -> Result<(), RegistryError> {
    files::write_atomic(path, bytes).map_err(|error| match error {
        crate::TrainError::Io { path, source } => RegistryError::File { path, source },
        other => RegistryError::file(path, &std::io::Error::other(other.to_string())),
    })
}
