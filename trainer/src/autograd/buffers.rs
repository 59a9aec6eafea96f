//! Memory of activations and gradients, kept from step to step: fresh pages cost more than most operations.

/// Buffers nobody uses.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    spare: Vec<Vec<f32>>,
}

impl Buffers {
    /// `len` numbers of any value.
    pub(super) fn take(&mut self, len: usize) -> Vec<f32> {
        // Best fit, if it does not waste more than half.
        let fits = |buffer: &Vec<f32>| buffer.capacity() >= len && buffer.capacity() <= 2 * len + 4096;
        let best = (0..self.spare.len())
            .filter(|index| fits(&self.spare[*index]))
            .min_by_key(|index| self.spare[*index].capacity());
        let mut buffer = match best {
            Some(index) => self.spare.swap_remove(index),
            // Pages of zeros, which nobody has to write.
            None => vec![0.0; len + len / 8],
        };
        buffer.resize(len, 0.0);
        buffer
    }

    /// Keeps a buffer for later.
    pub(super) fn give(&mut self, buffer: Vec<f32>) {
        if buffer.capacity() > 0 {
            self.spare.push(buffer);
        }
    }

    /// Bytes nobody uses.
    pub(super) fn num_bytes(&self) -> usize {
        self.spare.iter().map(|buffer| 4 * buffer.capacity()).sum()
    }
}
