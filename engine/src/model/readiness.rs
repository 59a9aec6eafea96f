//! How far ahead of its first use the memory of KV blocks is made ready. Leaves how to `KvCache::populate`.
//!
//! The system clears memory as it is first written, a huge page at a time in every matrix of every layer: a step that enters new
//! pages would wait for all of them, on a virtual machine longer than its own work takes. Blocks that were never used are handed out
//! in ascending order, before any that holds something cached, so what comes next is known.

use std::ops::Range;

/// The part of all blocks that is ready at least, when nothing waits.
const LEAST_PART: usize = 16;

/// Which blocks were used, and which have memory.
#[derive(Debug)]
pub(super) struct Readiness {
    num_blocks: usize,
    num_layers: usize,
    /// [`KvCache::page_blocks`](rectify_kernels::KvCache::page_blocks).
    page: usize,
    /// Blocks from here on were never written.
    used: usize,
    /// Blocks from here on have no memory yet, but for a page of them in the first `layers_ready` layers.
    ready: usize,
    layers_ready: usize,
}

impl Readiness {
    /// Of `num_blocks` blocks in each layer, `page` of which get memory at once.
    pub(super) fn new(num_blocks: usize, num_layers: usize, page: usize) -> Self {
        Self { num_blocks, num_layers, page, used: 0, ready: 0, layers_ready: 0 }
    }

    /// That these blocks are written now: then their pages have memory.
    pub(super) fn observe(&mut self, blocks: impl Iterator<Item = usize>) {
        self.used = blocks.map(|block| block + 1).fold(self.used, usize::max);
        let entered = self.used.next_multiple_of(self.page);
        if entered > self.ready {
            (self.ready, self.layers_ready) = (entered, 0);
        }
    }

    /// What to make ready next: these blocks of this layer. Between batches that is the next page, once half of the one before was
    /// used; with time to spare as much again as was used.
    pub(super) fn next(&mut self, is_idle: bool) -> Option<(usize, Range<usize>)> {
        let wanted = match is_idle {
            true => (2 * self.used).max(self.num_blocks / LEAST_PART),
            false => self.used + self.page / 2,
        };
        if self.ready >= wanted.min(self.num_blocks) {
            return None;
        }
        let next = (self.layers_ready, self.ready..self.num_blocks.min(self.ready + self.page));
        self.layers_ready += 1;
        if self.layers_ready == self.num_layers {
            (self.ready, self.layers_ready) = (next.1.end, 0);
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of sixteen blocks in each of two layers.
    fn readiness() -> Readiness {
        Readiness::new(150, 2, 16)
    }

    fn all(readiness: &mut Readiness, is_idle: bool) -> Vec<(usize, Range<usize>)> {
        std::iter::from_fn(|| readiness.next(is_idle)).collect()
    }

    #[test]
    fn idle_time_readies_as_much_again_as_was_used() {
        let mut readiness = readiness();
        assert_eq!(all(&mut readiness, true), [(0, 0..16), (1, 0..16)]);
        readiness.observe([0, 24, 3].into_iter());
        assert_eq!(all(&mut readiness, true), [(0, 32..48), (1, 32..48), (0, 48..64), (1, 48..64)]);
        readiness.observe(66..75);
        let layers: Vec<_> = all(&mut readiness, true).into_iter().filter(|(layer, _)| *layer == 0).collect();
        let blocks = [80..96, 96..112, 112..128, 128..144, 144..150];
        assert_eq!(layers, blocks.map(|blocks| (0, blocks)));
        readiness.observe([149].into_iter());
        assert_eq!(all(&mut readiness, true), []);
    }

    #[test]
    fn between_batches_only_the_page_that_comes_next_is_made_ready() {
        let mut readiness = readiness();
        readiness.observe(0..8);
        assert_eq!(readiness.next(false), None);
        readiness.observe([8].into_iter());
        assert_eq!(readiness.next(false), Some((0, 16..32)));
        // What was entered meanwhile is not made ready again.
        readiness.observe([41].into_iter());
        assert_eq!(all(&mut readiness, false), [(0, 48..64), (1, 48..64)]);
    }
}
