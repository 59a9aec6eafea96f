//! Has the disk bring a file into memory before anybody looks, on a thread of its own. Leaves the bytes to who maps or reads
//! the file; without it all works as well, slower.
//!
//! One thread reads as a program would that reads files from end to end, and everybody else waits for it: then Linux reads
//! ahead by itself, into memory that hangs together, in requests four times as long as when several look here and there, or
//! when it is advised of what will be needed.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;
/// Pieces that are brought before anybody looks at them: as much as the disk can do while others still pack what it brought.
const AHEAD: usize = 1024;

/// A file that is read ahead.
#[derive(Debug)]
pub(super) struct ReadAhead {
    path: PathBuf,
    len: usize,
    /// From the first look on; `None` if there is nothing to bring.
    reader: OnceLock<Option<Arc<Reader>>>,
}

impl ReadAhead {
    /// For the file at `path` of `len` bytes; nothing is read yet.
    pub(super) fn new(path: &Path, len: usize) -> Self {
        Self { path: path.to_owned(), len, reader: OnceLock::new() }
    }

    /// Returns when these bytes have been read once, and has some that follow them read meanwhile.
    pub(super) fn bring(&self, range: &Range<usize>) {
        let start = || {
            let file = Unread::open(&self.path, self.len)?;
            file.map(|file| Reader::start(file, self.len)).transpose()
        };
        let not_read = |error| tracing::debug!(%error, "{} is not read ahead", self.path.display());
        if let Some(reader) = self.reader.get_or_init(|| start().map_err(not_read).ok().flatten()) {
            reader.bring(range.start / PIECE..range.end.div_ceil(PIECE));
        }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        if let Some(Some(reader)) = self.reader.get() {
            reader.end();
        }
    }
}

/// What the thread and those who wait for it share.
#[derive(Debug)]
struct Reader {
    plan: Mutex<Plan>,
    /// The plan has changed.
    planned: Condvar,
    /// A piece has come, or no more will.
    came: Condvar,
}

/// What to bring, in pieces.
#[derive(Debug)]
struct Plan {
    /// Of each piece, whether it has been read.
    brought: Vec<bool>,
    /// What somebody waits for.
    wanted: VecDeque<Range<usize>>,
    /// What follows the last look.
    ahead: Range<usize>,
    ended: bool,
}

impl Plan {
    fn new(num_pieces: usize) -> Self {
        Self { brought: vec![false; num_pieces], wanted: VecDeque::new(), ahead: 0..0, ended: false }
    }

    /// Somebody looks at `pieces`.
    fn look(&mut self, pieces: &Range<usize>) {
        self.ahead = pieces.end..(pieces.end + AHEAD).min(self.brought.len());
        if !self.has(pieces) {
            self.wanted.push_back(pieces.clone());
        }
    }

    fn has(&self, pieces: &Range<usize>) -> bool {
        self.brought[pieces.clone()].iter().all(|brought| *brought)
    }

    /// The piece to bring now, if any.
    fn next(&mut self) -> Option<usize> {
        let Self { brought, wanted, ahead, .. } = self;
        let missing = |pieces: &mut Range<usize>| pieces.find(|piece| !brought[*piece]);
        while let Some(pieces) = wanted.front_mut() {
            if let Some(piece) = missing(pieces) {
                return Some(piece);
            }
            wanted.pop_front();
        }
        missing(ahead)
    }
}

