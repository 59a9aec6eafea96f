//! One layer's keys and values, in blocks laid out as the attention reads them. Leaves writing them to `cache/write`, and
//! which block belongs to whom to `engine`.

mod write;

pub use write::reshape_and_cache;

use std::ops::Range;

use bytemuck::Pod;

use crate::buffer::{Buffer, HUGE_PAGE};
use crate::error::ensure;
use crate::{KernelError, Pool};

/// Tokens side by side in one register of keys.
pub(crate) const GROUP: usize = 16;

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvDtype {
    /// Single precision.
    F32,
    /// bfloat16.
    Bf16,
}

/// Keys and values of one layer. Both products of attention read it as a packed matrix:
/// keys are `[block][kv_head][16-token group][head_dim][16]` (`[head_dim / 2][16][2]` in bf16) and values
/// `[block][kv_head][token][padded head_dim]` (`[token / 2][padded head_dim][2]` in bf16).
#[derive(Clone, Debug)]
pub struct KvCache {
    num_blocks: usize,
    layout: Layout,
    storage: KvStorage,
}

/// Where things lie in a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    block_size: usize,
    num_kv_heads: usize,
    head_dim: usize,
}

impl Layout {
    /// See [`KvCache::padded_head_dim`].
    #[inline]
    fn padded_head_dim(self) -> usize {
        self.head_dim.next_multiple_of(GROUP)
    }

    /// See [`KvCache::first_token`].
    #[inline]
    fn first_token(self, block: usize, kv_head: usize) -> usize {
        (block * self.num_kv_heads + kv_head) * self.block_size
    }
}

/// The numbers of a cache.
#[derive(Clone, Debug)]
enum KvStorage {
    F32 { keys: Buffer<f32>, values: Buffer<f32> },
    Bf16 { keys: Buffer<u32>, values: Buffer<u32> },
}

impl KvCache {
    /// An empty cache; memory is only taken as blocks are first written, or [made ready](Self::populate).
    ///
    /// # Errors
    /// [`KernelError::Invalid`] unless `block_size` is a multiple of 16, `head_dim` a multiple of 8 and nothing zero.
    pub fn new(
        num_blocks: usize,
        block_size: usize,
        num_kv_heads: usize,
        head_dim: usize,
        dtype: KvDtype,
    ) -> Result<Self, KernelError> {
        ensure(block_size > 0 && block_size.is_multiple_of(GROUP), || {
            format!("block_size must be a multiple of {GROUP}, not {block_size}")
        })?;
        ensure(head_dim > 0 && head_dim.is_multiple_of(8), || {
            format!("head_dim must be a multiple of 8, not {head_dim}")
        })?;
        ensure(num_kv_heads > 0, || "a cache needs at least one key-value head".to_owned())?;
        let layout = Layout { block_size, num_kv_heads, head_dim };
        let tokens = layout.first_token(num_blocks, 0);
        let (keys, values) = (tokens * head_dim, tokens * layout.padded_head_dim());
        let storage = match dtype {
            KvDtype::F32 => KvStorage::F32 { keys: Buffer::streamed(keys), values: Buffer::streamed(values) },
            KvDtype::Bf16 => {
                KvStorage::Bf16 { keys: Buffer::streamed(keys / 2), values: Buffer::streamed(values / 2) }
            }
        };
        Ok(Self { num_blocks, layout, storage })
    }

    /// Copies block `from` over block `to`.
    ///
    /// # Errors
    /// [`KernelError::Invalid`] if there is no such block.
    pub fn copy_block(&mut self, from: u32, to: u32) -> Result<(), KernelError> {
        for block in [from, to] {
            ensure((block as usize) < self.num_blocks, || {
                format!("block {block} lies outside a cache of {} blocks", self.num_blocks)
            })?;
        }
        let (from, to, n) = (from as usize, to as usize, self.num_blocks);
        match &mut self.storage {
            KvStorage::F32 { keys, values } => {
                copy_part(keys, n, from, to);
                copy_part(values, n, from, to);
            }
            KvStorage::Bf16 { keys, values } => {
                copy_part(keys, n, from, to);
                copy_part(values, n, from, to);
            }
        }
        Ok(())
    }

