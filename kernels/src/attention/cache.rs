//! One layer's keys and values, in blocks laid out as the attention reads them. Leaves which block belongs to whom to
//! `engine`.

use half::bf16;

use crate::buffer::Buffer;
use crate::error::ensure;
use crate::{KernelError, Pool, Rows};

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
    block_size: usize,
    num_kv_heads: usize,
    head_dim: usize,
    storage: KvStorage,
}

/// The numbers of a cache.
#[derive(Clone, Debug)]
enum KvStorage {
    F32 { keys: Buffer<f32>, values: Buffer<f32> },
    Bf16 { keys: Buffer<u32>, values: Buffer<u32> },
}

impl KvCache {
    /// An empty cache; memory is only taken as blocks are first written.
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
        let tokens = num_blocks * num_kv_heads * block_size;
        let (keys, values) = (tokens * head_dim, tokens * head_dim.next_multiple_of(GROUP));
        let storage = match dtype {
            KvDtype::F32 => KvStorage::F32 { keys: Buffer::zeroed(keys), values: Buffer::zeroed(values) },
            KvDtype::Bf16 => {
                KvStorage::Bf16 { keys: Buffer::zeroed(keys / 2), values: Buffer::zeroed(values / 2) }
            }
        };
        Ok(Self { num_blocks, block_size, num_kv_heads, head_dim, storage })
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
        self.block_size
    }

    /// Key-value heads.
    pub fn num_kv_heads(&self) -> usize {
        self.num_kv_heads
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// How keys and values are kept.
    pub fn dtype(&self) -> KvDtype {
        match self.storage {
            KvStorage::F32 { .. } => KvDtype::F32,
            KvStorage::Bf16 { .. } => KvDtype::Bf16,
        }
    }

    /// Width of a head of values, padded to whole registers.
    pub(crate) fn padded_head_dim(&self) -> usize {
        self.head_dim.next_multiple_of(GROUP)
    }

    /// First token of a block and head, counted over the whole cache.
    pub(crate) fn first_token(&self, block: usize, kv_head: usize) -> usize {
        (block * self.num_kv_heads + kv_head) * self.block_size
    }

    /// The words of keys, the words of a key, and whether a word is a pair of bf16.
    pub(crate) fn key_words(&self) -> (*const u32, usize, bool) {
        match &self.storage {
            KvStorage::F32 { keys, .. } => (keys.as_ptr().cast(), self.head_dim, false),
            KvStorage::Bf16 { keys, .. } => (keys.as_ptr(), self.head_dim / 2, true),
        }
    }

    /// The words of values and the tokens in a word.
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

    /// Writes one key and value of one head.
    fn write(&mut self, block: usize, kv_head: usize, offset: usize, k: &[f32], v: &[f32]) {
        let (group, lane) = (offset / GROUP, offset % GROUP);
        let token = self.first_token(block, kv_head) + offset;
        let start = (token - offset + group * GROUP) * self.head_dim;
        let width = self.padded_head_dim();
        match &mut self.storage {
            KvStorage::F32 { keys, values } => {
                k.iter().enumerate().for_each(|(d, &k)| keys[start + d * GROUP + lane] = k);
                values[token * width..][..v.len()].copy_from_slice(v);
            }
            KvStorage::Bf16 { keys, values } => {
                for (pair, k) in k.chunks_exact(2).enumerate() {
                    keys[start / 2 + pair * GROUP + lane] = bits(k[0]) | bits(k[1]) << 16;
                }
                for (word, &v) in values[token / 2 * width..].iter_mut().zip(v) {
                    *word = if token.is_multiple_of(2) {
                        (*word & 0xffff_0000) | bits(v)
                    } else {
                        (*word & 0xffff) | bits(v) << 16
                    };
                }
            }
        }
    }
}

fn bits(x: f32) -> u32 {
    bf16::from_f32(x).to_bits().into()
}

fn copy_part<T: Copy>(data: &mut [T], num_blocks: usize, from: usize, to: usize) {
    let len = data.len() / num_blocks;
    data.copy_within(from * len..(from + 1) * len, to * len);
}

/// Writes the keys and values of tokens to their slots (`block · block_size + offset`): `k` and `v` are `[num_tokens,
/// num_kv_heads · head_dim]`, `slot_mapping` `[num_tokens]`.
///
/// # Errors
/// [`KernelError`] if shapes disagree or a slot lies outside the cache.
pub fn reshape_and_cache(
    _pool: &Pool,
    k: Rows<'_>,
    v: Rows<'_>,
    slot_mapping: &[u32],
    cache: &mut KvCache,
) -> Result<(), KernelError> {
    let (head_dim, num_kv_heads) = (cache.head_dim, cache.num_kv_heads);
    let width = num_kv_heads * head_dim;
    k.check("k", slot_mapping.len(), width)?;
    v.check("v", slot_mapping.len(), width)?;
    let num_slots = cache.num_blocks * cache.block_size;
    if let Some(slot) = slot_mapping.iter().find(|&&slot| slot as usize >= num_slots) {
        return Err(KernelError::Invalid(format!("slot {slot} lies outside a cache of {num_slots} slots")));
    }
    for (i, &slot) in slot_mapping.iter().enumerate() {
        let (block, offset) = (slot as usize / cache.block_size, slot as usize % cache.block_size);
        for head in 0..num_kv_heads {
            let range = head * head_dim..(head + 1) * head_dim;
            cache.write(block, head, offset, &k.row(i, width)[range.clone()], &v.row(i, width)[range]);
        }
    }
    Ok(())
}
