//! Memory that starts at a cache line, zeroed by the operating system and so untouched until used. Leaves layouts to its
//! users.

use std::ops::Range;
use std::sync::OnceLock;

use bytemuck::Pod;
use memmap2::MmapMut;

const LINE: usize = 64;
/// Bytes of a huge page.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// `len` values from a cache line on.
#[derive(Debug)]
pub(crate) struct Buffer<T> {
    memory: Memory<T>,
    start: usize,
    len: usize,
}

/// Where values lie.
#[derive(Debug)]
enum Memory<T> {
    Heap(Vec<T>),
    /// Asked of the system: an allocator may fill with zeros, on one thread, what is about to be filled on all.
    Mapped(MmapMut),
}

impl<T: Pod> Buffer<T> {
    pub(crate) fn zeroed(len: usize) -> Self {
        let data = vec![T::zeroed(); len + LINE / size_of::<T>()];
        let start = data.as_ptr().align_offset(LINE);
        Self { memory: Memory::Heap(data), start, len }
    }

    /// As [`Buffer::zeroed`], for weights and blocks of keys: in huge pages, for who reads these crosses a page every few
    /// nanoseconds. Without them all works as well, slower.
    pub(crate) fn streamed(len: usize) -> Self {
        let bytes = len * size_of::<T>();
        if bytes < HUGE_PAGE {
            return Self::zeroed(len);
        }
        let Ok(map) = MmapMut::map_anon(bytes) else { return Self::zeroed(len) };
        // A refusal is harmless.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Self { memory: Memory::Mapped(map), start: 0, len }
    }

    /// Has the system give memory for `values`, which are written later, and clear it now. What they are stays as it is. Where the
    /// system cannot, memory is taken when it is first written.
    #[cfg(target_os = "linux")]
    pub(crate) fn populate(&self, values: Range<usize>) {
        if let Memory::Mapped(map) = &self.memory {
            let (start, len) = (values.start * size_of::<T>(), values.len() * size_of::<T>());
            // A refusal is harmless.
            let _ = map.advise_range(memmap2::Advice::PopulateWrite, start, len);
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn populate(&self, _: Range<usize>) {}

    /// Makes room for `len` values, keeping none of the old ones; allocates only to grow.
    pub(crate) fn resize(&mut self, len: usize) {
        if self.start + len > self.memory.values().len() {
            *self = Self::zeroed(len.next_power_of_two());
        }
        self.len = len;
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self { memory: Memory::Heap(Vec::new()), start: 0, len: 0 }
    }
}

impl<T: Pod> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut clone = match self.memory {
            Memory::Heap(_) => Self::zeroed(self.len),
            Memory::Mapped(_) => Self::streamed(self.len),
        };
        clone.copy_from_slice(self);
        clone
    }
}

impl<T: Pod> Memory<T> {
    fn values(&self) -> &[T] {
        match self {
            Self::Heap(data) => data,
            Self::Mapped(map) => bytemuck::cast_slice(map),
        }
    }

    fn values_mut(&mut self) -> &mut [T] {
        match self {
            Self::Heap(data) => data,
            Self::Mapped(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

impl<T: Pod> std::ops::Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.memory.values()[self.start..self.start + self.len]
    }
}

impl<T: Pod> std::ops::DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory.values_mut()[self.start..self.start + self.len]
    }
}

/// The huge pages of memory that several threads fill: of two that touch the same at once the system would fill one with zeros
/// for each, and throw one away.
pub(crate) struct HugePages {
    first: usize,
    touched: Vec<OnceLock<()>>,
}

impl HugePages {
    pub(crate) fn of<T>(values: &[T]) -> Self {
        let Range { start, end } = values.as_ptr_range();
        let first = start.addr() / HUGE_PAGE;
        Self { first, touched: (first..=end.addr() / HUGE_PAGE).map(|_| OnceLock::new()).collect() }
    }

