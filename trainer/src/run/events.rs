//! Event files of TensorBoard: records of a length, a protobuf message and their checksums. Leaves which metrics there
//! are to `log`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc};
use serde_json::{Map, Value};

use crate::error::TrainError;

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Numbers of the fields of `tensorboard.Event` and the messages in it.
mod field {
    pub(super) const WALL_TIME: u64 = 1;
    pub(super) const STEP: u64 = 2;
    pub(super) const FILE_VERSION: u64 = 3;
    pub(super) const SUMMARY: u64 = 5;
    pub(super) const SESSION_LOG: u64 = 7;
    pub(super) const SUMMARY_VALUE: u64 = 1;
    pub(super) const VALUE_TAG: u64 = 1;
    pub(super) const VALUE_SIMPLE: u64 = 2;
    pub(super) const SESSION_STATUS: u64 = 1;
}

/// One event file.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a file in `folder`. What files of earlier processes say of steps above `resumed_steps`, TensorBoard then
    /// forgets.
    pub(crate) fn create(folder: &Path, resumed_steps: usize) -> Result<Self, TrainError> {
        fs::create_dir_all(folder).map_err(|error| TrainError::io(folder, error))?;
        let (seconds, process) = (now() as u64, std::process::id());
        let path = folder.join(format!("events.out.tfevents.{seconds}.rectify.{process}.{resumed_steps}"));
        let file = File::create(&path).map_err(|error| TrainError::io(&path, error))?;
        let mut events = Self { path, file };
        events.write(&event(now(), 0, |message| message.text(field::FILE_VERSION, "brain.Event:2")))?;
        if resumed_steps > 0 {
            let start = |message: &mut Message| {
                message.nested(field::SESSION_LOG, |session| session.varint(field::SESSION_STATUS, 1));
            };
            events.write(&event(now(), resumed_steps + 1, start))?;
        }
        Ok(events)
    }

    /// Adds the numbers of a line of the log: `eval_loss` as `eval/loss`, others as `train/loss`.
    pub(crate) fn log(&mut self, line: &Map<String, Value>) -> Result<(), TrainError> {
        let step = line.get("step").and_then(Value::as_u64).unwrap_or(0) as usize;
        self.write(&event(now(), step, |message| summary(message, line)))
    }

    fn write(&mut self, message: &[u8]) -> Result<(), TrainError> {
        self.file.write_all(&record(message)).map_err(|error| TrainError::io(&self.path, error))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

fn summary(message: &mut Message, line: &Map<String, Value>) {
    message.nested(field::SUMMARY, |summary| {
        for (name, value) in line.iter().filter(|(name, _)| *name != "step") {
            let Some(number) = value.as_f64() else { continue };
            let tag = match name.strip_prefix("eval_") {
                Some(name) => format!("eval/{name}"),
                None => format!("train/{name}"),
            };
            summary.nested(field::SUMMARY_VALUE, |value| {
                value.text(field::VALUE_TAG, &tag);
                value.float(field::VALUE_SIMPLE, number as f32);
            });
        }
    });
}

fn event(wall_time: f64, step: usize, what: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::default();
    message.double(field::WALL_TIME, wall_time);
    message.varint(field::STEP, step as u64);
    what(&mut message);
    message.0
}

/// A record of the format TensorFlow keeps protobuf messages in.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), message, &masked_crc(message)].concat()
}

/// A checksum of data that may hold checksums itself.
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    CRC.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.raw_varint(field << 3 | wire_type);
    }

    /// Zero is what an absent field means.
    fn varint(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.key(field, 0);
            self.raw_varint(value);
        }
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, 2);
        self.raw_varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn nested(&mut self, field: u64, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.bytes(field, &inner.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_tensorboards_own() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/events.tfevents");
        let line: Map<String, Value> =
            serde_json::from_str(r#"{"step": 300, "loss": 0.125, "eval_loss": 2.5, "rewards/margins": -3}"#)
                .unwrap();
        let session = |message: &mut Message| {
            message.nested(field::SESSION_LOG, |session| session.varint(field::SESSION_STATUS, 1));
        };
        let events = [
            event(1.5, 0, |message| message.text(field::FILE_VERSION, "brain.Event:2")),
            event(2.5, 300, session),
            event(3.5, 300, |message| summary(message, &line)),
        ];
        let ours: Vec<u8> = events.iter().flat_map(|event| record(event)).collect();
        assert_eq!(ours, fs::read(fixture).unwrap());
    }
}
