//! What is trained on and what is held out: the files of a run read by a method's reader, or a share of them set aside.
//! Leaves lines to the readers.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::split;
use crate::config::TrainConfig;
use crate::error::TrainError;

/// The examples of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Splits<T> {
    /// To train on.
    pub train: Vec<T>,
    /// To evaluate on.
    pub eval: Vec<T>,
}

impl<T> Splits<T> {
    /// Reads `data` and `eval_data`; without the latter, sets `eval_split` of the former aside.
    ///
    /// # Errors
    /// What `read` says of a file.
    pub fn load(
        config: &TrainConfig,
        mut read: impl FnMut(&Path) -> Result<Vec<T>, TrainError>,
    ) -> Result<Self, TrainError> {
        let mut all = |files: &[std::path::PathBuf]| {
            let mut examples = Vec::new();
            for file in files {
                examples.extend(read(file)?);
            }
            Ok::<_, TrainError>(examples)
        };
        let (train, mut eval) = (all(&config.data)?, all(&config.eval_data)?);
        let mut train: Vec<Option<T>> = train.into_iter().map(Some).collect();
        if config.eval_data.is_empty() {
            let (_, held_out) = split(train.len(), config.eval_split, config.seed);
            eval = held_out.into_iter().filter_map(|index| train[index].take()).collect();
        }
        Ok(Self { train: train.into_iter().flatten().collect(), eval })
    }
}

/// A hash of examples, by which a resumed run knows its data.
#[derive(Clone, Debug, Default)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Adds tokens and their number.
    pub fn ids(&mut self, ids: &[u32]) {
        self.0.update((ids.len() as u64).to_le_bytes());
        self.0.update(bytemuck::cast_slice::<u32, u8>(ids));
    }

    /// Adds a yes or no for each of some tokens.
    pub fn flags(&mut self, flags: &[bool]) {
        self.0.update(flags.iter().map(|flag| u8::from(*flag)).collect::<Vec<u8>>());
    }

    /// Adds a number.
    pub fn number(&mut self, number: f64) {
        self.0.update(number.to_le_bytes());
    }

    /// The hash in hexadecimal.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
