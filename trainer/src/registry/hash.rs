//! Hashes by which a version knows its files and its base. Leaves what is done about a mismatch to the callers.

use rectify_engine::model::source::ModelSource;
use sha2::{Digest, Sha256};

use super::RegistryError;

/// The index of a checkpoint in several files.
const SHARDS: &str = "model.safetensors.index.json";

/// SHA-256 in hex digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What tells one policy from another: SHA-256 over its `config.json` and its weights, file by file. Reads every weight
/// once, so callers keep the answer.
///
/// # Errors
/// If a file is missing or cannot be read.
pub fn base_hash(model: &ModelSource) -> Result<String, RegistryError> {
    if let Some(bytes) = model.single_file()? {
        return Ok(hex(&Sha256::digest(&*bytes)));
    }
    let mut files = vec!["config.json".to_owned()];
    match model.text(SHARDS)? {
        None => files.push("model.safetensors".to_owned()),
        Some(index) => {
            let index: serde_json::Value = serde_json::from_str(&index).unwrap_or_default();
            let shards = index["weight_map"].as_object().into_iter().flat_map(|map| map.values());
            let mut shards: Vec<String> =
                shards.filter_map(|file| file.as_str().map(str::to_owned)).collect();
            shards.sort_unstable();
            shards.dedup();
            files.extend(shards);
        }
    }
    let mut whole = Sha256::new();
    for file in files {
        let bytes = model.require(&file)?;
        whole.update(Sha256::digest(&*bytes));
    }
    Ok(hex(&whole.finalize()))
}
