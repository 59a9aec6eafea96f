//! How the stripes of a product are shared out among threads. Leaves the rows to `panels`.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// A thread takes one stripe of so many that are left in its run.
const PARTS: usize = 2;
/// Stripes it takes at least, if there are as many.
const LEAST_STRIPES: usize = 2;

/// Where what is left of a run begins and ends, in a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Run(AtomicU64);

/// The stripes of each block of rows, one block after the other, cut into a run for each thread, which takes from its beginning: what
/// follows what it multiplies is most likely what it multiplies next, so that it can be asked for in advance. Who is through takes
/// over half of the longest run.
pub(super) struct Shares<'a> {
    runs: &'a [Run],
    num_stripes: usize,
}

/// What a thread multiplies next: stripes of a block of rows.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) block: usize,
    pub(super) stripes: Range<usize>,
    /// The stripe after these is most likely the same thread's, too.
    pub(super) continues: bool,
}

impl<'a> Shares<'a> {
    /// So many stripes, one or more, for each of so many blocks of rows, for so many threads. The runs are overwritten.
    pub(super) fn new(
        runs: &'a mut Vec<Run>,
        num_threads: usize,
        num_stripes: usize,
        num_blocks: usize,
    ) -> Self {
        let total = num_stripes * num_blocks;
        let count = num_threads.min(total.div_ceil(LEAST_STRIPES));
        runs.resize_with(count, Run::default);
        for (index, run) in runs.iter_mut().enumerate() {
            *run.0.get_mut() = word(total * index / count..total * (index + 1) / count);
        }
        Self { runs, num_stripes }
    }

    /// Runs.
    pub(super) fn count(&self) -> usize {
        self.runs.len()
    }

    /// What is next for the thread that has run `own`.
    pub(super) fn next(&self, own: usize) -> Option<Share> {
        loop {
            if let Some(share) = self.take(own) {
                return Some(share);
            }
            let left = |other: usize| (other, self.left(other));
            let (longest, left) = (0..self.count()).map(left).max_by_key(|(_, left)| left.len())?;
            if left.is_empty() {
                return None;
            }
            let middle = left.start + left.len() / 2;
            if self.replace(longest, left.clone(), left.start..middle) {
                // Empty, it is nobody else's.
                self.runs[own].0.store(word(middle..left.end), Ordering::Release);
            }
        }
    }

    /// The first stripes of a run.
    fn take(&self, own: usize) -> Option<Share> {
        loop {
            let left = self.left(own);
            if left.is_empty() {
                return None;
            }
            let (block, first) = (left.start / self.num_stripes, left.start % self.num_stripes);
            let most = left.len().min(self.num_stripes - first);
            let len = left.len().div_ceil(PARTS).max(LEAST_STRIPES).min(most);
            if self.replace(own, left.clone(), left.start + len..left.end) {
                return Some(Share { block, stripes: first..first + len, continues: len < most });
            }
        }
    }

    fn left(&self, run: usize) -> Range<usize> {
        let word = self.runs[run].0.load(Ordering::Acquire);
        (word >> 32) as usize..(word & u64::from(u32::MAX)) as usize
    }

    /// Whether the run was still as it looked. Stripes taken never come back, so one that begins and ends where it did is the same.
    fn replace(&self, run: usize, from: Range<usize>, to: Range<usize>) -> bool {
        let run = &self.runs[run].0;
        run.compare_exchange(word(from), word(to), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// A run as a word: where it begins and, below, where it ends.
fn word(run: Range<usize>) -> u64 {
    (run.start as u64) << 32 | run.end as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread;

    use super::*;

    #[test]
    fn every_stripe_of_every_block_is_taken_once_even_if_a_thread_never_comes() {
        for (threads, num_stripes, num_blocks) in
            [(1, 1, 1), (2, 1, 1), (2, 152, 1), (2, 28, 3), (3, 7, 40), (16, 500, 2)]
        {
            for missing in [0, threads - 1, threads] {
                let mut runs = Vec::new();
                let shares = Shares::new(&mut runs, threads, num_stripes, num_blocks);
                let taken = Mutex::new(vec![0; num_stripes * num_blocks]);
                thread::scope(|scope| {
                    for own in (0..shares.count()).filter(|own| *own != missing || shares.count() == 1) {
                        let (shares, taken) = (&shares, &taken);
                        scope.spawn(move || {
                            while let Some(Share { block, stripes, .. }) = shares.next(own) {
                                for stripe in stripes {
                                    taken.lock().unwrap()[block * num_stripes + stripe] += 1;
                                }
                            }
                        });
                    }
                });
                let taken = taken.into_inner().unwrap();
                assert!(taken.iter().all(|&times| times == 1), "{threads} threads: {taken:?}");
            }
        }
    }

    #[test]
    fn a_thread_goes_on_where_it_was_and_takes_less_and_less() {
        let mut runs = Vec::new();
        let shares = Shares::new(&mut runs, 2, 40, 1);
        let mine: Vec<_> = (0..4).map(|_| shares.next(1).unwrap()).collect();
        let stripes: Vec<_> = mine.iter().map(|share| share.stripes.clone()).collect();
        assert_eq!(stripes, [20..30, 30..35, 35..38, 38..40]);
        assert_eq!([0, 1, 2, 3].map(|i| mine[i].continues), [true, true, true, false]);
        // Of what the other has not begun, the second half.
        assert_eq!(shares.next(1).unwrap().stripes, 10..15);
        assert_eq!(shares.next(0).unwrap().stripes, 0..5);
    }

    #[test]
    fn a_share_ends_with_its_block_of_rows() {
        let mut runs = Vec::new();
        let shares = Shares::new(&mut runs, 1, 3, 2);
        let Share { block, stripes, continues } = shares.next(0).unwrap();
        assert_eq!((block, stripes, continues), (0, 0..3, false));
        let Share { block, stripes, continues } = shares.next(0).unwrap();
        assert_eq!((block, stripes, continues), (1, 0..2, true));
    }
}