    /// Takes the memory of blocks that are written later, so that who writes them does not wait until the system has cleared it.
    /// Where the system cannot, nothing happens.
    pub fn populate(&self, pool: &Pool, blocks: Range<usize>) {
        let blocks = blocks.start.min(self.num_blocks)..blocks.end.min(self.num_blocks);
        match &self.storage {
            KvStorage::F32 { keys, values } => populate(pool, [keys, values], self.num_blocks, blocks),
            KvStorage::Bf16 { keys, values } => populate(pool, [keys, values], self.num_blocks, blocks),
        }
    }

    /// Blocks whose keys, or values, the system gives memory to at once.
    pub fn page_blocks(&self) -> usize {
        // Keys and values take as much, but for padding.
        (2 * HUGE_PAGE * self.num_blocks).div_ceil(self.num_bytes().max(1)).max(1)
    }

    /// Memory of a full cache.
    pub fn num_bytes(&self) -> usize {
        match &self.storage {
            KvStorage::F32 { keys, values } => 4 * (keys.len() + values.len()),
            KvStorage::Bf16 { keys, values } => 4 * (keys.len() + values.len()),
        }
    }

    /// Physical blocks.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.layout.block_size
    }

    /// Key-value heads.
    pub fn num_kv_heads(&self) -> usize {
        self.layout.num_kv_heads
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.layout.head_dim
    }

    /// How keys and values are kept.
    pub fn dtype(&self) -> KvDtype {
        match self.storage {
            KvStorage::F32 { .. } => KvDtype::F32,
            KvStorage::Bf16 { .. } => KvDtype::Bf16,
        }
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// Width of a head of values, padded to whole registers.
    #[inline]
    pub(crate) fn padded_head_dim(&self) -> usize {
        self.layout.padded_head_dim()
    }

    /// First token of a block and head, counted over the whole cache.
    #[inline]
    pub(crate) fn first_token(&self, block: usize, kv_head: usize) -> usize {
        self.layout.first_token(block, kv_head)
    }

    /// Where a token of a sequence with this block table lies for a head, counted over the whole cache.
    #[inline]
    pub(crate) fn place(&self, table: &[u32], kv_head: usize, token: usize) -> usize {
        let block_size = self.block_size();
        self.first_token(table[token / block_size] as usize, kv_head) + token % block_size
    }

    /// The words of keys, the words of a key, and whether a word is a pair of bf16.
    #[inline]
    pub(crate) fn key_words(&self) -> (*const u32, usize, bool) {
        match &self.storage {
            KvStorage::F32 { keys, .. } => (keys.as_ptr().cast(), self.head_dim(), false),
            KvStorage::Bf16 { keys, .. } => (keys.as_ptr(), self.head_dim() / 2, true),
        }
    }

    /// The words of values and the tokens in a word.
    #[inline]
    pub(crate) fn value_words(&self) -> (*const u32, usize) {
        match &self.storage {
            KvStorage::F32 { values, .. } => (values.as_ptr().cast(), 1),
            KvStorage::Bf16 { values, .. } => (values.as_ptr(), 2),
        }
    }

    /// One pair of values with the odd one cleared: `[padded head_dim]` words.
    pub(crate) fn even_values(&self, first_token: usize, out: &mut [u32]) {
        if let KvStorage::Bf16 { values, .. } = &self.storage {
            let words = &values[first_token / 2 * self.padded_head_dim()..];
            out.iter_mut().zip(words).for_each(|(out, word)| *out = word & 0xffff);
        }
    }
}

fn populate<T: Pod + Sync>(pool: &Pool, sides: [&Buffer<T>; 2], num_blocks: usize, blocks: Range<usize>) {
    pool.run(sides.len(), |side| {
        let len = sides[side].len() / num_blocks.max(1);
        sides[side].populate(blocks.start * len..blocks.end * len);
    });
}

fn copy_part<T: Copy>(data: &mut [T], num_blocks: usize, from: usize, to: usize) {
    let len = data.len() / num_blocks;
    data.copy_within(from * len..(from + 1) * len, to * len);
}
