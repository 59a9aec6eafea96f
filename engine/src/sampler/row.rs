//! A row of logits some of which a request changes: the model's row as it is, and copies of those chunks of it in which something
//! is changed. Leaves what changes to `penalties`.

use rectify_kernels::{MASS_CHUNK, MAXIMA_BLOCK};

/// Blocks whose largest value is known, of a chunk whose sum is.
pub(super) const BLOCKS: usize = MASS_CHUNK / MAXIMA_BLOCK;

/// Chunks of a row in which logits were changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Of each chunk of the row, which copy is its own.
    copies: Vec<Option<usize>>,
    /// The chunks that were copied, in this order.
    chunks: Vec<usize>,
    /// `[copies][MASS_CHUNK]`, the last chunk of a row filled up.
    logits: Vec<f32>,
}

impl Changes {
    /// Forgets them all, for a row of `len` logits.
    pub(super) fn start(&mut self, len: usize) {
        self.copies.clear();
        self.copies.resize(len.div_ceil(MASS_CHUNK), None);
        self.chunks.clear();
        self.logits.clear();
    }

    /// The logit of a token of `row`, to be changed; `None` beyond the vocabulary.
    pub(super) fn logit(&mut self, row: &[f32], token: usize) -> Option<&mut f32> {
        let chunk = token / MASS_CHUNK;
        let logits = row.get(chunk * MASS_CHUNK..).filter(|_| token < row.len())?;
        let copy = *self.copies.get_mut(chunk)?.get_or_insert_with(|| {
            self.logits.extend_from_slice(&logits[..logits.len().min(MASS_CHUNK)]);
            self.chunks.push(chunk);
            self.logits.resize(self.chunks.len() * MASS_CHUNK, f32::NEG_INFINITY);
            self.chunks.len() - 1
        });
        self.logits.get_mut(copy * MASS_CHUNK + token % MASS_CHUNK)
    }
}

/// The logits to choose from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    /// The model's.
    pub(super) logits: &'a [f32],
    changes: Option<&'a Changes>,
}

impl<'a> Row<'a> {
    /// The model's row, with the changes that were made to it.
    pub(super) fn new(logits: &'a [f32], changes: Option<&'a Changes>) -> Self {
        Self { logits, changes }
    }

    pub(super) fn len(self) -> usize {
        self.logits.len()
    }

    /// The chunks that are not the model's.
    pub(super) fn changed(self) -> &'a [usize] {
        self.changes.map_or(&[], |changes| &changes.chunks)
    }

    /// One of the row's pieces of [`MASS_CHUNK`]; empty beyond its end.
    pub(super) fn chunk(self, index: usize) -> &'a [f32] {
        let range = |from: usize| from.min(self.len())..(from + MASS_CHUNK).min(self.len());
        let of_model = range(index * MASS_CHUNK);
        let copy = self.changes.and_then(|changes| Some((changes, (*changes.copies.get(index)?)?)));
        match copy {
            Some((changes, copy)) => &changes.logits[copy * MASS_CHUNK..][..of_model.len()],
            None => &self.logits[of_model],
        }
    }

    /// All of them, in order.
    pub(super) fn chunks(self) -> impl Iterator<Item = &'a [f32]> {
        (0..self.len().div_ceil(MASS_CHUNK)).map(move |index| self.chunk(index))
    }

    /// One of the row's pieces of [`MAXIMA_BLOCK`]; empty beyond its end.
    pub(super) fn block(self, index: usize) -> &'a [f32] {
        let chunk = self.chunk(index / BLOCKS);
        let from = (index % BLOCKS * MAXIMA_BLOCK).min(chunk.len());
        &chunk[from..chunk.len().min(from + MAXIMA_BLOCK)]
    }

    /// The logit of a token of the vocabulary.
    pub(super) fn logit(self, token: usize) -> f32 {
        self.chunk(token / MASS_CHUNK)[token % MASS_CHUNK]
    }
}
