//! Which files of a repository are needed, by their names. Leaves fetching them to `download`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Wanted;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const ADAPTER: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// Files beside the weights that the engine reads if they are there.
const TEXT: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// What to fetch of a repository that holds `names`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// Small files first, weights last.
    pub(super) files: Vec<String>,
    /// Whether [`INDEX`] is among them, whose shards are needed too.
    pub(super) is_sharded: bool,
}

/// The file that names the shards.
pub(super) const SHARD_INDEX: &str = INDEX;

/// # Errors
/// The end of a sentence that begins with the id, if no weights are there that we read.
pub(super) fn select(names: &[String], wanted: Wanted, file: Option<&str>) -> Result<Selection, String> {
    let has = |name: &str| names.iter().any(|other| other == name);
    let single = |name: &str| Ok(Selection { files: vec![name.to_owned()], is_sharded: false });
    if let Some(file) = file {
        return if has(file) { single(file) } else { Err(format!("has no file {file}; {}", ggufs(names))) };
    }
    let with_texts = |weights: &[&str]| Selection {
        files: TEXT.iter().filter(|name| has(name)).chain(weights).map(|name| (*name).to_owned()).collect(),
        is_sharded: weights.contains(&INDEX),
    };
    let is_adapter = has(ADAPTER[0]) && has(ADAPTER[1]);
    match wanted {
        Wanted::Adapter if !is_adapter => {
            Err(format!("holds no adapter: {} and {} are not both there", ADAPTER[0], ADAPTER[1]))
        }
        Wanted::Adapter => Ok(with_texts(&ADAPTER)),
        Wanted::Either if is_adapter => Ok(with_texts(&ADAPTER)),
        _ if has(SINGLE) => Ok(with_texts(&[SINGLE])),
        _ if has(INDEX) => Ok(with_texts(&[INDEX])),
        _ => match &gguf_names(names)[..] {
            [one] => single(one),
            [] if is_adapter => {
                Err("holds an adapter and no model; give it as --adapter or --reward".to_owned())
            }
            [] => Err(format!(
                "has no weights that are read here: neither {SINGLE} nor {INDEX} nor a .gguf file is there"
            )),
            _ => Err(format!("holds several models; name one, as owner/name/FILE.gguf: {}", ggufs(names))),
        },
    }
}

/// The shards that an index names.
///
/// # Errors
/// The end of a sentence, if the index is not what it should be.
pub(super) fn shards(index: &Path) -> Result<Vec<String>, String> {
    let broken = || format!("has an {INDEX} without a `weight_map` of names of files in its folder");
    let bytes =
        std::fs::read(index).map_err(|error| format!("{}: cannot be read: {error}", index.display()))?;
    let index: Value = serde_json::from_slice(&bytes).map_err(|_| broken())?;
    let map = index["weight_map"].as_object().ok_or_else(broken)?;
    // A name with a path in it could reach outside of the folder.
    let name = |file: &Value| {
        file.as_str().filter(|file| Path::new(file).file_name() == Some(file.as_ref())).map(str::to_owned)
    };
    let names: Option<BTreeSet<String>> = map.values().map(name).collect();
    Ok(names.ok_or_else(broken)?.into_iter().collect())
}

/// A snapshot as the engine opens it: the folder, or its only file if that is a GGUF.
pub(super) fn gguf_or_folder(folder: &Path) -> PathBuf {
    if folder.join(SINGLE).exists() || folder.join(INDEX).exists() || folder.join(ADAPTER[0]).exists() {
        return folder.to_owned();
    }
    match &gguf_names(&names_in(folder))[..] {
        [file] => folder.join(file),
        _ => folder.to_owned(),
    }
}

/// Names of the files in a folder; none if it cannot be read.
pub(super) fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    // A link whose blob is gone is no file.
    let files = entries.filter(|entry| entry.path().exists());
    let mut names: Vec<String> = files.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

fn gguf_names(names: &[String]) -> Vec<&str> {
    let is_model = |name: &&str| !name.contains('/') && name.to_lowercase().ends_with(".gguf");
    names.iter().map(String::as_str).filter(is_model).collect()
}

fn ggufs(names: &[String]) -> String {
    format!("there are: {}", crate::names(gguf_names(names)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_what_is_read_is_fetched() {
        let all = names(&[
            "README.md",
            "config.json",
            "tokenizer.json",
            "model.safetensors",
            "pytorch_model.bin",
            "onnx/model.onnx",
            "model.Q8_0.gguf",
            "adapter_config.json",
            "adapter_model.safetensors",
        ]);
        let files = |wanted| select(&all, wanted, None).unwrap().files.join(" ");
        assert_eq!(files(Wanted::Model), "config.json tokenizer.json model.safetensors");
        let adapter = "config.json tokenizer.json adapter_config.json adapter_model.safetensors";
        assert_eq!((files(Wanted::Adapter).as_str(), files(Wanted::Either).as_str()), (adapter, adapter));
        let sharded = names(&["config.json", INDEX, "model-00001-of-00002.safetensors"]);
        let selection = select(&sharded, Wanted::Either, None).unwrap();
        assert!(selection.is_sharded && selection.files.last().unwrap() == INDEX);
    }

    #[test]
    fn one_gguf_file_is_a_model_and_several_are_a_question() {
        let one = names(&["README.md", "m.Q8_0.gguf"]);
        assert_eq!(select(&one, Wanted::Model, None).unwrap().files, ["m.Q8_0.gguf"]);
        let two = names(&["m.Q4_0.gguf", "m.Q8_0.gguf"]);
        let error = select(&two, Wanted::Model, None).unwrap_err();
        assert!(error.contains("owner/name/FILE.gguf: there are: m.Q4_0.gguf, m.Q8_0.gguf"), "{error}");
        assert_eq!(select(&two, Wanted::Model, Some("m.Q4_0.gguf")).unwrap().files, ["m.Q4_0.gguf"]);
        assert!(select(&two, Wanted::Model, Some("m.gguf")).unwrap_err().contains("has no file m.gguf"));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let pickled = names(&["config.json", "pytorch_model.bin"]);
        assert!(
            select(&pickled, Wanted::Model, None).unwrap_err().contains("has no weights that are read here")
        );
        assert!(select(&pickled, Wanted::Adapter, None).unwrap_err().contains("holds no adapter"));
        let adapter = names(&ADAPTER);
        assert!(select(&adapter, Wanted::Model, None).unwrap_err().contains("--adapter"));
    }

    #[test]
    fn shards_are_files_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join(INDEX);
        let read = |text: &str| {
            std::fs::write(&index, text).unwrap();
            shards(&index)
        };
        let map = r#"{"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}}"#;
        assert_eq!(read(map).unwrap(), ["a.safetensors", "b.safetensors"]);
        for bad in ["", "{}", r#"{"weight_map": {"x": "../a"}}"#, r#"{"weight_map": {"x": 1}}"#] {
            assert!(read(bad).unwrap_err().contains("weight_map"), "{bad}");
        }
    }
}
