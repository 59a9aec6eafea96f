//! The files behind a checkpoint while it is being loaded: which bytes will be looked at, in what order, and which no more.
//! Leaves asking for them to `read_ahead`.

use std::sync::Arc;

use super::{Checkpoint, Stored};
use crate::model::mmap::MappedFile;
use crate::model::read_ahead::ReadAhead;
use crate::model::source::FileBytes;

impl Checkpoint {
    /// Has the disk read these tensors, in this order and some way ahead of who looks at them, from now on until the
    /// checkpoint is dropped. Names that are not there are left out, and a second call changes nothing.
    pub fn read_ahead<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let place = |name| Some((Arc::clone(self.mapped(name)?.asked()), self.stored(name)?.range.clone()));
        let plan: Vec<_> = names.into_iter().filter_map(place).collect();
        if !plan.is_empty() {
            self.ahead.get_or_init(|| ReadAhead::start(plan));
        }
    }

    /// A tensor is about to be looked at.
    pub(super) fn see(&self, stored: &Stored) {
        if let Some(ahead) = self.ahead.get() {
            ahead.see(stored.range.len());
        }
    }

    /// The mapped file that holds a tensor.
    pub(super) fn mapped(&self, name: &str) -> Option<&MappedFile> {
        let (_, bytes) = &self.files[self.stored(name)?.file];
        if let FileBytes::Mapped(file) = bytes { Some(file) } else { None }
    }

    /// Lets go of a tensor's bytes in the file.
    pub(super) fn release(&self, name: &str) {
        if let (Some(file), Some(stored)) = (self.mapped(name), self.stored(name)) {
            file.release(&file[stored.range.clone()]);
        }
    }
}
