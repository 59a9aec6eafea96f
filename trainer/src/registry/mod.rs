//! The registry of adapter versions: `<name>/<version>/` below its address, each a PEFT folder with its manifest, the
//! gate's report and the model card, on a disk or in S3-compatible storage. A version exists once its manifest does. Leaves
//! which version is served to the store's serving pointer, and the card's text to [`crate::card`].

mod error;
mod fetch;
mod hash;
mod manifest;
#[cfg(test)]
mod tests;
mod url;
mod version;
mod weights;

use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

pub use error::RegistryError;
pub use hash::{base_hash, sha256};
pub use manifest::{Base, FileHash, Manifest, Provenance, SnapshotRef};
pub use version::Version;
pub use weights::UpdateDifference;

use error::at;
use manifest::Contents;

use crate::gate::GateReport;

/// The adapter's weights.
pub const WEIGHTS: &str = rectify_engine::model::peft::WEIGHTS_FILE;
/// Its shape, as PEFT reads it.
pub const CONFIG: &str = rectify_engine::model::peft::CONFIG_FILE;
/// What makes a folder a version.
pub const MANIFEST: &str = "manifest.json";
/// What the gate measured.
pub const GATE_REPORT: &str = "gate_report.json";
/// The card, as the hub names it.
pub const MODEL_CARD: &str = "MODEL_CARD.md";

/// Generations that are looked back on.
const MAX_ANCESTORS: usize = 20;
/// The files that are the adapter. The weights come first: they are what claims a number.
const ADAPTER_FILES: [&str; 2] = [WEIGHTS, CONFIG];

/// Adapter versions in one place. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
}

impl Registry {
    /// Opens `file://FOLDER`, a plain folder, or `s3://BUCKET/PREFIX`, whose keys, region and endpoint are those of the
    /// usual `AWS_…` variables. A folder is made if it is missing; nothing is asked of S3 yet.
    ///
    /// # Errors
    /// [`RegistryError`] naming what is wrong with the address.
    pub fn open(url: &str) -> Result<Self, RegistryError> {
        let (store, prefix) = url::open(url)?;
        Ok(Self { store, prefix, url: url.to_owned() })
    }

    /// A registry over any object store; for tests.
    pub fn over(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { store, prefix: Path::from(prefix), url: format!("memory://{prefix}") }
    }