impl Reader {
    /// A thread that reads `file` of `len` bytes as it is looked at.
    fn start(file: Unread, len: usize) -> io::Result<Arc<Self>> {
        let plan = Mutex::new(Plan::new(len.div_ceil(PIECE)));
        let shared = Arc::new(Self { plan, planned: Condvar::new(), came: Condvar::new() });
        let reader = Arc::clone(&shared);
        let read = move || {
            while let Some(piece) = reader.next() {
                if let Err(error) = file.read(piece * PIECE..(piece + 1) * PIECE) {
                    tracing::debug!(%error, "a file is not read ahead");
                    break;
                }
                reader.plan().brought[piece] = true;
                reader.came.notify_all();
            }
            reader.end();
        };
        std::thread::Builder::new().name("rectify-read-ahead".into()).spawn(read)?;
        Ok(shared)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bring(&self, pieces: Range<usize>) {
        let mut plan = self.plan();
        plan.look(&pieces);
        self.planned.notify_one();
        drop(self.came.wait_while(plan, |plan| !plan.ended && !plan.has(&pieces)));
    }

    /// Waits for a piece to bring; `None` when there is nobody left to bring it for.
    fn next(&self) -> Option<usize> {
        let mut plan = self.plan();
        while !plan.ended {
            if let Some(piece) = plan.next() {
                return Some(piece);
            }
            plan = self.planned.wait(plan).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// Nobody waits any more, and nothing is brought.
    fn end(&self) {
        self.plan().ended = true;
        self.planned.notify_all();
        self.came.notify_all();
    }
}

/// A file that is not in memory, or not all of it.
#[cfg(target_os = "linux")]
struct Unread {
    /// An opening of its own: the system keeps count for each of how it is read.
    file: File,
    nowhere: File,
}

#[cfg(target_os = "linux")]
impl Unread {
    fn open(path: &Path, len: usize) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let here = |byte: usize| {
            let mut out = [0];
            let mut out = [io::IoSliceMut::new(&mut out)];
            rustix::io::preadv2(&file, &mut out, byte as u64, rustix::io::ReadWriteFlags::NOWAIT) == Ok(1)
        };
        if (0..len).step_by(len / 64 + 1).all(here) {
            return Ok(None);
        }
        Ok(Some(Self { file, nowhere: File::options().write(true).open("/dev/null")? }))
    }

    fn read(&self, bytes: Range<usize>) -> io::Result<()> {
        let mut at = bytes.start as u64;
        while at < bytes.end as u64 {
            let left = bytes.end - at as usize;
            match rustix::fs::sendfile(&self.nowhere, &self.file, Some(&mut at), left) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Elsewhere it is left to the system.
#[cfg(not(target_os = "linux"))]
enum Unread {}

#[cfg(not(target_os = "linux"))]
impl Unread {
    fn open(_: &Path, _: usize) -> io::Result<Option<Self>> {
        Ok(None)
    }

    fn read(&self, _: Range<usize>) -> io::Result<()> {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_comes_first_and_each_piece_once() {
        let mut plan = Plan::new(100);
        let take = |plan: &mut Plan, count: usize| -> Vec<usize> {
            let next = || plan.next().inspect(|piece| plan.brought[*piece] = true);
            std::iter::from_fn(next).take(count).collect()
        };
        assert_eq!(plan.next(), None);
        plan.look(&(10..12));
        assert_eq!(take(&mut plan, 4), [10, 11, 12, 13]);
        plan.look(&(50..51));
        plan.look(&(11..15));
        assert_eq!(take(&mut plan, 4), [50, 14, 15, 16]);
        plan.look(&(30..40));
        let rest = take(&mut plan, 100);
        assert_eq!(rest[..11], [30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40]);
        assert_eq!(rest[11..], (41..50).chain(51..100).collect::<Vec<_>>());
        assert!(plan.wanted.is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn who_looks_waits_until_it_was_read_or_nobody_reads() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, &vec![1; 20 * PIECE + 5]).unwrap();
        // What was written is in memory: nothing is to be brought.
        assert!(Unread::open(file.path(), 20 * PIECE + 5).unwrap().is_none());
        let unread = |of: &Path| Unread {
            file: File::open(of).unwrap(),
            nowhere: File::options().write(true).open("/dev/null").unwrap(),
        };
        let reader = Reader::start(unread(file.path()), 20 * PIECE + 5).unwrap();
        std::thread::scope(|scope| {
            for first in 0..4 {
                let reader = &reader;
                scope.spawn(move || {
                    for piece in (first..21).rev().step_by(4) {
                        reader.bring(piece..piece + 1);
                        assert!(reader.plan().brought[piece]);
                    }
                });
            }
        });
        reader.end();
        // A folder cannot be read: nobody waits for it.
        let reader = Reader::start(unread(Path::new("/")), 20 * PIECE).unwrap();
        reader.bring(3..5);
        assert!(!reader.plan().brought[3] && reader.plan().ended);
    }
}
