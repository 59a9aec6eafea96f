//! One sequence of tokens and its place in the KV cache. Leaves when it runs to the scheduler and what its text means
//! to the engine.

use std::sync::Arc;

use crate::block_pool::BlockPool;
use crate::ids::{BlockId, SeqId, SlotId};
use crate::model::adapter::Adapter;
use crate::prefix_cache::BlockHash;

/// Where a sequence is in its life. Its phase (prefill or decode) is not here: it follows from
/// [`Sequence::num_computed_tokens`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceState {
    /// Has not run yet. A forked candidate already shares its prompt's blocks.
    Waiting,
    /// Takes part in steps.
    Running,
    /// Gave its blocks back and will recompute what they held.
    Preempted,
    /// Holds nothing.
    Finished,
}

/// A candidate, a prompt or a text to score: tokens, how many of them have keys in the cache, and in which blocks.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Unique for the life of the engine.
    pub id: SeqId,
    /// Where it is in its life.
    pub state: SequenceState,
    /// Tokens it began with; candidates of one prompt share them.
    pub prompt: Arc<[u32]>,
    /// Tokens generated.
    pub output: Vec<u32>,
    /// Tokens with a key and value in the cache.
    pub num_computed_tokens: usize,
    /// Blocks of the first tokens, in order.
    pub block_table: Vec<BlockId>,
    /// The adapter it runs under, to its end.
    pub adapter: Option<Arc<Adapter>>,
    /// Number of the last step it took part in.
    pub last_scheduled: u64,
    /// Positions whose outputs a reward model is read at, ascending; `None` is the last.
    pub wanted: Option<Arc<[u32]>>,
    /// What was read there so far.
    pub values: Vec<f32>,
    /// It is not to run until its strategy says so; it may have blocks.
    pub is_held: bool,
    root: BlockHash,
    /// Hashes of the first full blocks.
    hashes: Vec<BlockHash>,
}

impl Sequence {
    /// A sequence that has not run.
    pub fn new(id: SeqId, prompt: Arc<[u32]>, adapter: Option<Arc<Adapter>>) -> Self {
        let root = BlockHash::root(adapter.as_deref());
        Self {
            id,
            state: SequenceState::Waiting,
            prompt,
            output: Vec::new(),
            num_computed_tokens: 0,
            block_table: Vec::new(),
            adapter,
            last_scheduled: 0,
            wanted: None,
            values: Vec::new(),
            is_held: false,
            root,
            hashes: Vec::new(),
        }
    }

