//! Memory that starts at a cache line, zeroed by the operating system and so untouched until used. Leaves layouts to
//! its users.

use bytemuck::Pod;

const LINE: usize = 64;

/// `len` values from a cache line on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffer<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Pod> Buffer<T> {
    pub(crate) fn zeroed(len: usize) -> Self {
        let data = vec![T::zeroed(); len + LINE / size_of::<T>()];
        let start = data.as_ptr().align_offset(LINE);
        Self { data, start, len }
    }

    /// Makes room for `len` values, keeping none of the old ones; allocates only to grow.
    pub(crate) fn resize(&mut self, len: usize) {
        if self.start + len > self.data.len() {
            *self = Self::zeroed(len.next_power_of_two());
        }
        self.len = len;
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl<T> std::ops::Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[self.start..self.start + self.len]
    }
}

impl<T> std::ops::DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
    }
}
