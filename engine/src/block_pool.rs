//! Physical KV blocks of one model: reference counts, a least-recently-used free list that keeps what cached blocks
//! hold, and the map from hash to block. Leaves the hashes to `prefix_cache` and block tables to `sequence`.

use std::collections::HashMap;

use crate::ids::BlockId;
use crate::prefix_cache::BlockHash;

/// A block's bookkeeping. A free block is a link of the free list.
#[derive(Clone, Debug)]
struct Block {
    ref_count: u32,
    hash: Option<BlockHash>,
    previous: u32,
    next: u32,
}

/// End of the free list.
const NONE: u32 = u32::MAX;

/// The blocks of one model.
///
/// **Invariant**: every block is either free (on the list, not referenced) or used (referenced, not on the list). A free
/// block may still be cached: it is found by its hash until it is handed out for something else.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    cached: HashMap<BlockHash, BlockId>,
    /// Handed out first.
    head: u32,
    /// Handed out last.
    tail: u32,
    num_free: usize,
    peak_used: usize,
}

impl BlockPool {
    /// `num_blocks` free blocks.
    pub fn new(num_blocks: usize) -> Self {
        let mut pool = Self {
            blocks: vec![Block { ref_count: 0, hash: None, previous: NONE, next: NONE }; num_blocks],
            cached: HashMap::new(),
            head: NONE,
            tail: NONE,
            num_free: 0,
            peak_used: 0,
        };
        for index in 0..num_blocks as u32 {
            pool.push_back(index);
        }
        pool
    }

    /// All blocks.
    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks nobody references.
    pub fn num_free(&self) -> usize {
        self.num_free
    }

    /// Blocks somebody references.
    pub fn num_used(&self) -> usize {
        self.blocks.len() - self.num_free
    }

    /// Most blocks ever used at once.
    pub fn peak_used(&self) -> usize {
        self.peak_used
    }

    /// References to `block`.
    pub fn ref_count(&self, block: BlockId) -> u32 {
        self.blocks[block.0 as usize].ref_count
    }

    /// Takes the free block that was least recently used, forgetting what it held.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let index = self.head;
        if index == NONE {
            return None;
        }
        self.unlink(index);
        let block = &mut self.blocks[index as usize];
        block.ref_count = 1;
        if let Some(hash) = block.hash.take() {
            self.cached.remove(&hash);
        }
        self.peak_used = self.peak_used.max(self.num_used());
        Some(BlockId(index))
    }

    /// One more reference to a used block.
    pub fn retain(&mut self, block: BlockId) {
        debug_assert!(self.ref_count(block) > 0, "only a used block can be shared");
        self.blocks[block.0 as usize].ref_count += 1;
    }

    /// One reference less. Without any, the block is free: reused last if it is cached, first if it is not.
    pub fn release(&mut self, block: BlockId) {
        let entry = &mut self.blocks[block.0 as usize];
        debug_assert!(entry.ref_count > 0, "a free block cannot be released");
        entry.ref_count -= 1;
        if entry.ref_count == 0 {
            if entry.hash.is_some() { self.push_back(block.0) } else { self.push_front(block.0) }
        }
    }

    /// Whether a block of this hash can be had, and if so whether that takes a free one.
    pub fn lookup(&self, hash: BlockHash) -> Option<Cached> {
        let block = *self.cached.get(&hash)?;
        Some(Cached { block, is_free: self.ref_count(block) == 0 })
    }

    /// References the block of this hash, if there is one.
    pub fn acquire_cached(&mut self, hash: BlockHash) -> Option<BlockId> {
        let Cached { block, is_free } = self.lookup(hash)?;
        if is_free {
            self.unlink(block.0);
            self.peak_used = self.peak_used.max(self.num_used());
        }
        self.blocks[block.0 as usize].ref_count += 1;
        Some(block)
    }

    /// Makes a full, computed block findable. An equal block that is already known stays the known one.
    pub fn register(&mut self, block: BlockId, hash: BlockHash) {
        debug_assert!(self.ref_count(block) > 0, "only a used block can be registered");
        if self.blocks[block.0 as usize].hash.is_none() && !self.cached.contains_key(&hash) {
            self.cached.insert(hash, block);
            self.blocks[block.0 as usize].hash = Some(hash);
        }
    }

    /// Checks the invariants against the block tables of everything that lives; `tables` yields one block for each
    /// reference. For tests: walks everything.
    ///
    /// # Errors
    /// A sentence about the first violation.
    pub fn check_integrity(&self, tables: impl Iterator<Item = BlockId>) -> Result<(), String> {
        let mut references = vec![0; self.blocks.len()];
        for block in tables {
            references[block.0 as usize] += 1;
        }
        for (index, (block, &count)) in self.blocks.iter().zip(&references).enumerate() {
            if block.ref_count != count {
                return Err(format!(
                    "block {index} counts {} references, but {count} tables hold it",
                    block.ref_count
                ));
            }
            if let Some(hash) = block.hash
                && self.cached.get(&hash) != Some(&BlockId(index as u32))
            {
                return Err(format!("block {index} has a hash that does not lead to it"));
            }
        }
        let mut free = 0;
        let mut index = self.head;
        while index != NONE {
            free += 1;
            if self.blocks[index as usize].ref_count != 0 || free > self.blocks.len() {
                return Err(format!("the free list is broken at block {index}"));
            }
            index = self.blocks[index as usize].next;
        }
        let used = references.iter().filter(|&&count| count > 0).count();
        if free != self.num_free || free + used != self.blocks.len() {
            return Err(format!("{free} free and {used} used blocks are not {} in all", self.blocks.len()));
        }
        if self.cached.len() != self.blocks.iter().filter(|block| block.hash.is_some()).count() {
            return Err("the cache knows blocks that have no hash".into());
        }
        Ok(())
    }

    fn push_back(&mut self, index: u32) {
        let tail = std::mem::replace(&mut self.tail, index);
        self.link(tail, index, NONE);
    }

    fn push_front(&mut self, index: u32) {
        let head = std::mem::replace(&mut self.head, index);
        self.link(NONE, index, head);
    }

    fn link(&mut self, previous: u32, index: u32, next: u32) {
        let block = &mut self.blocks[index as usize];
        (block.previous, block.next) = (previous, next);
        *self.forward(previous) = index;
        *self.backward(next) = index;
        self.num_free += 1;
    }

    fn unlink(&mut self, index: u32) {
        let Block { previous, next, .. } = self.blocks[index as usize];
        *self.forward(previous) = next;
        *self.backward(next) = previous;
        self.num_free -= 1;
    }

    /// The link that leads away from `index`; from outside the list, its head.
    fn forward(&mut self, index: u32) -> &mut u32 {
        if index == NONE { &mut self.head } else { &mut self.blocks[index as usize].next }
    }

    /// The link that leads back from `index`; from outside the list, its tail.
    fn backward(&mut self, index: u32) -> &mut u32 {
        if index == NONE { &mut self.tail } else { &mut self.blocks[index as usize].previous }
    }
}

