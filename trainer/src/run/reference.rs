//! What the reference policy says of each example, asked once. With adapters the reference is the base, asked when an
//! example is first met; when every weight moves, or when an adapter is compared with its start, it is what the weights were,
//! asked before the first step.

use std::cell::RefCell;

use super::method::Split;
use super::model::Model;
use super::progress::{Control, Progress};
use crate::config::TrainConfig;
use crate::data::Batches;
use crate::error::TrainError;

/// Answers of the reference by split and example.
#[derive(Debug)]
pub(crate) struct Reference<T> {
    known: RefCell<[Vec<Option<T>>; 2]>,
    /// Batches to ask before the first step.
    at_start: [Vec<Vec<usize>>; 2],
    /// There is none: every answer is this.
    absent: Option<T>,
}

impl<T: Copy> Reference<T> {
    /// A reference for examples of these lengths in each split; `absent` stands for its answers if there is none.
    pub(crate) fn new(
        settings: &TrainConfig,
        precompute: bool,
        lengths: [Vec<usize>; 2],
        absent: Option<T>,
    ) -> Self {
        let known = RefCell::new([0, 1].map(|split: usize| vec![None; lengths[split].len()]));
        let at_start = (precompute || settings.tuning.reference_is_start()) && absent.is_none();
        let batches = |lengths| {
            if at_start { Batches::new(settings, lengths).in_order() } else { Vec::new() }
        };
        Self { known, at_start: lengths.map(batches), absent }
    }

    /// Answers for `examples`; `ask` is asked for those that are not known.
    pub(crate) fn get(
        &self,
        model: &mut Model,
        split: Split,
        examples: &[usize],
        ask: impl FnOnce(&mut Model, &[usize]) -> Result<Vec<T>, TrainError>,
    ) -> Result<Vec<T>, TrainError> {
        if let Some(absent) = self.absent {
            return Ok(vec![absent; examples.len()]);
        }
        let mut known = self.known.borrow_mut();
        let known = &mut known[split as usize];
        let unknown: Vec<usize> =
            examples.iter().copied().filter(|example| known[*example].is_none()).collect();
        if !unknown.is_empty() {
            for (example, answer) in unknown.iter().zip(ask(model, &unknown)?) {
                known[*example] = Some(answer);
            }
        }
        Ok(examples.iter().filter_map(|example| known[*example]).collect())
    }

    /// Asks what is to be asked before the first step.
    pub(crate) fn start(
        &self,
        model: &mut Model,
        control: &mut Control<'_>,
        ask: impl Fn(&mut Model, Split, &[usize]) -> Result<Vec<T>, TrainError>,
    ) -> Result<(), TrainError> {
        let total = self.at_start.iter().map(Vec::len).sum();
        let batches = |split: Split| self.at_start[split as usize].iter().map(move |batch| (split, batch));
        for (done, (split, batch)) in batches(Split::Train).chain(batches(Split::Eval)).enumerate() {
            self.get(model, split, batch, |model, unknown| ask(model, split, unknown))?;
            (control.progress)(&Progress::Reference { done: done + 1, total });
        }
        Ok(())
    }
}
