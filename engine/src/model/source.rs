//! Where a model's files come from: a folder, a GGUF file that stands for one, or files embedded in the binary. Leaves
//! their meaning to the readers.

use std::borrow::Cow;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use super::backend::Result;
use super::gguf::{self, Gguf};
use super::mmap::MappedFile;
use crate::EngineError;

/// A folder in Hugging Face's layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// On disk: a folder, or a `.gguf` file.
    Folder(PathBuf),
    /// In the binary.
    Embedded {
        /// What messages call it.
        name: &'static str,
        /// File names and their bytes.
        files: &'static [(&'static str, &'static [u8])],
    },
}

/// The bytes of one file.
#[derive(Debug)]
pub enum FileBytes {
    /// Mapped from disk.
    Mapped(MappedFile),
    /// Embedded in the binary.
    Static(&'static [u8]),
    /// Written by us from what another file says.
    Made(Vec<u8>),
}

impl FileBytes {
    /// Bytes `range`, which are about to be looked at.
    pub fn part(&self, range: Range<usize>) -> &[u8] {
        match self {
            Self::Mapped(file) => file.part(range),
            Self::Static(_) | Self::Made(_) => &self[range],
        }
    }

    /// A copy of bytes `range`, few of them: to look at one may map two MiB of the file into memory.
    ///
    /// # Errors
    /// If they cannot be read; the message names the file.
    pub fn copy(&self, range: Range<usize>) -> std::io::Result<Vec<u8>> {
        let mut copy = vec![0; range.len()];
        let part = &self[range];
        match self {
            Self::Mapped(file) => file.read(part, &mut copy).map(drop)?,
            Self::Static(_) | Self::Made(_) => copy.copy_from_slice(part),
        }
        Ok(copy)
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(file) => file,
            Self::Static(bytes) => bytes,
            Self::Made(bytes) => bytes,
        }
    }
}

impl From<&Path> for ModelSource {
    fn from(path: &Path) -> Self {
        Self::Folder(path.to_owned())
    }
}

impl ModelSource {
    /// What to call the model if nobody named it: the folder's name, or the embedded name.
    pub fn name(&self) -> Cow<'_, str> {
        match self {
            Self::Folder(path) => {
                let canonical = path.canonicalize().unwrap_or_else(|_| path.clone());
                let name = if gguf::is_gguf(path) { canonical.file_stem() } else { canonical.file_name() };
                let name = name.unwrap_or(path.as_os_str());
                Cow::Owned(name.to_string_lossy().into_owned())
            }
            Self::Embedded { name, .. } => Cow::Borrowed(name),
        }
    }

    /// What messages call the whole.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Folder(path) => path.clone(),
            Self::Embedded { name, .. } => PathBuf::from(name),
        }
    }

    /// `file` as messages should call it.
    pub fn path_of(&self, file: &str) -> PathBuf {
        match self {
            // Nothing else is there to be named.
            Self::Folder(path) if gguf::is_gguf(path) => path.clone(),
            Self::Folder(path) => path.join(file),
            Self::Embedded { name, .. } => Path::new(name).join(file),
        }
    }

    /// The bytes of a model that is one file, a GGUF; `None` for others.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it cannot be read.
    pub fn single_file(&self) -> Result<Option<FileBytes>> {
        match self {
            Self::Folder(path) if gguf::is_gguf(path) => Ok(Some(FileBytes::Mapped(MappedFile::open(path)?))),
            _ => Ok(None),
        }
    }

    /// Whether `file` is there.
    pub fn contains(&self, file: &str) -> bool {
        match self {
            Self::Folder(path) if gguf::is_gguf(path) => gguf::MADE.contains(&file),
            Self::Folder(path) => path.join(file).is_file(),
            Self::Embedded { files, .. } => files.iter().any(|(name, _)| *name == file),
        }
    }

    /// The bytes of `file`, `None` if there is no such file.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is there and cannot be read.
    pub fn open(&self, file: &str) -> Result<Option<FileBytes>> {
        if !self.contains(file) {
            return Ok(None);
        }
        match self {
            Self::Folder(path) if gguf::is_gguf(path) => {
                let text = Gguf::open(path)?.file(file)?;
                Ok(text.map(|text| FileBytes::Made(text.into_bytes())))
            }
            Self::Folder(path) => Ok(Some(FileBytes::Mapped(MappedFile::open(&path.join(file))?))),
            Self::Embedded { files, .. } => {
                Ok(files.iter().find(|(name, _)| *name == file).map(|(_, bytes)| FileBytes::Static(bytes)))
            }
        }
    }

    /// The bytes of `file`.
    ///
    /// # Errors
    /// [`EngineError::Load`] if the folder or the file is missing or cannot be read.
    pub fn require(&self, file: &str) -> Result<FileBytes> {
        if let Self::Folder(path) = self
            && !path.is_dir()
            && !(gguf::is_gguf(path) && path.exists())
        {
            let what = if path.exists() { "is not a folder" } else { "does not exist" };
            let message = format!("{what}; a model is a folder with {file} in it, or a .gguf file");
            return Err(EngineError::load(path, message));
        }
        self.open(file)?.ok_or_else(|| EngineError::load(self.path_of(file), "is missing"))
    }

    /// The text of `file`, `None` if there is no such file.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is there and is not readable UTF-8.
    pub fn text(&self, file: &str) -> Result<Option<String>> {
        let Some(bytes) = self.open(file)? else { return Ok(None) };
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| EngineError::load(self.path_of(file), format!("is not UTF-8 text: {error}")))?;
        Ok(Some(text.to_owned()))
    }

    /// The JSON object in `file`, `None` if there is no such file.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is there and is not a JSON object.
    pub fn json(&self, file: &str) -> Result<Option<super::fields::Fields>> {
        let Some(bytes) = self.open(file)? else { return Ok(None) };
        super::fields::Fields::parse(self.path_of(file), &bytes).map(Some)
    }

    /// The JSON object in `file`.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it is missing or is not a JSON object.
    pub fn require_json(&self, file: &str) -> Result<super::fields::Fields> {
        super::fields::Fields::parse(self.path_of(file), &self.require(file)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FILES: &[(&str, &[u8])] =
        &[("a.json", b"{\"x\": 1}"), ("bad.json", b"\xff"), ("list.json", b"[1]")];

    #[test]
    fn embedded_files_read_like_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in FILES {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        for source in [ModelSource::from(folder.path()), ModelSource::Embedded { name: "demo", files: FILES }]
        {
            assert_eq!(source.text("a.json").unwrap().unwrap(), "{\"x\": 1}");
            assert_eq!(source.json("a.json").unwrap().unwrap().size("x").unwrap(), Some(1));
            assert!(source.open("b.json").unwrap().is_none() && !source.contains("b.json"));
            assert!(source.require("b.json").unwrap_err().to_string().ends_with("b.json: is missing"));
            assert!(source.text("bad.json").unwrap_err().to_string().contains("bad.json: is not UTF-8 text"));
            let error = source.json("list.json").unwrap_err().to_string();
            assert!(error.ends_with("list.json: holds a list, but must hold a JSON object"), "{error}");
        }
    }

    #[test]
    fn a_folder_is_called_by_its_last_name() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("my-model");
        std::fs::create_dir(&model).unwrap();
        assert_eq!(ModelSource::Folder(model.join("../my-model/")).name(), "my-model");
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = ModelSource::Folder(file).require("config.json").unwrap_err().to_string();
        assert!(
            error.contains(
                "file: is not a folder; a model is a folder with config.json in it, or a .gguf file"
            ),
            "{error}"
        );
    }
}
