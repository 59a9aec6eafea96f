//! Memory that starts at a cache line, zeroed by the operating system and so untouched until used. Leaves layouts to its
//! users.
#![cfg_attr(
    target_os = "linux",
    expect(unsafe_code, reason = "advice to the operating system about our own pages")
)]

use bytemuck::Pod;

const LINE: usize = 64;
/// Bytes of a huge page.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

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

    /// As [`Buffer::zeroed`], for what is filled at once and then read from end to end: in huge pages. It does not begin
    /// at the border of one: where all memory is in huge pages already, what lies before the border would cost one.
    pub(crate) fn streamed(len: usize) -> Self {
        let mut buffer = Self::zeroed(len);
        advise_huge_pages(&mut buffer.data);
        buffer
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

/// Asks for huge pages: a stream of weights crosses a page every few nanoseconds. Without them all works as well, slower.
#[cfg(target_os = "linux")]
fn advise_huge_pages<T>(data: &mut [T]) {
    const PAGE: usize = 4096;
    const MADV_HUGEPAGE: i32 = 14;
    unsafe extern "C" {
        fn madvise(start: *mut u8, len: usize, advice: i32) -> i32;
    }
    let bytes = size_of_val(data);
    if bytes < HUGE_PAGE {
        return;
    }
    let start = data.as_mut_ptr().cast::<u8>();
    let skip = start.align_offset(PAGE);
    // SAFETY: the pages lie inside `data`, and this advice changes no contents. A refusal is harmless.
    unsafe { madvise(start.add(skip), (bytes - skip) / PAGE * PAGE, MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn advise_huge_pages<T>(_: &mut [T]) {}

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
