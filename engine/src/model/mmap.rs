//! Files as memory: the one place of the engine that maps a file. Leaves reading them to `checkpoint`.
#![expect(unsafe_code, reason = "mapping a file into memory has no safe interface")]

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use super::backend::Result;
use super::read_ahead::ReadAhead;
use crate::EngineError;

/// A whole file, read-only.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    file: File,
    /// None of an empty file, which some systems do not map.
    map: Option<memmap2::Mmap>,
    ahead: ReadAhead,
}

impl MappedFile {
    /// Maps the file at `path`. Model files must not be changed in place while they are being loaded; writers replace
    /// them by renaming, as `rectify train` does.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| EngineError::load(path, format!("cannot be read: {error}"));
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(EngineError::load(path, "is not a regular file"));
        }
        // SAFETY: the mapping is read-only and private to this value; its bytes stay as they are unless someone
        // changes the file in place, which the documentation above forbids, as every user of mapped weights does.
        let map = || unsafe { memmap2::Mmap::map(&file) }.map_err(failed);
        let map = (metadata.len() > 0).then(map).transpose()?;
        Ok(Self {
            path: path.to_owned(),
            ahead: ReadAhead::new(path, map.as_ref().map_or(0, |map| map.len())),
            file,
            map,
        })
    }

    /// Bytes `range`, brought into memory, and some that follow them meanwhile. Without this each first look at a page waits
    /// for the disk by itself.
    pub fn part(&self, range: Range<usize>) -> &[u8] {
        self.ahead.bring(&range);
        &self[range]
    }

    /// Reads `part`, a slice of this file, into `out`, which is as long. That is faster than to look at the slice, where
    /// every page has to be found its place in memory first. `false` if the slice is not of this file.
    ///
    /// # Errors
    /// If it cannot be read; the message names the file.
    pub fn read(&self, part: &[u8], out: &mut [u8]) -> io::Result<bool> {
        let Some(range) = self.range_of(part) else { return Ok(false) };
        self.ahead.bring(&range);
        self.read_at(range, out).map_err(|error| {
            io::Error::new(error.kind(), format!("{} cannot be read: {error}", self.path.display()))
        })?;
        Ok(true)
    }

    #[cfg(unix)]
    fn read_at(&self, range: Range<usize>, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, range.start as u64)
    }

    #[cfg(not(unix))]
    fn read_at(&self, range: Range<usize>, out: &mut [u8]) -> io::Result<()> {
        out.copy_from_slice(&self[range]);
        Ok(())
    }

    /// Where `part` lies in this file, if it does.
    fn range_of(&self, part: &[u8]) -> Option<Range<usize>> {
        let map = self.map.as_ref()?;
        let start = part.as_ptr().addr().checked_sub(map.as_ptr().addr())?;
        (start + part.len() <= map.len()).then(|| start..start + part.len())
    }

    /// Lets go of the memory behind `part`, a slice of this file: who looks again finds the same bytes, read anew. Slices
    /// of anything else are left alone.
    pub fn release(&self, part: &[u8]) {
        let Some(range) = self.range_of(part).filter(|range| !range.is_empty()) else { return };
        let Some(map) = &self.map else { return };
        #[cfg(unix)]
        // SAFETY: dropping pages of a mapping that is read-only and backed by a file changes nothing anybody can see, and
        // the range lies inside the mapping, by the check above.
        let advised = unsafe {
            map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
        };
        #[cfg(unix)]
        if let Err(error) = advised {
            tracing::debug!(%error, "pages of a mapped file stay");
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_are_the_same_when_looked_at_again() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let map = MappedFile::open(file.path()).unwrap();
        assert_eq!(*map, *bytes);
        for range in [0..100_000, 5_000..70_000, 4_096..8_192, 99_999..100_000, 7..7] {
            map.release(&map[range]);
            assert_eq!(*map, *bytes);
        }
        // Not of this file.
        map.release(&bytes);
        map.release(&[]);
        assert_eq!(*map, *bytes);
    }

    #[test]
    fn a_slice_is_read_as_it_lies_and_others_are_not() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        // Enough to be read ahead.
        let bytes: Vec<u8> = (0..(17 << 20) + 77u32).map(|i| (i % 251) as u8).collect();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let map = MappedFile::open(file.path()).unwrap();
        for range in [0..10, (8 << 20) - 3..(8 << 20) + 5, 16 << 20..bytes.len(), bytes.len()..bytes.len()] {
            let mut out = vec![0; range.len()];
            assert_eq!(map.part(range.clone()), &bytes[range.clone()]);
            assert!(map.read(&map[range.clone()], &mut out).unwrap());
            assert_eq!(out, bytes[range]);
        }
        assert!(!map.read(&bytes[..5], &mut [0; 5]).unwrap());
        // Somebody cuts the file off after all.
        file.as_file().set_len(100).unwrap();
        let message = map.read(&map[90..120], &mut [0; 30]).unwrap_err().to_string();
        assert!(message.starts_with(&file.path().display().to_string()), "{message}");
    }
}
