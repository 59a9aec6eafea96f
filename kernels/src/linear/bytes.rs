//! The product of activations in eight bits with codes of weights: bytes are multiplied and summed as integers inside a
//! block, and blocks summed in f32 in the order of the inputs. Leaves rounding to `rounding`, the walk to `mod`.
#![expect(unsafe_code, reason = "operands are addressed by pointer in the innermost loop")]

use std::cell::RefCell;

use super::coded::Coded;
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
        let first_row = panels.first_row(self.panels.start);
        let num_rows = panels.first_row(self.panels.end) - first_row;
        sums[..num_rows * columns * LANES].fill(0.0);
        let is_packed = form.bits < 8;
        let chunk = match is_packed {
            true => UNPACKED / form.block,
            false => w.blocks.div_ceil((4 * columns * w.blocks * per_block).div_ceil(STRIPE_BYTES)),
        };
        let mut bytes = BYTES.take();
        let unpacked = chunk * quads * LANES;
        bytes.resize(if is_packed { columns * unpacked } else { 0 });
        let mut codes = Codes::of(w, first, columns);
        let mut block = 0;
        while block < w.blocks {
            let len = chunk.min(w.blocks - block);
            let at = |j: usize| ((first + j) * w.blocks + block) * per_block;
            // Read once and as they are, codes are asked for a little in advance. Else all panels together ask for the
            // next chunk, or for the first of the next stripe.
            let (ahead, lines) = match num_panels {
                1 if !is_packed => (AHEAD, per_block / LINE),
                _ if block + len < w.blocks => (len * per_block, (per_block / LINE).div_ceil(num_panels)),
                _ => ((columns * w.blocks - block) * per_block, (per_block / LINE).div_ceil(num_panels)),
            };
            for j in 0..columns {
                let words = &w.codes[at(j)..][..len * per_block];
                codes.tiles[j] = words.as_ptr();
                if is_packed {
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
                let skip = if num_panels == 1 { 0 } else { index * len * lines * LINE };
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
                        Ahead { tiles, lines },
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
    /// Words `[block][quads][16]` of each tile.
    pub(super) tiles: [*const u32; MAX_COLUMNS],
    /// Of each tile, from its own first block on.
    pub(super) factors: [*const u16; MAX_COLUMNS],
    /// As `factors`; used if several blocks share one.
    pub(super) parts: [*const i8; MAX_COLUMNS],
    /// Blocks that share a factor are two to the power of this; of one, the factor is the scale.
    pub(super) blocks_per_factor: usize,
    pub(super) has_minimum: bool,
}

/// What to ask for in advance: from where on in each tile, and lines at each block.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) tiles: [*const u32; MAX_COLUMNS],
    pub(super) lines: usize,
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
        let (rows, columns) = self.shape;
        debug_assert!(rows <= S::MAX_ROWS && columns <= columns_for::<S>(rows), "no such tile");
        // SAFETY: promised to `new`.
        of_shape!(S, (rows, columns), ROWS, COLUMNS => unsafe { self.tile::<S, ROWS, COLUMNS>(s) });
    }
}

impl MultiplyBytes {
    /// # Safety
    /// As [`MultiplyBytes::new`].
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "sums, tiles and operands are indexed alike")]
    unsafe fn tile<S: Simd, const ROWS: usize, const COLUMNS: usize>(&self, s: S) {
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
                        right[j] = s.load_words_at(codes.tiles[j].add((index * quads + quad) * LANES));
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
    /// Tiles `first..first + columns`, whose codes are still to be said.
    fn of(w: &Coded, first: usize, columns: usize) -> Self {
        let mut codes = Self {
            tiles: [std::ptr::null(); MAX_COLUMNS],
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
