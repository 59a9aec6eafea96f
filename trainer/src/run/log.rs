//! The log of a run: `train_log.jsonl`, one line per logged step or evaluation under TRL's names, and the same for
//! TensorBoard. Leaves what is measured to the methods.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::events::EventFile;
use super::files;
use super::method::Stats;
use crate::config::{ReportTo, TrainConfig};
use crate::error::TrainError;

/// The log of a run.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    events: Option<EventFile>,
}

impl Log {
    /// Opens the log of a run, keeping the lines of steps up to `resumed_steps`; and the last value of each metric in
    /// them.
    pub(crate) fn open(
        settings: &TrainConfig,
        resumed_steps: usize,
    ) -> Result<(Self, Map<String, Value>), TrainError> {
        let path = settings.output_dir.join("train_log.jsonl");
        let io = |error| TrainError::io(&path, error);
        let old = if resumed_steps > 0 && path.exists() {
            std::fs::read_to_string(&path).map_err(io)?
        } else {
            String::new()
        };
        let (mut text, mut metrics) = (String::new(), Map::new());
        for line in old.lines() {
            let Ok(fields) = serde_json::from_str::<Map<String, Value>>(line) else { continue };
            if fields.get("step").and_then(Value::as_u64).is_some_and(|step| step <= resumed_steps as u64) {
                text.push_str(line);
                text.push('\n');
                metrics.extend(fields);
            }
        }
        // The old lines are safe until the new file is whole.
        files::write_atomic(&path, text.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(io)?;
        let events = match settings.report_to {
            ReportTo::None => None,
            ReportTo::Tensorboard => {
                Some(EventFile::create(&settings.output_dir.join("runs"), resumed_steps)?)
            }
        };
        Ok((Self { path, file, events }, metrics))
    }

    /// Adds a line.
    pub(crate) fn write(&mut self, line: &Map<String, Value>) -> Result<(), TrainError> {
        let mut text = serde_json::to_string(line).unwrap_or_default();
        text.push('\n');
        self.file.write_all(text.as_bytes()).map_err(|error| TrainError::io(&self.path, error))?;
        self.events.as_mut().map_or(Ok(()), |events| events.log(line))
    }
}

/// Means of `stats`, their names after `prefix`.
pub(crate) fn metrics(stats: &Stats, prefix: &str) -> Map<String, Value> {
    stats.sums.iter().map(|(name, (sum, count))| (format!("{prefix}{name}"), (sum / count).into())).collect()
}
