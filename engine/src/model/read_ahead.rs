//! Asks the disk for what a load is about to read, in the order of the load and on a thread of its own, so that who packs
//! never waits for the asking. Leaves reading to `mmap` and the order to `checkpoint`.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Bytes that the disk is asked for at a time: of advice about more, Linux heeds no more than it reads ahead at once.
const PIECE: usize = 8 << 20;
/// Bytes that are asked for before anybody looks at them, at most: they take memory twice until they are packed.
const AHEAD: usize = 512 << 20;

/// A file, and what of it the disk was asked for.
#[derive(Debug)]
pub(super) struct Asked {
    file: File,
    /// Of each piece, whether it was asked for.
    pieces: Vec<AtomicBool>,
}

impl Asked {
    pub(super) fn new(file: File, len: usize) -> Self {
        Self { file, pieces: (0..len.div_ceil(PIECE)).map(|_| AtomicBool::new(false)).collect() }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Has the disk read the pieces that hold these bytes, unless it was asked before.
    pub(super) fn ask(&self, range: &Range<usize>) {
        let last = range.end.div_ceil(PIECE).min(self.pieces.len());
        for piece in (range.start / PIECE).min(last)..last {
            if !self.pieces[piece].swap(true, Ordering::Relaxed) {
                will_need(&self.file, piece * PIECE);
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn will_need(file: &File, start: usize) {
    use rustix::fs::{Advice, fadvise};

    if let Err(error) = fadvise(file, start as u64, std::num::NonZero::new(PIECE as u64), Advice::WillNeed) {
        tracing::debug!(%error, "a file is not read ahead");
    }
}

#[cfg(not(target_os = "linux"))]
fn will_need(_: &File, _: usize) {}

/// A thread that asks for a plan of ranges, some way ahead of who looks at them. It ends with this value.
#[derive(Debug)]
pub(super) struct ReadAhead {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Progress {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Seen {
    bytes: usize,
    is_over: bool,
}

impl ReadAhead {
    /// Begins. Without a thread nothing is read ahead, and all else works.
    pub(super) fn start(plan: Vec<(Arc<Asked>, Range<usize>)>) -> Self {
        let progress = Arc::new(Progress::default());
        let of_thread = Arc::clone(&progress);
        let builder = std::thread::Builder::new().name("rectify-ahead".to_owned());
        let thread = builder.spawn(move || of_thread.follow(&plan));
        let thread = thread.inspect_err(|error| tracing::debug!(%error, "files are not read ahead")).ok();
        Self { progress, thread }
    }

    /// So many bytes more are being looked at.
    pub(super) fn see(&self, bytes: usize) {
        self.progress.lock().bytes += bytes;
        self.progress.changed.notify_one();
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.progress.lock().is_over = true;
        self.progress.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked, and nothing would be lost if it had.
            let _ = thread.join();
        }
    }
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, plan: &[(Arc<Asked>, Range<usize>)]) {
        let mut asked = 0;
        for (file, range) in plan {
            for start in range.clone().step_by(PIECE) {
                let part = start..range.end.min(start + PIECE);
                let far = |seen: &mut Seen| !seen.is_over && asked + part.len() > seen.bytes + AHEAD;
                let seen = self.changed.wait_while(self.lock(), far).unwrap_or_else(PoisonError::into_inner);
                if seen.is_over {
                    return;
                }
                drop(seen);
                file.ask(&part);
                asked += part.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// A file of many pieces that holds nothing on the disk.
    fn sparse(pieces: usize) -> Arc<Asked> {
        let file = tempfile::tempfile().unwrap();
        file.set_len((pieces * PIECE) as u64).unwrap();
        Arc::new(Asked::new(file, pieces * PIECE))
    }

    fn count(file: &Asked) -> usize {
        file.pieces.iter().filter(|asked| asked.load(Ordering::Relaxed)).count()
    }

    fn comes_to(file: &Asked, pieces: usize) -> bool {
        let start = Instant::now();
        while count(file) < pieces && start.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        count(file) == pieces
    }

    #[test]
    fn it_stays_as_far_ahead_as_it_may_and_no_further() {
        let ahead = AHEAD / PIECE;
        let file = sparse(ahead * 2);
        // The second half of the file first.
        let plan = [ahead..2 * ahead, 0..ahead];
        let plan = plan.map(|pieces| (Arc::clone(&file), pieces.start * PIECE..pieces.end * PIECE));
        let reading = ReadAhead::start(plan.to_vec());
        assert!(comes_to(&file, ahead));
        assert!(!file.pieces[0].load(Ordering::Relaxed) && file.pieces[ahead].load(Ordering::Relaxed));
        reading.see(3 * PIECE);
        assert!(comes_to(&file, ahead + 3));
        assert!(file.pieces[2].load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(count(&file), ahead + 3);
        // Waiting, it ends when it is told to.
        drop(reading);
        assert_eq!(count(&file), ahead + 3);
    }

    #[test]
    fn a_range_asks_for_the_pieces_it_touches() {
        let file = sparse(4);
        file.ask(&(PIECE + 1..PIECE + 2));
        file.ask(&(0..0));
        assert_eq!(count(&file), 1);
        file.ask(&(2 * PIECE - 1..2 * PIECE + 1));
        assert_eq!(count(&file), 2);
        file.ask(&(3 * PIECE..9 * PIECE));
        assert_eq!(count(&file), 3);
    }
}