    /// Tokens it has.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.output.len()
    }

    /// Whether it has no tokens at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens still to compute. One, after output began, is a decode; more is a prefill.
    pub fn num_remaining_tokens(&self) -> usize {
        self.len() - self.num_computed_tokens
    }

    /// Its only missing key is that of its last generated token.
    pub fn is_decoding(&self) -> bool {
        self.num_remaining_tokens() == 1 && !self.output.is_empty()
    }

    /// Runs or may run again.
    pub fn is_alive(&self) -> bool {
        self.state != SequenceState::Finished
    }

    /// Takes part in steps.
    pub fn is_running(&self) -> bool {
        self.state == SequenceState::Running
    }

    /// The token at `position`, which must exist.
    pub fn token(&self, position: usize) -> u32 {
        match position.checked_sub(self.prompt.len()) {
            None => self.prompt[position],
            Some(index) => self.output[index],
        }
    }

    /// The cache slot of the token at `position`, which must have a block.
    pub fn slot(&self, position: usize, block_size: usize) -> SlotId {
        let block = self.block_table[position / block_size];
        SlotId(block.0 * block_size as u32 + (position % block_size) as u32)
    }

    /// Its first tokens, whose outputs nobody wants: they may come from the prefix cache.
    fn num_unread_tokens(&self) -> usize {
        let first = self.wanted.as_ref().and_then(|wanted| wanted.first());
        first.map_or(self.len() - 1, |&first| (first as usize).min(self.len() - 1))
    }

    /// Takes blocks that hold its next tokens from the prefix cache, except from that of the first token whose output is
    /// still wanted, which is the last one unless it says otherwise. Returns the number of tokens found. A sequence with a partial block has nothing to look for.
    pub fn extend_from_cache(&mut self, pool: &mut BlockPool, block_size: usize) -> usize {
        let before = self.num_computed_tokens;
        if !before.is_multiple_of(block_size) || self.block_table.len() * block_size != before {
            return 0;
        }
        while self.num_computed_tokens + block_size <= self.num_unread_tokens() {
            let hash = self.block_hash(self.block_table.len(), block_size);
            let Some(block) = pool.acquire_cached(hash) else { break };
            self.block_table.push(block);
            self.num_computed_tokens += block_size;
        }
        self.num_computed_tokens - before
    }

    /// Blocks it must take from the free list before all its tokens have a place, counting a copy of a shared partial
    /// block and free blocks it would find in the prefix cache.
    pub fn num_blocks_to_start(&mut self, pool: &BlockPool, block_size: usize, use_cache: bool) -> usize {
        let mut wanted = self.len().div_ceil(block_size) - self.block_table.len();
        if self.must_copy(pool, block_size) {
            return wanted + 1;
        }
        let whole = self.block_table.len() * block_size == self.num_computed_tokens;
        if use_cache && whole {
            for index in self.block_table.len()..self.num_unread_tokens() / block_size {
                match pool.lookup(self.block_hash(index, block_size)) {
                    Some(cached) => wanted -= usize::from(!cached.is_free),
                    None => break,
                }
            }
        }
        wanted
    }

    /// Its next token would go into a block that others also read.
    pub fn must_copy(&self, pool: &BlockPool, block_size: usize) -> bool {
        !self.num_computed_tokens.is_multiple_of(block_size)
            && self
                .block_table
                .get(self.num_computed_tokens / block_size)
                .is_some_and(|&block| pool.ref_count(block) > 1)
    }

    /// Makes room for every token, all or nothing: copies on write and allocates. `None` if too few blocks are free;
    /// otherwise the copy that must precede the next step, if any.
    pub fn make_room(
        &mut self,
        pool: &mut BlockPool,
        block_size: usize,
    ) -> Option<Option<(BlockId, BlockId)>> {
        let must_copy = self.must_copy(pool, block_size);
        let missing = self.len().div_ceil(block_size).saturating_sub(self.block_table.len());
        if pool.num_free() < missing + usize::from(must_copy) {
            return None;
        }
        let mut copy = None;
        if must_copy {
            let index = self.num_computed_tokens / block_size;
            let (from, to) = (self.block_table[index], pool.allocate()?);
            self.block_table[index] = to;
            pool.release(from);
            copy = Some((from, to));
        }
        for _ in 0..missing {
            self.block_table.push(pool.allocate()?);
        }
        Some(copy)
    }

    /// Shares the blocks of `parent`, whose tokens are the first of this sequence.
    pub fn fork_from(&mut self, parent: &Self, pool: &mut BlockPool) {
        debug_assert!(self.block_table.is_empty(), "a fork begins without blocks");
        for &block in &parent.block_table {
            pool.retain(block);
        }
        self.block_table.clone_from(&parent.block_table);
        self.hashes.truncate(0);
        self.hashes.extend_from_slice(&parent.hashes);
        self.num_computed_tokens = parent.num_computed_tokens;
        self.state = SequenceState::Waiting;
    }

    /// Becomes a copy of `other`, another candidate of its prompt, and shares its blocks.
    pub fn copy_from(&mut self, other: &Self, pool: &mut BlockPool) {
        self.release(pool, SequenceState::Waiting);
        self.output.clone_from(&other.output);
        self.fork_from(other, pool);
        self.state = other.state;
        self.is_held = other.is_held;
    }

    /// Stops taking part in steps and keeps its blocks. One that has no token yet gives back the prompt's last block, whose
    /// last token it computes again to draw its first from.
    pub fn hold(&mut self, pool: &mut BlockPool, block_size: usize) {
        self.is_held = true;
        if self.is_running() {
            self.state = SequenceState::Waiting;
        }
        if self.output.is_empty() {
            let whole = (self.prompt.len() - 1) / block_size;
            let kept = whole.min(self.num_computed_tokens / block_size);
            self.truncate_blocks(kept, pool);
            self.num_computed_tokens = kept * block_size;
        }
    }

    /// Counts `num_tokens` more as computed; blocks that are full now can be found by others.
    pub fn advance(&mut self, num_tokens: usize, pool: &mut BlockPool, block_size: usize, use_cache: bool) {
        let first = self.num_computed_tokens / block_size;
        self.num_computed_tokens += num_tokens;
        if use_cache {
            for index in first..self.num_computed_tokens / block_size {
                let hash = self.block_hash(index, block_size);
                pool.register(self.block_table[index], hash);
            }
        }
    }

    /// Gives all blocks back. The last ones first, so that they are evicted before those in front of them.
    pub fn release(&mut self, pool: &mut BlockPool, state: SequenceState) {
        self.truncate_blocks(0, pool);
        self.num_computed_tokens = 0;
        self.values.clear();
        self.state = state;
    }

    /// Gives back what it does not share with the other candidates of its prompt.
    pub fn release_tail(&mut self, pool: &mut BlockPool, block_size: usize) {
        let shared = (self.prompt.len() / block_size).min(self.num_computed_tokens / block_size);
        self.truncate_blocks(shared, pool);
        self.num_computed_tokens = shared * block_size;
        self.state = SequenceState::Preempted;
    }

    fn truncate_blocks(&mut self, keep: usize, pool: &mut BlockPool) {
        for block in self.block_table.drain(keep..).rev() {
            pool.release(block);
        }
    }

    /// Hash of full block `index`; the chain is computed once, as far as asked for.
    fn block_hash(&mut self, index: usize, block_size: usize) -> BlockHash {
        while self.hashes.len() <= index {
            let start = self.hashes.len() * block_size;
            let parent = self.hashes.last().copied().unwrap_or(self.root);
            let hash = parent.child((start..start + block_size).map(|position| self.token(position)));
            self.hashes.push(hash);
        }
        self.hashes[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 2;

    fn sequence(id: u64, tokens: &[u32]) -> Sequence {
        Sequence::new(SeqId(id), tokens.into(), None)
    }

    fn prefill(sequence: &mut Sequence, pool: &mut BlockPool) {
        sequence.make_room(pool, BLOCK).unwrap();
        sequence.advance(sequence.num_remaining_tokens(), pool, BLOCK, true);
    }

    #[test]
    fn phase_follows_from_computed_tokens() {
        let mut pool = BlockPool::new(4);
        let mut s = sequence(0, &[1, 2, 3]);
        assert!(!s.is_decoding());
        prefill(&mut s, &mut pool);
        s.output.push(9);
        assert!(s.is_decoding());
        assert_eq!(s.slot(2, BLOCK), SlotId(s.block_table[1].0 * 2));
    }

    #[test]
    fn a_fork_copies_the_partial_block_on_first_write_and_the_last_holder_writes_in_place() {
        let mut pool = BlockPool::new(8);
        let mut parent = sequence(0, &[1, 2, 3]);
        prefill(&mut parent, &mut pool);
        let (mut a, mut b) = (sequence(1, &[1, 2, 3]), sequence(2, &[1, 2, 3]));
        a.fork_from(&parent, &mut pool);
        b.fork_from(&parent, &mut pool);
        parent.release(&mut pool, SequenceState::Finished);
        assert_eq!(pool.num_used(), 2);
        a.output.push(7);
        b.output.push(8);
        assert_eq!(a.num_blocks_to_start(&pool, BLOCK, true), 1);
        let copy = a.make_room(&mut pool, BLOCK).unwrap();
        assert_eq!(copy, Some((b.block_table[1], a.block_table[1])));
        assert_eq!(b.num_blocks_to_start(&pool, BLOCK, true), 0);
        assert_eq!(b.make_room(&mut pool, BLOCK), Some(None));
        assert_eq!(a.block_table[0], b.block_table[0]);
        assert_ne!(a.block_table[1], b.block_table[1]);
    }

    #[test]
    fn the_cache_gives_all_but_the_last_token() {
        let mut pool = BlockPool::new(8);
        let mut first = sequence(0, &[1, 2, 3, 4]);
        prefill(&mut first, &mut pool);
        let mut second = sequence(1, &[1, 2, 3, 4]);
        // The hit is referenced already and costs nothing; the last block must be new.
        assert_eq!(second.num_blocks_to_start(&pool, BLOCK, true), 1);
        assert_eq!(second.extend_from_cache(&mut pool, BLOCK), 2);
        first.release(&mut pool, SequenceState::Finished);
        let mut third = sequence(2, &[1, 2, 3, 4, 5]);
        // One hit is used by `second`, the other is free and would be taken from the free list.
        assert_eq!(third.num_blocks_to_start(&pool, BLOCK, true), 2);
        assert_eq!(third.extend_from_cache(&mut pool, BLOCK), 4);
    }

    #[test]
    fn making_room_is_all_or_nothing() {
        let mut pool = BlockPool::new(2);
        let mut s = sequence(0, &[1, 2, 3, 4, 5]);
        assert_eq!(s.make_room(&mut pool, BLOCK), None);
        assert_eq!((pool.num_free(), s.block_table.len()), (2, 0));
    }

    #[test]
    fn a_suspended_candidate_keeps_the_full_prompt_blocks() {
        let mut pool = BlockPool::new(8);
        let mut s = sequence(0, &[1, 2, 3]);
        prefill(&mut s, &mut pool);
        s.output.extend([4, 5, 6]);
        prefill(&mut s, &mut pool);
        s.release_tail(&mut pool, BLOCK);
        assert_eq!((s.block_table.len(), s.num_computed_tokens, pool.num_used()), (1, 2, 1));
        // Its own full blocks are still cached.
        assert_eq!(s.extend_from_cache(&mut pool, BLOCK), 2);
    }
}
