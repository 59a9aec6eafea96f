//! Writing keys and values into their slots, head by head. Leaves where they lie to `cache`.
#![expect(unsafe_code, reason = "tasks write different heads of the same blocks")]

use super::{GROUP, KvCache, KvStorage, Layout};
use crate::rows::Shared;
use crate::simd::{LANES, Op, Simd, dispatch, narrowed, paired};
use crate::{KernelError, Pool, Rows};

/// Numbers below which a second thread costs more than it brings.
const PARALLEL_VALUES: usize = 1 << 13;

/// Writes the keys and values of tokens to their slots (`block · block_size + offset`): `k` and `v` are `[num_tokens,
/// num_kv_heads · head_dim]`, `slot_mapping` `[num_tokens]`.
///
/// # Errors
/// [`KernelError`] if shapes disagree or a slot lies outside the cache.
pub fn reshape_and_cache(
    pool: &Pool,
    k: Rows<'_>,
    v: Rows<'_>,
    slot_mapping: &[u32],
    cache: &mut KvCache,
) -> Result<(), KernelError> {
    let layout = cache.layout;
    let width = layout.num_kv_heads * layout.head_dim;
    k.check("k", slot_mapping.len(), width)?;
    v.check("v", slot_mapping.len(), width)?;
    let num_slots = cache.num_blocks * layout.block_size;
    if let Some(slot) = slot_mapping.iter().find(|&&slot| slot as usize >= num_slots) {
        return Err(KernelError::Invalid(format!("slot {slot} lies outside a cache of {num_slots} slots")));
    }
    let tokens = Tokens { k, v, slots: slot_mapping, layout };
    match &mut cache.storage {
        KvStorage::F32 { keys, values } => write(pool, tokens, keys, values),
        KvStorage::Bf16 { keys, values } => write(pool, tokens, keys, values),
    }
    Ok(())
}

/// What to write.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    k: Rows<'a>,
    v: Rows<'a>,
    slots: &'a [u32],
    layout: Layout,
}

/// Writes each head on a thread of its own: neighbouring tokens share words.
fn write<W: Word>(pool: &Pool, tokens: Tokens<'_>, keys: &mut [W], values: &mut [W]) {
    let Layout { num_kv_heads, head_dim, .. } = tokens.layout;
    let (keys, values) = (Shared::new(keys), Shared::new(values));
    let parallel = tokens.slots.len() * num_kv_heads * head_dim > PARALLEL_VALUES;
    pool.run_if(parallel, num_kv_heads, |head| {
        dispatch(pool.isa(), WriteHead { tokens, head, keys: &keys, values: &values });
    });
}

/// One head of all tokens.
struct WriteHead<'a, W> {
    tokens: Tokens<'a>,
    head: usize,
    keys: &'a Shared<'a, W>,
    values: &'a Shared<'a, W>,
}

impl<W: Word> Op for WriteHead<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tokens { k, v, slots, layout } = self.tokens;
        let Layout { block_size, num_kv_heads, head_dim } = layout;
        let width = num_kv_heads * head_dim;
        let columns = self.head * head_dim..(self.head + 1) * head_dim;
        for (i, &slot) in slots.iter().enumerate() {
            let (block, offset) = (slot as usize / block_size, slot as usize % block_size);
            let token = layout.first_token(block, self.head) + offset;
            let (lane, key) = (offset % GROUP, (token - offset % GROUP) * head_dim / W::NUMBERS);
            let (part, value) = (token % W::NUMBERS, token / W::NUMBERS * layout.padded_head_dim());
            // SAFETY: each task writes the tokens of one head, one after the other.
            let (keys, values) = unsafe {
                let keys = self.keys.part(key..key + GROUP * head_dim / W::NUMBERS);
                (keys, self.values.part(value..value + head_dim))
            };
            W::put_key(s, &k.row(i, width)[columns.clone()], lane, keys);
            W::put_value(s, &v.row(i, width)[columns.clone()], part, values);
        }
    }
}

/// A word of a cache.
trait Word: Sized + Send {
    /// Numbers in it.
    const NUMBERS: usize;
    /// Writes a key into its lane of a group: `[head_dim / NUMBERS][16]` words.
    fn put_key<S: Simd>(s: S, k: &[f32], lane: usize, words: &mut [Self]);
    /// Writes a value into its part of `[head_dim]` words.
    fn put_value<S: Simd>(s: S, v: &[f32], part: usize, words: &mut [Self]);
}

impl Word for f32 {
    const NUMBERS: usize = 1;

    #[inline(always)]
    fn put_key<S: Simd>(_: S, k: &[f32], lane: usize, words: &mut [f32]) {
        for (words, &k) in words.chunks_exact_mut(GROUP).zip(k) {
            words[lane] = k;
        }
    }

    #[inline(always)]
    fn put_value<S: Simd>(_: S, v: &[f32], _: usize, words: &mut [f32]) {
        words.copy_from_slice(v);
    }
}

/// A pair of bf16.
impl Word for u32 {
    const NUMBERS: usize = 2;

    #[inline(always)]
    fn put_key<S: Simd>(s: S, k: &[f32], lane: usize, words: &mut [u32]) {
        for (k, words) in k.chunks(LANES).zip(words.chunks_mut(LANES / 2 * GROUP)) {
            for (words, pair) in words.chunks_exact_mut(GROUP).zip(paired(&narrowed(s, k))) {
                words[lane] = pair;
            }
        }
    }

    #[inline(always)]
    fn put_value<S: Simd>(s: S, v: &[f32], part: usize, words: &mut [u32]) {
        let (shift, kept) = if part == 0 { (0, 0xffff_0000) } else { (16, 0xffff) };
        for (v, words) in v.chunks(LANES).zip(words.chunks_mut(LANES)) {
            for (word, bits) in words.iter_mut().zip(narrowed(s, v)) {
                *word = *word & kept | u32::from(bits) << shift;
            }
        }
    }
}