/// A cached block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cached {
    /// The block.
    pub block: BlockId,
    /// Nobody references it: using it takes a free block.
    pub is_free: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash(n: u32) -> BlockHash {
        BlockHash::root(None).child([n])
    }

    #[test]
    fn hands_out_every_block_once_and_then_none() {
        let mut pool = BlockPool::new(3);
        let mut blocks: Vec<BlockId> = std::iter::from_fn(|| pool.allocate()).collect();
        blocks.sort();
        assert_eq!(blocks, [BlockId(0), BlockId(1), BlockId(2)]);
        assert_eq!((pool.num_free(), pool.num_used(), pool.peak_used()), (0, 3, 3));
    }

    #[test]
    fn a_shared_block_is_free_only_after_its_last_reference() {
        let mut pool = BlockPool::new(1);
        let block = pool.allocate().unwrap();
        pool.retain(block);
        pool.release(block);
        assert_eq!(pool.allocate(), None);
        pool.release(block);
        assert_eq!(pool.allocate(), Some(block));
    }

    #[test]
    fn a_free_cached_block_is_found_until_it_is_reused() {
        let mut pool = BlockPool::new(2);
        let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
        pool.register(a, hash(1));
        pool.release(a);
        pool.release(b);
        assert_eq!(pool.lookup(hash(1)), Some(Cached { block: a, is_free: true }));
        // The uncached block goes first, though it was freed last.
        assert_eq!(pool.allocate(), Some(b));
        assert_eq!(pool.acquire_cached(hash(1)), Some(a));
        pool.release(a);
        assert_eq!(pool.allocate(), Some(a));
        assert_eq!(pool.lookup(hash(1)), None);
    }

    #[test]
    fn evicts_the_least_recently_used_cached_block() {
        let mut pool = BlockPool::new(3);
        let blocks: Vec<BlockId> = std::iter::from_fn(|| pool.allocate()).collect();
        for (n, &block) in blocks.iter().enumerate() {
            pool.register(block, hash(n as u32));
            pool.release(block);
        }
        let again = pool.acquire_cached(hash(0)).unwrap();
        pool.release(again);
        assert_eq!(pool.allocate(), Some(blocks[1]));
    }

    #[test]
    fn check_integrity_sees_a_lost_reference() {
        let mut pool = BlockPool::new(2);
        let block = pool.allocate().unwrap();
        assert!(pool.check_integrity([block].into_iter()).is_ok());
        assert!(pool.check_integrity(std::iter::empty()).is_err());
        assert!(pool.check_integrity([block, block].into_iter()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn free_and_used_always_make_the_total(operations in prop::collection::vec((0..4u8, 0..8u32), 1..200)) {
            let mut pool = BlockPool::new(5);
            let mut held: Vec<BlockId> = Vec::new();
            for (operation, n) in operations {
                match operation {
                    0 => held.extend(pool.allocate()),
                    1 => held.extend(pool.acquire_cached(hash(n))),
                    2 if !held.is_empty() => pool.register(held[n as usize % held.len()], hash(n)),
                    3 if !held.is_empty() => pool.release(held.swap_remove(n as usize % held.len())),
                    _ => {}
                }
                prop_assert_eq!(pool.num_free() + pool.num_used(), 5);
                prop_assert_eq!(pool.check_integrity(held.iter().copied()), Ok(()));
            }
        }
    }
}
