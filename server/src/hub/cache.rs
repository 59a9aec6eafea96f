//! The cache on disk, in the layout that Python's `huggingface_hub` documents: `models--owner--name/` with `refs/`
//! (branches and tags, each the commit it was last seen at), `snapshots/<commit>/` (names) and `blobs/` (contents, which
//! the names link to). Leaves filling it to `download`.

use std::path::PathBuf;

use hf_hub::Cache;

use super::Wanted;
use super::id::HubId;
use super::selection::{self, SHARD_INDEX, names_in, select};

/// The folder of the commit that the revision was last seen at, if every needed file is there.
///
/// # Errors
/// The end of a sentence, if the cache holds an index of shards that is broken.
pub(super) fn snapshot(cache: &Cache, id: &HubId, wanted: Wanted) -> Result<Option<PathBuf>, String> {
    let Some(folder) = folder(cache, id) else { return Ok(None) };
    let names = names_in(&folder);
    let Ok(selection) = select(&names, wanted, id.file.as_deref()) else { return Ok(None) };
    if selection.is_sharded {
        let shards = selection::shards(&folder.join(SHARD_INDEX))?;
        if !shards.iter().all(|shard| names.contains(shard)) {
            return Ok(None);
        }
    }
    Ok(Some(folder))
}

fn folder(cache: &Cache, id: &HubId) -> Option<PathBuf> {
    let repository = cache.path().join(id.at(&id.revision).folder_name());
    let commit = match std::fs::read_to_string(repository.join("refs").join(&id.revision)) {
        Ok(commit) => commit.trim().to_owned(),
        Err(_) if id.is_commit() => id.revision.clone(),
        Err(_) => return None,
    };
    let folder = repository.join("snapshots").join(commit);
    folder.is_dir().then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_counts_once_all_its_shards_are_there() {
        let home = tempfile::tempdir().unwrap();
        let repository = home.path().join("models--a--b");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let snapshot_folder = repository.join("snapshots").join(commit);
        std::fs::create_dir_all(&snapshot_folder).unwrap();
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(snapshot_folder.join(name), text).unwrap();
        write("config.json", "{}");
        write(SHARD_INDEX, r#"{"weight_map": {"x": "one.safetensors", "y": "two.safetensors"}}"#);
        write("one.safetensors", "");
        let cache = Cache::new(home.path().to_owned());
        let find = |text: &str| snapshot(&cache, &HubId::parse(text).unwrap(), Wanted::Model).unwrap();
        let by_commit = format!("a/b@{commit}");
        assert_eq!(find(&by_commit), None);
        write("two.safetensors", "");
        assert_eq!(find(&by_commit), Some(snapshot_folder.clone()));
        assert_eq!(find("a/b"), None);
        std::fs::write(repository.join("refs/main"), format!("{commit}\n")).unwrap();
        assert_eq!(find("a/b"), Some(snapshot_folder));
    }
}
