//! The product of activations in eight bits with codes of weights: bytes are multiplied and summed as integers inside a
//! block, and blocks summed in f32 in the order of the inputs. Leaves rounding to `rounding`, the walk to `mod`.
#![expect(unsafe_code, reason = "operands are addressed by pointer in the innermost loop")]

use std::cell::RefCell;

use super::coded::{Coded, NIBBLES, upper_bits};
use super::reading::STRIPE_BYTES;
use super::rounding::EXTRA;
use super::{AHEAD, Part, Product};
use crate::buffer::Buffer;
use crate::simd::tile::{MAX_COLUMNS, columns_for, of_shape};
use crate::simd::{LANES, Op, Simd, dispatch};

/// Inputs whose codes of fewer than eight bits are turned into bytes at once, in the first-level cache.
const UNPACKED: usize = 256;
/// Words of a cache line.
const LINE: usize = 16;

thread_local! {
    /// Codes of the chunk in hand as bytes.
    static BYTES: RefCell<Buffer<u32>> = RefCell::default();
}

impl Part<'_> {
    /// Sums of column tiles `first..first + columns` for all rows of the part: `[rows, columns · 16]`.
    #[inline(always)]
    pub(super) fn coded_stripe<S: Simd>(
        &self,
        _: S,
        w: &Coded,
        first: usize,
        columns: usize,
        sums: &mut [f32],
    ) {
        let Product { panels, words, .. } = self.product;
        let (form, num_panels) = (w.form, self.panels.len());
        let (per_block, quads) = (form.words(), form.quads());
        let scale_bytes = w.per_tile().1;
        let first_row = panels.first_row(self.panels.start);
        let num_rows = panels.first_row(self.panels.end) - first_row;
        sums[..num_rows * columns * LANES].fill(0.0);
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
        let mut codes = Codes::of(w, first, columns, if unpacks { 8 } else { form.bits });
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
            let ahead = match len < left {
                true if is_alone => tail,
                true => len,
                false => columns * w.blocks - block,
            };
            let (ahead, lines) = (ahead * per_block, (per_block / LINE).div_ceil(num_panels));
            for j in 0..columns {
                let words = &w.codes[at(j)..][..len * per_block];
                codes.tiles[j] = words.as_ptr();
                if unpacks {
                    let out = &mut bytes[j * unpacked..][..unpacked];
                    for (words, out) in words.chunks_exact(per_block).zip(out.chunks_exact_mut(quads * LANES))
                    {
                        form.unpack(words, out);
                    }
                    codes.tiles[j] = out.as_ptr();
                }
            }
            for (index, p) in self.panels.clone().enumerate() {
                let (row, rows) = (panels.first_row(p), panels.num_rows(p));
                let start = words[row * panels.words + block * (quads + EXTRA) * rows..].as_ptr();
                let sums = &mut sums[(row - first_row) * columns * LANES..][..rows * columns * LANES];
                let skip = index * len * lines * LINE;
                let mut tiles = [w.codes.as_ptr(); MAX_COLUMNS];
                for (j, tile) in tiles.iter_mut().enumerate().take(columns) {
                    *tile = tile.wrapping_add(at(j) + ahead + skip);
                }
                // SAFETY: the panel holds `quads + EXTRA` words of each row for each block; tiles hold `len` blocks, and
                // scales all of theirs; the sums are as long as sliced.
                let product = unsafe {
                    MultiplyBytes::new(
                        (rows, columns),
                        (block, len),
                        quads,
                        start,
                        codes,
                        Ahead { tiles, lines, scales: (columns * scale_bytes, scale_bytes / w.blocks) },
                        sums.as_mut_ptr(),
                    )
                };
                dispatch(S::ISA, product);
            }
            block += len;
        }
        BYTES.set(bytes);
    }
}

