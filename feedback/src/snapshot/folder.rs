//! A snapshot as a folder of JSON lines beside `snapshot.json`: written whole or not at all, and checked by its hash when
//! it is read. Leaves what is in it to the parent.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{About, Snapshot};
use crate::{FeedbackError, JsonlReader, Record};

/// The files of records.
pub const FILES: [&str; 4] = ["pairs.jsonl", "thumbs.jsonl", "edits.jsonl", "prompts.jsonl"];

const ABOUT: &str = "snapshot.json";

impl Snapshot {
    /// The bytes of [`FILES`].
    fn files(&self) -> [(&'static str, Vec<u8>); 4] {
        let [pairs, thumbs, edits, prompts] = FILES;
        [
            (pairs, lines(&self.pairs)),
            (thumbs, lines(&self.thumbs)),
            (edits, lines(&self.edits)),
            (prompts, lines(&self.prompts)),
        ]
    }

    pub(super) fn content_hash(&self) -> String {
        hash(&self.files())
    }

    /// Writes the folder: it is there with all its files, or not at all, whenever the process is killed. A folder with
    /// the same snapshot is left as it is.
    ///
    /// # Errors
    /// [`FeedbackError::File`] if it cannot be written, or if there is another snapshot or something else.
    pub fn write(&self, folder: impl AsRef<Path>) -> Result<(), FeedbackError> {
        let folder = folder.as_ref();
        let fail = |path: &Path, error: std::io::Error| {
            FeedbackError::file(path, format!("cannot write the snapshot: {error}"))
        };
        if folder.exists() {
            return match Self::read(folder) {
                Ok(there) if there.hash == self.hash => Ok(()),
                _ => Err(FeedbackError::file(
                    folder,
                    "the folder exists and holds something else; name a new one".into(),
                )),
            };
        }
        let mut unfinished = folder.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(|error| fail(&unfinished, error))?;
        }
        fs::create_dir_all(&unfinished).map_err(|error| fail(&unfinished, error))?;
        let mut about =
            serde_json::to_vec_pretty(&self.about).map_err(|error| fail(&unfinished, error.into()))?;
        about.push(b'\n');
        for (name, bytes) in self.files().into_iter().chain([(ABOUT, about)]) {
            let path = unfinished.join(name);
            let written = File::create(&path).and_then(|mut file| {
                file.write_all(&bytes)?;
                file.sync_all()
            });
            written.map_err(|error| fail(&path, error))?;
        }
        fs::rename(&unfinished, folder).map_err(|error| fail(folder, error))?;
        // The name itself must outlive a power cut too.
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| fail(parent, error))?;
        }
        Ok(())
    }

    /// Reads a folder.
    ///
    /// # Errors
    /// [`FeedbackError`] if a file is missing, broken, or not what the hash says.
    pub fn read(folder: impl AsRef<Path>) -> Result<Self, FeedbackError> {
        let folder = folder.as_ref();
        let path = folder.join(ABOUT);
        let about = fs::read(&path)
            .map_err(|error| FeedbackError::file(&path, format!("cannot read the snapshot: {error}")))?;
        let about: About = serde_json::from_slice(&about)
            .map_err(|error| FeedbackError::file(&path, format!("is no snapshot: {error}")))?;
        let read = |name: &'static str| {
            let path = folder.join(name);
            let bytes = fs::read(&path);
            bytes
                .map(|bytes| (name, bytes))
                .map_err(|error| FeedbackError::file(&path, format!("cannot read the snapshot: {error}")))
        };
        let [pairs, thumbs, edits, prompts] = FILES;
        let files = [read(pairs)?, read(thumbs)?, read(edits)?, read(prompts)?];
        if hash(&files) != about.hash {
            let message = "the records are not those that the snapshot's hash names; make a new snapshot";
            return Err(FeedbackError::file(folder, message.to_owned()));
        }
        let [pairs, thumbs, edits, prompts] = &files;
        Ok(Self {
            hash: about.hash.clone(),
            pairs: records(folder, pairs)?,
            thumbs: records(folder, thumbs)?,
            edits: records(folder, edits)?,
            prompts: records(folder, prompts)?,
            about,
        })
    }
}

/// Of names, lengths and bytes.
fn hash(files: &[(&str, Vec<u8>)]) -> String {
    let mut hash = Sha256::new();
    for (name, bytes) in files {
        hash.update(name.as_bytes());
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    format!("{:x}", hash.finalize())
}

fn lines<T: Record>(records: &[T]) -> Vec<u8> {
    let line = |record: &T| Value::Object(record.to_fields()).to_string() + "\n";
    records.iter().map(line).collect::<String>().into_bytes()
}

fn records<T: Record>(folder: &Path, (name, bytes): &(&str, Vec<u8>)) -> Result<Vec<T>, FeedbackError> {
    JsonlReader::new(folder.join(name), bytes.as_slice()).map(|line| line.map(|line| line.record)).collect()
}
