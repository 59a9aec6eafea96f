//! What the reference policy says of each example, asked once. With adapters the reference is the base, asked when an
//! example is first met; when every weight moves it is what the weights were, asked before the first step.

use std::cell::RefCell;

use super::method::Split;
use super::model::Model;
use super::progress::{Control, Progress};
use crate::config::{TrainConfig, Tuning};
use crate::data::Batches;
use crate::error::TrainError;

/// Answers of the reference by split and example.
#[derive(Debug)]
pub(crate) struct Reference<T> {
    known: RefCell<[Vec<Option<T>>; 2]>,
    /// Ask everything before the first step.
    at_start: bool,
    /// There is none: every answer is this.
    absent: Option<T>,
}

impl<T: Copy> Reference<T> {
    /// A reference for so many examples of each split; `absent` stands for its answers if there is none.
    pub(crate) fn new(
        settings: &TrainConfig,
        precompute: bool,
        num_examples: [usize; 2],
        absent: Option<T>,
    ) -> Self {
        let at_start = precompute || settings.tuning == Tuning::Full;
        Self { known: RefCell::new(num_examples.map(|count| vec![None; count])), at_start, absent }
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

    /// Asks everything, if that is to be done before the first step.
    pub(crate) fn start(
        &self,
        (settings, lengths): (&TrainConfig, [Vec<usize>; 2]),
        model: &mut Model,
        control: &mut Control<'_>,
        ask: impl Fn(&mut Model, Split, &[usize]) -> Result<Vec<T>, TrainError>,
    ) -> Result<(), TrainError> {
        if !self.at_start || self.absent.is_some() {
            return Ok(());
        }
        let batches = lengths.map(|lengths| Batches::new(settings, lengths).in_order());
        let total = batches.iter().map(Vec::len).sum();
        let mut done = 0;
        for (split, batches) in [Split::Train, Split::Eval].into_iter().zip(&batches) {
            for batch in batches {
                self.get(model, split, batch, |model, unknown| ask(model, split, unknown))?;
                done += 1;
                (control.progress)(&Progress::Reference { done, total });
            }
        }
        Ok(())
    }
}
