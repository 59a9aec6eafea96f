//! The manifest of a version: what it is, what it was made from and by what. Leaves files to [`super::Registry`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::hash::{hex, sha256};

/// What is known of a version. Fields that later releases add are ignored by earlier ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The adapter.
    pub name: String,
    /// Its number, from 1.
    pub version: u64,
    /// Milliseconds since 1970.
    pub created_at: i64,
    /// SHA-256 over `adapter_config.json` and the weights: the engine's content hash of the adapter.
    pub content_hash: String,
    /// The files of the adapter.
    pub files: BTreeMap<String, FileHash>,
    /// Where it comes from.
    #[serde(flatten)]
    pub provenance: Provenance,
}

/// Where a version comes from, as whoever adds it knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// What it adapts.
    pub base: Base,
    /// The method that trained it, as `dpo`.
    #[serde(default)]
    pub algorithm: Option<String>,
    /// The version it was trained from, as `demo@2`; `None` is the base.
    #[serde(default)]
    pub parent: Option<String>,
    /// The data it was trained on.
    #[serde(default)]
    pub snapshot: Option<SnapshotRef>,
    /// The settings of the run.
    #[serde(default)]
    pub config: Value,
    /// The run's last metrics.
    #[serde(default)]
    pub metrics: Map<String, Value>,
}

/// The policy that a version adapts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// What requests call it.
    pub name: String,
    /// [`super::base_hash`] of it.
    pub hash: String,
}

/// The data of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// The snapshot's own hash.
    pub hash: String,
    /// How many of what: `pairs`, `thumbs`, `edits`, `prompts`, `left_out`.
    pub counts: BTreeMap<String, u64>,
}

/// A file as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHash {
    /// Of its bytes, in hex digits.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

impl FileHash {
    /// Of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { sha256: sha256(bytes), bytes: bytes.len() as u64 }
    }
}

impl Manifest {
    pub(super) fn new(name: &str, version: u64, files: &Contents<'_>, provenance: Provenance) -> Self {
        Self {
            name: name.to_owned(),
            version,
            created_at: chrono::Utc::now().timestamp_millis(),
            content_hash: files.content_hash.clone(),
            files: files.hashes.iter().map(|(file, hash)| ((*file).to_owned(), hash.clone())).collect(),
            provenance,
        }
    }

    /// `NAME@VERSION`.
    pub fn label(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

/// Hashes of the files that make an adapter.
pub(super) struct Contents<'a> {
    hashes: Vec<(&'a str, FileHash)>,
    content_hash: String,
}

impl<'a> Contents<'a> {
    /// `files` are the weights, then the config.
    pub(super) fn of(files: &'a [(&'a str, bytes::Bytes)]) -> Self {
        let hashes = files.iter().map(|(file, bytes)| (*file, FileHash::of(bytes))).collect();
        // The engine reads the config first.
        let mut whole = Sha256::new();
        files.iter().rev().for_each(|(_, bytes)| whole.update(bytes));
        Self { hashes, content_hash: hex(&whole.finalize()) }
    }
}