    /// The address it was opened by.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Names that have a version, in order.
    ///
    /// # Errors
    /// If the storage does not answer.
    pub async fn names(&self) -> Result<Vec<String>, RegistryError> {
        let mut names = Vec::new();
        for name in self.folders(&self.prefix).await? {
            if !self.versions(&name).await?.is_empty() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// The versions of `name`, oldest first. Folders without a manifest are none.
    ///
    /// # Errors
    /// If the storage does not answer.
    pub async fn versions(&self, name: &str) -> Result<Vec<u64>, RegistryError> {
        check_name(name)?;
        let folder = self.prefix.clone().join(name);
        let entries: Vec<_> =
            self.store.list(Some(&folder)).try_collect().await.map_err(|error| at(&folder, error))?;
        let version = |location: &Path| {
            let mut parts = location.prefix_match(&folder)?;
            let version = parts.next()?.as_ref().parse().ok()?;
            (parts.next()?.as_ref() == MANIFEST && parts.next().is_none()).then_some(version)
        };
        let mut versions: Vec<u64> = entries.iter().filter_map(|entry| version(&entry.location)).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// What is known of a version.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] with the versions there are, [`RegistryError::Damaged`] if the manifest is no manifest
    /// or is another version's.
    pub async fn manifest(&self, name: &str, version: u64) -> Result<Manifest, RegistryError> {
        let location = self.location(name, version, MANIFEST)?;
        let Some(bytes) = self.read(&location).await? else {
            let known = self.versions(name).await?;
            return Err(RegistryError::not_found(name, version, &known, &self.url));
        };
        let damaged = |reason: String| RegistryError::damaged(&location, reason);
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| damaged(format!("is no manifest: {error}")))?;
        if (manifest.name.as_str(), manifest.version) != (name, version) {
            return Err(damaged(format!("is the manifest of {}@{}", manifest.name, manifest.version)));
        }
        Ok(manifest)
    }

    /// Adds the adapter in `folder` as the next version of `name`, which it returns. The version is there as a whole or not
    /// at all: its number is claimed by writing the weights where none are, and it exists with its manifest, written last.
    /// What an interrupted call left is taken up by the next call with the same weights; otherwise its number stays unused.
    ///
    /// # Errors
    /// [`RegistryError`] naming the file that is missing or the object that could not be written.
    pub async fn add(
        &self,
        name: &str,
        folder: &FilePath,
        provenance: Provenance,
    ) -> Result<u64, RegistryError> {
        check_name(name)?;
        let mut files = Vec::new();
        for file in ADAPTER_FILES {
            let path = folder.join(file);
            let bytes = std::fs::read(&path).map_err(|error| RegistryError::file(&path, &error))?;
            files.push((file, Bytes::from(bytes)));
        }
        let contents = Contents::of(&files);
        let mut version = self.versions(name).await?.last().map_or(1, |last| last + 1);
        loop {
            if self.claim(name, version, &files).await? {
                let manifest = Manifest::new(name, version, &contents, provenance.clone());
                let location = self.location(name, version, MANIFEST)?;
                if self.create(&location, manifest.to_json().into()).await? {
                    return Ok(version);
                }
                // Another writer of the very same adapter was faster: there is nothing to add.
                if self.manifest(name, version).await?.content_hash == manifest.content_hash {
                    return Ok(version);
                }
            }
            version += 1;
        }
    }

    /// Writes the adapter's files under a number that nobody has; `false` if somebody does.
    async fn claim(&self, name: &str, version: u64, files: &[(&str, Bytes)]) -> Result<bool, RegistryError> {
        for (file, bytes) in files {
            let location = self.location(name, version, file)?;
            if !self.create(&location, bytes.clone()).await?
                && self.read(&location).await?.as_ref() != Some(bytes)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Adds or replaces a file of a version: its gate report or its card.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] if there is no such version, [`RegistryError::Name`] for a file that is part of it.
    pub async fn put(
        &self,
        name: &str,
        version: u64,
        file: &str,
        bytes: Vec<u8>,
    ) -> Result<(), RegistryError> {
        if file == MANIFEST || ADAPTER_FILES.contains(&file) || file.contains('/') {
            return Err(RegistryError::Name {
                what: "file",
                name: file.to_owned(),
                reason: "the adapter and its manifest never change; choose a file name beside them"
                    .to_owned(),
            });
        }
        self.manifest(name, version).await?;
        let location = self.location(name, version, file)?;
        self.store.put(&location, PutPayload::from(bytes)).await.map_err(|error| at(&location, error))?;
        Ok(())
    }

    /// A file of a version; `None` if it has no such file.
    ///
    /// # Errors
    /// If the storage does not answer.
    pub async fn get(&self, name: &str, version: u64, file: &str) -> Result<Option<Vec<u8>>, RegistryError> {
        Ok(self.read(&self.location(name, version, file)?).await?.map(Into::into))
    }

    fn location(&self, name: &str, version: u64, file: &str) -> Result<Path, RegistryError> {
        check_name(name)?;
        Ok(self.prefix.clone().join(name).join(version.to_string()).join(file))
    }

    /// What the gate found on a version; `None` if it has not run.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`] if what is stored is no report.
    pub async fn gate_report(&self, name: &str, version: u64) -> Result<Option<GateReport>, RegistryError> {
        let location = self.location(name, version, GATE_REPORT)?;
        let parse = |bytes: Bytes| {
            serde_json::from_slice(&bytes).map_err(|error| {
                RegistryError::damaged(&location, format!("is no report of this gate: {error}"))
            })
        };
        self.read(&location).await?.map(parse).transpose()
    }

    /// The versions that `manifest`'s was trained from, nearest first, as far as the registry has them.
    ///
    /// # Errors
    /// If the storage does not answer.
    pub async fn ancestors(&self, manifest: &Manifest) -> Result<Vec<Manifest>, RegistryError> {
        let mut found: Vec<Manifest> = Vec::new();
        while found.len() < MAX_ANCESTORS {
            let last = found.last().unwrap_or(manifest);
            let Some(Ok(parent)) = last.provenance.parent.as_deref().map(str::parse::<Version>) else {
                break;
            };
            match self.manifest(&parent.name, parent.number).await {
                Ok(parent) => found.push(parent),
                Err(RegistryError::NotFound { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn folders(&self, folder: &Path) -> Result<Vec<String>, RegistryError> {
        let listed = self.store.list_with_delimiter(Some(folder)).await.map_err(|error| at(folder, error))?;
        let name = |path: &Path| path.filename().map(str::to_owned);
        let mut names: Vec<String> = listed.common_prefixes.iter().filter_map(name).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The whole object; `None` if there is none.
    async fn read(&self, location: &Path) -> Result<Option<Bytes>, RegistryError> {
        let read = async { self.store.get(location).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(at(location, error)),
        }
    }

    /// Writes an object where none is; `false` if there is one.
    async fn create(&self, location: &Path, bytes: Bytes) -> Result<bool, RegistryError> {
        match self.store.put_opts(location, bytes.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(at(location, error)),
        }
    }
}

/// A name is one part of a path, as people type it in `NAME@VERSION`.
fn check_name(name: &str) -> Result<(), RegistryError> {
    let ordinary = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(ordinary) {
        return Err(RegistryError::Name {
            what: "adapter",
            name: name.to_owned(),
            reason: "a name is made of letters, digits, `-`, `_` and `.`, and begins with no dot".to_owned(),
        });
    }
    Ok(())
}