/// Columns of codes as bytes, and their scales.
#[derive(Clone, Copy)]
pub(super) struct Codes {
    /// Words `[block][quads][16]` of each tile, or fewer as [`Coded`] has them.
    pub(super) tiles: [*const u32; MAX_COLUMNS],
    /// Of a code in these words.
    pub(super) bits: usize,
    /// Of each tile, from its own first block on.
    pub(super) factors: [*const u16; MAX_COLUMNS],
    /// As `factors`; used if several blocks share one.
    pub(super) parts: [*const i8; MAX_COLUMNS],
    /// Blocks that share a factor; of one, the factor is the scale.
    pub(super) blocks_per_factor: usize,
    pub(super) has_minimum: bool,
}

/// What to ask for in advance.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// From where on in each tile.
    pub(super) tiles: [*const u32; MAX_COLUMNS],
    /// As many of these at each block.
    pub(super) lines: usize,
    /// Bytes from the scales of a tile to those of the next stripe, and of each block.
    pub(super) scales: (usize, usize),
}

/// `sums += a · b` over `count` blocks from block `first` on, of `quads` words each, for `(rows, columns)` rows and column
/// tiles, which must fit the registers. `panel` starts at block `first`, sums are `[rows][columns · 16]`.
pub(super) struct MultiplyBytes {
    shape: (usize, usize),
    blocks: (usize, usize),
    quads: usize,
    panel: *const u32,
    codes: Codes,
    ahead: Ahead,
    sums: *mut f32,
}

impl MultiplyBytes {
    /// # Safety
    /// Until the operation has run, all words and scales of that extent must be readable, the sums writable, and no one
    /// else may use the sums.
    pub(super) unsafe fn new(
        shape: (usize, usize),
        blocks: (usize, usize),
        quads: usize,
        panel: *const u32,
        codes: Codes,
        ahead: Ahead,
        sums: *mut f32,
    ) -> Self {
        Self { shape, blocks, quads, panel, codes, ahead, sums }
    }
}

impl Op for MultiplyBytes {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.codes.bits {
            8 => self.run_as::<S, false>(s),
            _ => self.run_as::<S, true>(s),
        }
    }
}

impl MultiplyBytes {
    #[inline(always)]
    fn run_as<S: Simd, const PACKED: bool>(self, s: S) {
        let (rows, columns) = self.shape;
        debug_assert!(rows <= S::MAX_ROWS && columns <= columns_for::<S>(rows), "no such tile");
        // SAFETY: promised to `new`.
        of_shape!(S, (rows, columns), ROWS, COLUMNS => unsafe { self.tile::<S, PACKED, ROWS, COLUMNS>(s) });
    }

    /// # Safety
    /// As [`MultiplyBytes::new`].
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "sums, tiles and operands are indexed alike")]
    unsafe fn tile<S: Simd, const PACKED: bool, const ROWS: usize, const COLUMNS: usize>(&self, s: S) {
        let Self { blocks: (first, count), quads, codes, ahead, sums, .. } = *self;
        let mut panel = self.panel;
        // SAFETY: every address is block, quad, row and column inside the extents the caller promised.
        unsafe {
            for index in 0..count {
                for j in 0..COLUMNS {
                    for line in 0..ahead.lines {
                        let line = (index * ahead.lines + line) * LANES;
                        s.prefetch(ahead.tiles[j].wrapping_add(line).cast());
                    }
                    let (stripe, block) = ahead.scales;
                    s.prefetch(codes.factors[j].cast::<u8>().wrapping_add(stripe + (first + index) * block));
                }
                let (scales, corrections) = (panel.add(quads * ROWS), panel.add((quads + 1) * ROWS));
                let mut dots = [[s.splat_word(0); COLUMNS]; ROWS];
                if !codes.has_minimum {
                    for i in 0..ROWS {
                        dots[i] = [s.splat_word(*corrections.add(i)); COLUMNS];
                    }
                }
                for quad in 0..quads {
                    let mut right = [s.splat_word(0); COLUMNS];
                    for j in 0..COLUMNS {
                        right[j] = codes.quad::<S, PACKED>(s, j, quads, (index, quad));
                    }
                    for i in 0..ROWS {
                        let left = s.splat_word(*panel.add(quad * ROWS + i));
                        for j in 0..COLUMNS {
                            dots[i][j] = s.dot_bytes(dots[i][j], right[j], left);
                        }
                    }
                }
                let mut scale = [s.splat(0.0); COLUMNS];
                for j in 0..COLUMNS {
                    scale[j] = codes.scale(s, j, first + index, 0);
                }
                for i in 0..ROWS {
                    let factor = s.splat(*scales.add(i).cast::<f32>());
                    for j in 0..COLUMNS {
                        let at = sums.add((i * COLUMNS + j) * LANES);
                        let dot = s.mul(s.to_f32(dots[i][j]), scale[j]);
                        s.store_at(s.mul_add(dot, factor, s.load_at(at)), at);
                    }
                }
                if codes.has_minimum {
                    for j in 0..COLUMNS {
                        let minimum = codes.scale(s, j, first + index, 1);
                        for i in 0..ROWS {
                            let at = sums.add((i * COLUMNS + j) * LANES);
                            let sum = s.splat(*corrections.add(i).cast::<f32>());
                            s.store_at(s.mul_add(minimum, sum, s.load_at(at)), at);
                        }
                    }
                }
                panel = panel.add((quads + EXTRA) * ROWS);
            }
        }
    }
}

