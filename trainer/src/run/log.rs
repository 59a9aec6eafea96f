//! `train_log.jsonl`: one line per logged step or evaluation, under TRL's names. Leaves what is measured to the methods.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::method::Stats;
use crate::error::TrainError;

/// The log of a run.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log of `folder`, keeping the lines of steps up to `resumed_steps`.
    pub(crate) fn open(folder: &Path, resumed_steps: usize) -> Result<Self, TrainError> {
        let path = folder.join("train_log.jsonl");
        let io = |error| TrainError::io(&path, error);
        let old = if resumed_steps > 0 && path.exists() {
            std::fs::read_to_string(&path).map_err(io)?
        } else {
            String::new()
        };
        let step = |line: &str| serde_json::from_str::<Value>(line).ok()?.get("step")?.as_u64();
        let kept = old.lines().filter(|line| step(line).is_some_and(|step| step <= resumed_steps as u64));
        let text: String = kept.flat_map(|line| [line, "\n"]).collect();
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&path).map_err(io)?;
        file.write_all(text.as_bytes()).map_err(io)?;
        Ok(Self { path, file })
    }

    /// Adds a line.
    pub(crate) fn write(&mut self, line: &Map<String, Value>) -> Result<(), TrainError> {
        let mut text = serde_json::to_string(line).unwrap_or_default();
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(|error| TrainError::io(&self.path, error))
    }
}

/// Means of `stats`, their names after `prefix`.
pub(crate) fn metrics(stats: &Stats, prefix: &str) -> Map<String, Value> {
    stats.sums.iter().map(|(name, (sum, count))| (format!("{prefix}{name}"), (sum / count).into())).collect()
}
