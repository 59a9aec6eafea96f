//! The way through a stripe of codes of weights: how many blocks at a time all panels of rows meet, and in which form.
//! Leaves the innermost loop to `byte_tile`, rounding to `rounding`.
#![expect(unsafe_code, reason = "operands are addressed by pointer in the innermost loop")]

use std::cell::RefCell;

use super::byte_tile::{Ahead, Codes, LINE, MultiplyBytes};
use super::coded::Coded;
use super::reading::STRIPE_BYTES;
use super::{AHEAD, Part, Product, Stripe};
use crate::buffer::Buffer;
use crate::simd::tile::MAX_COLUMNS;
use crate::simd::{LANES, Simd, dispatch};

/// Inputs whose codes of fewer than eight bits are turned into bytes at once, in the first-level cache.
const UNPACKED: usize = 256;

thread_local! {
    /// Codes of the chunk in hand as bytes.
    static BYTES: RefCell<Buffer<u32>> = RefCell::default();
}

impl Part<'_> {
    /// Sums of a stripe of codes for all rows of the part, which begin `run` apart.
    #[inline(always)]
    pub(super) fn coded_stripe<S: Simd>(
        &self,
        _: S,
        w: &Coded,
        stripe: Stripe,
        (sums, run): (&mut [f32], usize),
    ) {
        let Stripe { first, columns, .. } = stripe;
        let Product { panels, words, .. } = self.product;
        let (form, num_panels) = (w.form, self.panels.len());
        let (per_block, quads) = (form.words(), form.quads());
        let panel_block = form.row_words::<S>();
        let scale_bytes = w.per_tile().1;
        let first_row = panels.first_row(self.panels.start);
        // One panel takes codes apart as it meets them, several find them as bytes in the first-level cache.
        let is_alone = num_panels == 1;
        let unpacks = form.bits < 8 && !is_alone;
        let tail = (AHEAD / per_block).clamp(1, w.blocks);
        let chunk = match unpacks {
            true => UNPACKED / form.block,
            false => w.blocks.div_ceil((4 * columns * w.blocks * per_block).div_ceil(STRIPE_BYTES)),
        };
        let mut bytes = BYTES.take();
        let unpacked = chunk * quads * LANES;
        bytes.resize(if unpacks { columns * unpacked } else { 0 });
        let mut codes = Codes::of(w, first..first + columns, is_alone);
        let mut block = 0;
        while block < w.blocks {
            let left = w.blocks - block;
            let len = match is_alone {
                true if left > tail => left - tail,
                true => left,
                false => chunk.min(left),
            };
            let at = |j: usize| ((first + j) * w.blocks + block) * per_block;
            // Read once, codes are asked for a little in advance. Else all panels together ask for the next chunk. In the
            // end it is the first of the next stripe.
            let distance = match len < left {
                true if is_alone => tail as isize,
                true => len as isize,
                false => stripe.next() * w.blocks as isize - block as isize,
            };
            let share = (per_block / LINE).div_ceil(num_panels) * LINE;
            let ahead = Ahead {
                tiles: [w.codes.as_ptr(); MAX_COLUMNS],
                per_pair: 2 * share / quads,
                scales: (stripe.next() * scale_bytes as isize, scale_bytes / w.blocks),
            };
            for j in 0..columns {
                let words = &w.codes[at(j)..][..len * per_block];
                codes.tiles[j] = words.as_ptr();
                if unpacks {
                    let out = &mut bytes[j * unpacked..][..unpacked];
                    form.unpack_blocks(words, out);
                    codes.tiles[j] = out.as_ptr();
                }
            }
            for (index, p) in self.panels.clone().enumerate() {
                let (row, rows) = (panels.first_row(p), panels.num_rows(p));
                let start = words[row * panels.words + block * panel_block * rows..].as_ptr();
                let sums = &mut sums[(row - first_row) * run..][..(rows - 1) * run + columns * LANES];
                let skip = distance * per_block as isize + (index * len * share) as isize;
                let mut tiles = ahead.tiles;
                for (j, tile) in tiles.iter_mut().enumerate().take(columns) {
                    *tile = tile.wrapping_add(at(j)).wrapping_offset(skip);
                }
                // SAFETY: the panel holds `panel_block` words of each row for each block; tiles hold `len` blocks, and
                // scales all of theirs; the sums are as long as sliced.
                let product = unsafe {
                    MultiplyBytes::new(
                        (rows, columns),
                        (block, len),
                        quads,
                        start,
                        codes,
                        Ahead { tiles, ..ahead },
                        (sums.as_mut_ptr(), run),
                    )
                };
                dispatch(S::ISA, product);
            }
            block += len;
        }
        BYTES.set(bytes);
    }
}