impl Codes {
    /// Tiles `first..first + columns`, whose codes, of so many bits, are still to be said.
    fn of(w: &Coded, first: usize, columns: usize, bits: usize) -> Self {
        let mut codes = Self {
            tiles: [std::ptr::null(); MAX_COLUMNS],
            bits,
            factors: [std::ptr::null(); MAX_COLUMNS],
            parts: [std::ptr::null(); MAX_COLUMNS],
            blocks_per_factor: w.form.blocks_per_factor,
            has_minimum: w.form.has_minimum,
        };
        for j in 0..columns {
            let (factors, parts) = w.tile_scales(first + j);
            (codes.factors[j], codes.parts[j]) = (factors.as_ptr(), parts.as_ptr());
        }
        codes
    }

    /// Four codes of each output of tile `j` as bytes: quad `quad` of block `block`.
    ///
    /// # Safety
    /// There must be such a tile, and such a quad of such a block after where the tile starts.
    #[inline(always)]
    unsafe fn quad<S: Simd, const PACKED: bool>(
        &self,
        s: S,
        j: usize,
        quads: usize,
        (block, quad): (usize, usize),
    ) -> S::W {
        // SAFETY: promised by the caller.
        unsafe {
            if !PACKED {
                return s.load_words_at(self.tiles[j].add((block * quads + quad) * LANES));
            }
            let words = self.tiles[j].add(block * quads * self.bits / 8 * LANES);
            let low = s.load_words_at(words.add(quad / 2 * LANES));
            let low = s.bits(low, 4 * (quad as u32 % 2), NIBBLES);
            match self.bits - 4 {
                0 => low,
                high => {
                    let upper = s.load_words_at(words.add((quads / 2 + quad * high / 8) * LANES));
                    s.join(low, s.bits(upper, (quad * high % 8) as u32, upper_bits(high)))
                }
            }
        }
    }

    /// The scales (level 0) or minima (level 1) of tile `j` at a block.
    ///
    /// # Safety
    /// There must be such a tile and block.
    #[inline(always)]
    unsafe fn scale<S: Simd>(&self, s: S, j: usize, block: usize, level: usize) -> S::V {
        let levels = 1 + usize::from(self.has_minimum);
        // SAFETY: promised by the caller.
        unsafe {
            let at = ((block / self.blocks_per_factor) * levels + level) * LANES;
            let factor = s.load_halves_at(self.factors[j].add(at));
            if self.blocks_per_factor == 1 {
                return factor;
            }
            s.mul(factor, s.load_bytes_at(self.parts[j].add((block * levels + level) * LANES)))
        }
    }
}
