//! How the stripes of a product are cut into tasks. Leaves the rows to `panels`.

use std::ops::Range;

use crate::Pool;

/// A task takes one stripe of so many that are left, for each thread.
const PARTS: usize = 2;
/// Stripes of a task at least.
const LEAST_STRIPES: usize = 2;

/// Stripes cut into tasks: of those that are left each takes the same part, so that few begin with weights that nobody asked for
/// in advance, and the last to finish is not waited for long.
#[derive(Clone, Copy)]
pub(super) struct Shares {
    num_stripes: usize,
    parts: usize,
}

impl Shares {
    pub(super) fn new(pool: &Pool, num_stripes: usize, num_blocks: usize) -> Self {
        Self { num_stripes, parts: (PARTS * pool.num_threads()).div_ceil(num_blocks) }
    }

    /// Stripes of the task that begins with stripe `start`.
    fn len(self, start: usize) -> usize {
        let left = self.num_stripes - start;
        left.div_ceil(self.parts).max(LEAST_STRIPES).min(left)
    }

    /// Tasks.
    pub(super) fn count(self) -> usize {
        let (mut start, mut count) = (0, 0);
        while start < self.num_stripes {
            (start, count) = (start + self.len(start), count + 1);
        }
        count
    }

    /// Stripes of a task.
    pub(super) fn share(self, index: usize) -> Range<usize> {
        let start = (0..index).fold(0, |start, _| start + self.len(start));
        start..start + self.len(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stripe_is_one_tasks_and_tasks_shrink() {
        for (threads, num_stripes, num_blocks) in
            [(1, 1, 1), (2, 152, 1), (2, 28, 3), (16, 500, 2), (3, 7, 40)]
        {
            let shares = Shares::new(&Pool::new(threads).unwrap(), num_stripes, num_blocks);
            let tasks: Vec<_> = (0..shares.count()).map(|task| shares.share(task)).collect();
            assert!(tasks.iter().cloned().flatten().eq(0..num_stripes), "{tasks:?}");
            assert!(tasks.windows(2).all(|pair| pair[0].len() >= pair[1].len()), "{tasks:?}");
        }
    }
}
