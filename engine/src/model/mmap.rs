//! Files as memory: the one place of the engine that maps a file. Leaves reading them to `checkpoint`.
#![expect(unsafe_code, reason = "mapping a file into memory has no safe interface")]

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use super::backend::Result;
use crate::EngineError;

/// Bytes that are read ahead at a time, or left alone if their first is in memory.
#[cfg(target_os = "linux")]
const READ_AHEAD: usize = 1 << 20;

/// A whole file, read-only.
#[derive(Debug)]
pub struct MappedFile(Option<memmap2::Mmap>);

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
        if metadata.len() == 0 {
            return Ok(Self(None)); // An empty mapping is an error on some systems.
        }
        // SAFETY: the mapping is read-only and private to this value; its bytes stay as they are unless someone
        // changes the file in place, which the documentation above forbids, as every user of mapped weights does.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
        #[cfg(target_os = "linux")]
        if let Err(error) = read_ahead(file, map.len()) {
            tracing::debug!(%error, "no read-ahead for {}", path.display());
        }
        Ok(Self(Some(map)))
    }

    /// Lets go of the memory behind `part`, a slice of this file: who looks again finds the same bytes, read anew. Slices
    /// of anything else are left alone.
    pub fn release(&self, part: &[u8]) {
        let Some(map) = &self.0 else { return };
        let Some(start) = part.as_ptr().addr().checked_sub(map.as_ptr().addr()) else { return };
        if part.is_empty() || start + part.len() > map.len() {
            return;
        }
        #[cfg(unix)]
        // SAFETY: dropping pages of a mapping that is read-only and backed by a file changes nothing anybody can see, and
        // the range lies inside the mapping, by the check above.
        let advised =
            unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, part.len()) };
        #[cfg(unix)]
        if let Err(error) = advised {
            tracing::debug!(%error, "pages of a mapped file stay");
        }
    }
}

/// Has the disk read the file from its start on while others already look at it. Without it each first look at a page
/// waits for the disk by itself, and of advice about a whole file the system heeds the first few MiB only.
#[cfg(target_os = "linux")]
fn read_ahead(file: File, len: usize) -> std::io::Result<()> {
    use std::io::IoSliceMut;
    use std::os::unix::fs::FileExt;

    use rustix::io::{ReadWriteFlags, preadv2};

    let read = move || {
        let mut piece = vec![0; READ_AHEAD];
        for start in (0..len as u64).step_by(READ_AHEAD) {
            let mut first = [0];
            let first = &mut [IoSliceMut::new(&mut first)];
            if preadv2(&file, first, start, ReadWriteFlags::NOWAIT).is_err()
                && file.read_at(&mut piece, start).is_err()
            {
                break;
            }
        }
    };
    std::thread::Builder::new().name("read-ahead".to_owned()).spawn(read).map(drop)
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
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
}