    /// Has the pages of `part`, which is about to be overwritten, at hand: one thread touches each, others wait for it.
    pub(crate) fn touch<T: Pod>(&self, part: &mut [T]) {
        let mut rest = part;
        while let Some(value) = rest.first_mut() {
            let address = std::ptr::from_mut(value).addr();
            self.touched[address / HUGE_PAGE - self.first].get_or_init(|| *value = T::zeroed());
            let in_page = (HUGE_PAGE - address % HUGE_PAGE).div_ceil(size_of::<T>());
            rest = rest.get_mut(in_page..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_begin_at_a_line_hold_zeros_and_are_cloned() {
        for len in [0, 1, 100, HUGE_PAGE / 4 - 1, HUGE_PAGE / 4, HUGE_PAGE] {
            for mut buffer in [Buffer::<u32>::zeroed(len), Buffer::streamed(len)] {
                assert_eq!((buffer.len(), buffer.as_ptr().align_offset(LINE)), (len, 0));
                assert!(buffer.iter().all(|word| *word == 0));
                buffer.iter_mut().zip(1..).for_each(|(word, i)| *word = i);
                let clone = buffer.clone();
                buffer.fill(0);
                assert!(clone.iter().zip(1..).all(|(word, i)| *word == i));
            }
        }
    }

    #[test]
    fn memory_that_is_made_ready_keeps_what_it_holds() {
        for len in [1000, HUGE_PAGE] {
            let mut buffer = Buffer::<u32>::streamed(len);
            buffer[7..900].fill(5);
            buffer.populate(0..len / 2);
            buffer.populate(len - 1..len);
            buffer.populate(3..3);
            assert_eq!(buffer.iter().sum::<u32>(), 893 * 5);
        }
    }

    /// Whether the page of a value has memory.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    fn is_present(value: &u32) -> std::io::Result<bool> {
        use std::os::unix::fs::FileExt;
        let page = std::ptr::from_ref(value).addr() as u64 / 4096;
        let mut entry = [0; 8];
        std::fs::File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, 8 * page)?;
        Ok(entry[7] & 0x80 != 0)
    }

    #[test]
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    fn memory_that_is_made_ready_is_there_and_no_other() {
        let words = HUGE_PAGE / 4;
        let buffer = Buffer::<u32>::streamed(8 * words);
        buffer.populate(words..3 * words);
        // Pages just before and after may share huge ones with these.
        let present = [words, 2 * words, 3 * words - 1, 6 * words].map(|i| is_present(&buffer[i]).unwrap());
        assert_eq!(present, [true, true, true, false]);
    }

    #[test]
    fn room_grows_and_never_shrinks() {
        let mut buffer = Buffer::<f32>::default();
        buffer.resize(1000);
        let place = buffer.as_ptr();
        buffer.resize(3);
        buffer.resize(1024);
        assert_eq!((buffer.len(), buffer.as_ptr()), (1024, place));
        buffer.resize(1 << 20);
        assert_eq!(buffer.len(), 1 << 20);
    }

    #[test]
    fn each_huge_page_is_touched_once_wherever_parts_begin() {
        let mut buffer = Buffer::<u16>::streamed(3 * HUGE_PAGE / 2 + 7);
        let pages = HugePages::of(&buffer);
        let page = |value: &u16| std::ptr::from_ref(value).addr() / HUGE_PAGE;
        let spanned = page(&buffer[buffer.len() - 1]) - page(&buffer[0]) + 1;
        assert!(spanned >= 4);
        buffer.fill(9);
        for _ in 0..2 {
            buffer.chunks_mut(100_001).for_each(|part| pages.touch(part));
            let touched: Vec<usize> = buffer.iter().filter(|value| **value == 0).map(page).collect();
            assert_eq!(touched, (pages.first..pages.first + spanned).collect::<Vec<_>>());
        }
        pages.touch::<u16>(&mut []);
    }
}
