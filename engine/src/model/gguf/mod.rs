//! GGUF files: their header, and the files of a Hugging Face folder that one stands for. Leaves the blocks that weights
//! are stored in to `blocks`, the configuration to `config`, names of tensors to `names`, the tokenizer to `tokenizer`.
//!
//! The format is that of <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian.

pub(super) mod blocks;
mod config;
mod names;
mod reader;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::backend::Result;
use super::mmap::MappedFile;
use crate::EngineError;
use blocks::Storage;
pub(super) use names::Change;
use names::{Place, TensorNames};
use reader::Reader;

/// What starts every file.
const MAGIC: &[u8; 4] = b"GGUF";
/// Where tensors are aligned to if the file does not say.
const ALIGNMENT: usize = 32;

/// A mapped file and its header.
#[derive(Debug)]
pub(super) struct Gguf {
    pub(super) path: PathBuf,
    pub(super) bytes: MappedFile,
    /// Settings by name.
    metadata: BTreeMap<String, Value>,
    /// By the names of the file.
    tensors: BTreeMap<String, TensorInfo>,
    data_start: usize,
}

/// A tensor of a file.
#[derive(Clone, Debug)]
pub(super) struct TensorInfo {
    /// Outermost dimension first, as everywhere here.
    pub(super) shape: Vec<usize>,
    kind: u32,
    offset: usize,
}

/// A tensor in the words of a Hugging Face folder.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) kind: Storage,
    pub(super) start: usize,
    pub(super) end: usize,
    /// What is to be undone.
    pub(super) change: Change,
}

/// The files of a Hugging Face folder that one may stand for.
pub(super) const MADE: [&str; 4] =
    ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// Whether a path names such a file.
pub(super) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) && !path.is_dir()
}

impl Gguf {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is not a whole GGUF file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let bytes = MappedFile::open(path)?;
        let broken = || EngineError::load(path, "is not a whole GGUF file, perhaps a broken copy");
        let mut reader = Reader::new(&bytes);
        if reader.take(4) != Some(MAGIC) {
            return Err(EngineError::load(path, "does not start with \"GGUF\": it is no GGUF file"));
        }
        let version = reader.u32().ok_or_else(broken)?;
        if !(2..=3).contains(&version) {
            let message = format!("is of GGUF version {version}, but only 2 and 3 are known");
            return Err(EngineError::load(path, message));
        }
        let (num_tensors, num_settings) =
            (reader.size().ok_or_else(broken)?, reader.size().ok_or_else(broken)?);
        let mut metadata = BTreeMap::new();
        for _ in 0..num_settings {
            let name = reader.string().ok_or_else(broken)?;
            metadata.insert(name, reader.value().ok_or_else(broken)?);
        }
        let mut tensors = BTreeMap::new();
        for _ in 0..num_tensors {
            let (name, info) = read_tensor(&mut reader).ok_or_else(broken)?;
            tensors.insert(name, info);
        }
        let alignment = metadata.get("general.alignment").and_then(Value::as_u64);
        let alignment = alignment.map_or(ALIGNMENT, |alignment| alignment as usize).max(1);
        let data_start = reader.position().next_multiple_of(alignment);
        Ok(Self { path: path.to_owned(), bytes, metadata, tensors, data_start })
    }

    /// The text of the file that stands for `file` of a Hugging Face folder; `None` if nothing does.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming the setting that is missing or not known.
    pub(super) fn file(&self, file: &str) -> Result<Option<String>> {
        match file {
            "config.json" => Ok(Some(config::config_json(self)?.to_string())),
            "tokenizer.json" => Ok(Some(tokenizer::tokenizer_json(self)?.to_string())),
            "tokenizer_config.json" => Ok(Some(tokenizer::tokenizer_config_json(self)?.to_string())),
            "chat_template.jinja" => Ok(self.string("tokenizer.chat_template").map(str::to_owned)),
            _ => Ok(None),
        }
    }

    /// Every tensor under its name in a Hugging Face folder.
    ///
    /// # Errors
    /// [`EngineError::Load`] naming a tensor that is not known or lies past the end.
    pub(super) fn stored(&self) -> Result<Vec<Stored>> {
        let names = TensorNames::new(self)?;
        let mut stored = Vec::with_capacity(self.tensors.len());
        for (own, info) in &self.tensors {
            let Some(kind) = Storage::find(info.kind) else {
                let message = format!(
                    "the tensor `{own}` is of type {}, which is not known; known are {}",
                    info.kind,
                    Storage::known()
                );
                return Err(self.error(message));
            };
            let count: usize = info.shape.iter().product();
            let start = self.data_start + info.offset;
            let end = kind.num_bytes(count, info.shape.last().copied().unwrap_or(1)).map(|len| start + len);
            let Some(end) = end.filter(|&end| end <= self.bytes.len()) else {
                return Err(self.error(format!("ends before the tensor `{own}` does: it is a broken copy")));
            };
            match names.find(own)? {
                Place::Setting => {}
                Place::Tensor(name, change) => {
                    let shape = change.shape(&info.shape);
                    stored.push(Stored { name, shape, kind, start, end, change });
                }
                Place::Experts(experts) => {
                    let shape = info.shape.get(1..).unwrap_or_default();
                    let width = shape.last().copied().unwrap_or(1);
                    let len = kind.num_bytes(shape.iter().product(), width).unwrap_or(0);
                    if info.shape.first() != Some(&experts.len()) || len * experts.len() != end - start {
                        let count = experts.len();
                        let message = format!(
                            "the tensor `{own}` has shape {:?}, but there are {count} experts",
                            info.shape
                        );
                        return Err(self.error(message));
                    }
                    let expert = |(number, name)| Stored {
                        name,
                        shape: shape.to_vec(),
                        kind,
                        start: start + number * len,
                        end: start + (number + 1) * len,
                        change: Change::None,
                    };
                    stored.extend(experts.into_iter().enumerate().map(expert));
                }
            }
        }
        Ok(stored)
    }

    pub(super) fn has_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The numbers of a tensor stored as F32.
    fn f32_tensor(&self, name: &str) -> Option<Vec<f32>> {
        let info = self.tensors.get(name)?;
        let start = self.data_start.checked_add(info.offset)?;
        let bytes = self.bytes.get(start..start.checked_add(4 * info.shape.iter().product::<usize>())?)?;
        (info.kind == 0).then(|| bytes.as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect())
    }

    fn error(&self, message: impl Into<String>) -> EngineError {
        EngineError::load(&self.path, message.into())
    }

    fn missing(&self, name: &str) -> EngineError {
        self.error(format!("lacks the setting `{name}`"))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.metadata.get(name)
    }

    fn string(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    fn list(&self, name: &str) -> Result<&[Value]> {
        self.get(name).and_then(Value::as_array).map(Vec::as_slice).ok_or_else(|| self.missing(name))
    }
}

fn read_tensor(reader: &mut Reader<'_>) -> Option<(String, TensorInfo)> {
    let name = reader.string()?;
    let num_dimensions = reader.u32()?;
    let mut shape = Vec::new();
    let mut count = 1usize;
    for _ in 0..num_dimensions {
        let size = reader.size()?;
        count = count.checked_mul(size)?;
        shape.push(size);
    }
    shape.reverse();
    let kind = reader.u32()?;
    let offset = reader.size()?;
    // Far above any file: sums of these cannot overflow.
    (count < 1 << 48 && offset < 1 << 48).then_some((name, TensorInfo { shape, kind, offset }))
}

#[cfg(test)]
mod tests {
    use crate::model::checkpoint::Checkpoint;
    use crate::model::config::ModelConfig;
    use crate::model::source::ModelSource;

    fn fixture() -> Vec<u8> {
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/gguf/llama2.gguf")).unwrap()
    }

    /// What loading says of these bytes.
    fn refusal(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, bytes).unwrap();
        let source = ModelSource::Folder(path);
        let load =
            || ModelConfig::load(&source).and_then(|config| Checkpoint::open(&source)?.validate(&config));
        load().unwrap_err().to_string()
    }

    /// The file with `from` in its header replaced by `to`, which is as long.
    fn with(from: &str, to: &str) -> Vec<u8> {
        let mut bytes = fixture();
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    }

    #[test]
    fn broken_files_are_one_sentence() {
        let whole = fixture();
        for len in [8, 100, 5000] {
            assert!(
                refusal(&whole[..len]).ends_with("m.gguf: is not a whole GGUF file, perhaps a broken copy")
            );
        }
        let cut = refusal(&whole[..whole.len() - 64]);
        assert!(
            cut.contains("ends before the tensor `") && cut.ends_with("does: it is a broken copy"),
            "{cut}"
        );
        assert!(refusal(b"GGML").contains("it is no GGUF file"));
        let mut version = whole.clone();
        version[4] = 1;
        assert!(refusal(&version).contains("is of GGUF version 1, but only 2 and 3 are known"));
    }

    #[test]
    fn what_is_not_known_is_named() {
        let error = refusal(&with(
            "architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama",
            "architecture\x08\0\0\0\x05\0\0\0\0\0\0\0mamba",
        ));
        assert!(
            error.contains("`general.architecture` is \"mamba\", which is not read from GGUF yet"),
            "{error}"
        );
        let error = refusal(&with("llama.block_count", "llama.block_cxxxx"));
        assert!(error.ends_with("lacks the setting `llama.block_count`"), "{error}");
        let error = refusal(&with("blk.1.ffn_up.weight", "blk.1.ffn_xx.weight"));
        assert!(error.contains("holds the tensor `blk.1.ffn_xx.weight`, which is not known"), "{error}");
    }
}
