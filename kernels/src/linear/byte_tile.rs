//! A tile of the product of activations in eight bits with codes of weights: bytes are multiplied and summed as integers
//! inside a block, and blocks summed in f32 in the order of the inputs. Leaves the walk to `bytes`.
#![expect(unsafe_code, reason = "operands are addressed by pointer in the innermost loop")]

use super::coded::{Coded, NIBBLES, quad_words, upper_bits};
use super::rounding::EXTRA;
use crate::simd::tile::{MAX_COLUMNS, columns_for, of_shape};
use crate::simd::{LANES, Op, Simd};

/// Words of a cache line.
pub(super) const LINE: usize = 16;

/// Columns of codes, and their scales.
#[derive(Clone, Copy)]
pub(super) struct Codes {
    /// Words `[block][quads][16]` of each tile, or fewer as [`Coded`] has them.
    pub(super) tiles: [*const u32; MAX_COLUMNS],
    /// Of a code in these words: 8, unless one panel of rows alone meets them.
    bits: usize,
    /// See [`super::coded::Form::short_quads`].
    short_quads: usize,
    /// Of each tile, from its own first block on.
    factors: [*const u16; MAX_COLUMNS],
    /// As `factors`; used if several blocks share one.
    parts: [*const i8; MAX_COLUMNS],
    /// Blocks that share a factor; of one, the factor is the scale.
    blocks_per_factor: usize,
    pub(super) has_minimum: bool,
}

/// What to ask for in advance.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// From where on in each tile.
    pub(super) tiles: [*const u32; MAX_COLUMNS],
    /// Words to go on at each pair of quads.
    pub(super) per_pair: usize,
    /// Bytes from the scales of a tile to those of the next stripe, and of each block.
    pub(super) scales: (isize, usize),
}

/// `sums (+)= a · b` over `count` blocks from block `first` on, of `quads` words each, for `(rows, columns)` rows and column
/// tiles, which must fit the registers; from zero if `first` is. `panel` starts at block `first`. `sums` is where those of the first row are, `[columns ·
/// 16]`, and how far from one row to the next.
pub(super) struct MultiplyBytes {
    shape: (usize, usize),
    blocks: (usize, usize),
    quads: usize,
    panel: *const u32,
    codes: Codes,
    ahead: Ahead,
    sums: (*mut f32, usize),
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
        sums: (*mut f32, usize),
    ) -> Self {
        Self { shape, blocks, quads, panel, codes, ahead, sums }
    }
}

impl Op for MultiplyBytes {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let is_short = !S::HAS_BYTES && self.codes.short_quads > 0;
        match (self.codes.bits, is_short) {
            (8, false) => self.run_as::<S, 8, false>(s),
            (_, false) => self.run_as::<S, ANY, false>(s),
            (4, true) => self.run_as::<S, 4, true>(s),
            (5, true) => self.run_as::<S, 5, true>(s),
            (6, true) => self.run_as::<S, 6, true>(s),
            (_, true) => self.run_as::<S, 8, true>(s),
        }
    }
}

/// Bits of codes that are known only when running.
const ANY: usize = 0;

impl MultiplyBytes {
    /// `BITS` are those of the codes or [`ANY`], `SHORT` is whether products are summed in sixteen bits.
    #[inline(always)]
    fn run_as<S: Simd, const BITS: usize, const SHORT: bool>(self, s: S) {
        let (rows, columns) = self.shape;
        debug_assert!(rows <= S::MAX_ROWS && columns <= columns_for::<S>(rows), "no such tile");
        // SAFETY: promised to `new`.
        of_shape!(S, (rows, columns), ROWS, COLUMNS => unsafe {
            self.tile::<S, BITS, SHORT, ROWS, COLUMNS>(s)
        });
    }

    /// # Safety
    /// As [`MultiplyBytes::new`].
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "sums, tiles and operands are indexed alike")]
    unsafe fn tile<S: Simd, const BITS: usize, const SHORT: bool, const ROWS: usize, const COLUMNS: usize>(
        &self,
        s: S,
    ) {
        let Self { blocks: (first, count), quads, codes, ahead, sums: (sums, run), .. } = *self;
        let quad_words = quad_words::<S>(SHORT);
        let mut panel = self.panel;
        // SAFETY: every address is block, quad, row and column inside the extents the caller promised.
        unsafe {
            for i in 0..if first == 0 { ROWS } else { 0 } {
                for j in 0..COLUMNS {
                    s.store_at(s.splat(0.0), sums.add(i * run + j * LANES));
                }
            }
            for index in 0..count {
                for j in 0..COLUMNS {
                    let (stripe, block) = ahead.scales;
                    let factors = codes.factors[j].cast::<u8>().wrapping_offset(stripe);
                    s.prefetch(factors.wrapping_add((first + index) * block));
                }
                let scales = panel.add(quads * quad_words * ROWS);
                let corrections = scales.add(ROWS);
                let mut dots = [[s.splat_word(0); COLUMNS]; ROWS];
                if !codes.has_minimum {
                    for i in 0..ROWS {
                        dots[i] = [s.splat_word(*corrections.add(i)); COLUMNS];
                    }
                }
                if SHORT {
                    self.add_shorts::<S, BITS, ROWS, COLUMNS>(s, index, panel, &mut dots);
                } else {
                    self.add_dots::<S, BITS, ROWS, COLUMNS>(s, index, panel, &mut dots);
                }
                let mut scale = [s.splat(0.0); COLUMNS];
                for j in 0..COLUMNS {
                    scale[j] = codes.scale(s, j, first + index, 0);
                }
                for i in 0..ROWS {
                    let factor = s.splat(*scales.add(i).cast::<f32>());
                    for j in 0..COLUMNS {
                        let at = sums.add(i * run + j * LANES);
                        let dot = s.mul(s.to_f32(dots[i][j]), scale[j]);
                        s.store_at(s.mul_add(dot, factor, s.load_at(at)), at);
                    }
                }
                if codes.has_minimum {
                    for j in 0..COLUMNS {
                        let minimum = codes.scale(s, j, first + index, 1);
                        for i in 0..ROWS {
                            let at = sums.add(i * run + j * LANES);
                            let sum = s.splat(*corrections.add(i).cast::<f32>());
                            s.store_at(s.mul_add(minimum, sum, s.load_at(at)), at);
                        }
                    }
                }
                panel = panel.add((quads * quad_words + EXTRA) * ROWS);
            }
        }
    }

    /// Adds the products of a block to integers.
    ///
    /// # Safety
    /// As [`MultiplyBytes::new`].
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "sums, tiles and operands are indexed alike")]
    unsafe fn add_dots<S: Simd, const BITS: usize, const ROWS: usize, const COLUMNS: usize>(
        &self,
        s: S,
        block: usize,
        panel: *const u32,
        dots: &mut [[S::W; COLUMNS]; ROWS],
    ) {
        // SAFETY: promised by the caller.
        unsafe {
            let mut left = panel;
            for pair in 0..self.quads / 2 {
                for half in 0..2 {
                    let mut right = [s.splat_word(0); COLUMNS];
                    for j in 0..COLUMNS {
                        right[j] = self.right::<S, BITS>(s, j, (block, pair, half));
                    }
                    for i in 0..ROWS {
                        let a = s.splat_word(*left.add(i));
                        for j in 0..COLUMNS {
                            dots[i][j] = if S::HAS_BYTES {
                                s.dot_bytes(dots[i][j], right[j], a)
                            } else {
                                let odd = s.splat_word(*left.add(ROWS + i));
                                s.dot_pairs(dots[i][j], right[j], [a, odd])
                            };
                        }
                    }
                    left = left.add(quad_words::<S>(false) * ROWS);
                }
            }
        }
    }

    /// As [`MultiplyBytes::add_dots`], in sixteen bits as far as they hold the sums.
    ///
    /// # Safety
    /// As [`MultiplyBytes::new`].
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "sums, tiles and operands are indexed alike")]
    unsafe fn add_shorts<S: Simd, const BITS: usize, const ROWS: usize, const COLUMNS: usize>(
        &self,
        s: S,
        block: usize,
        panel: *const u32,
        dots: &mut [[S::W; COLUMNS]; ROWS],
    ) {
        let (mut left, mut pair) = (panel, 0);
        // SAFETY: promised by the caller.
        unsafe {
            while pair < self.quads / 2 {
                let mut shorts = [[s.splat_word(0); COLUMNS]; ROWS];
                let end = pair + self.codes.short_quads / 2;
                while pair < end {
                    for half in 0..2 {
                        let mut a = [s.splat_word(0); ROWS];
                        for i in 0..ROWS {
                            a[i] = s.splat_word(*left.add(i));
                        }
                        // Tile by tile: the sums fill the registers.
                        for j in 0..COLUMNS {
                            let right = self.right::<S, BITS>(s, j, (block, pair, half));
                            for i in 0..ROWS {
                                shorts[i][j] = s.add_products(shorts[i][j], right, a[i]);
                            }
                        }
                        left = left.add(ROWS);
                    }
                    pair += 1;
                }
                for i in 0..ROWS {
                    for j in 0..COLUMNS {
                        dots[i][j] = s.add_sums(dots[i][j], shorts[i][j]);
                    }
                }
            }
        }
    }

    /// Four codes of each output of tile `j` as bytes. Read once, more are asked for.
    ///
    /// # Safety
    /// As [`Codes::quad`].
    #[inline(always)]
    unsafe fn right<S: Simd, const BITS: usize>(
        &self,
        s: S,
        j: usize,
        (block, pair, half): (usize, usize, usize),
    ) -> S::W {
        let Self { quads, codes, ahead, .. } = self;
        let word = (block * quads / 2 + pair) * ahead.per_pair + half * ahead.per_pair / 2;
        s.prefetch(ahead.tiles[j].wrapping_add(word).cast());
        // SAFETY: promised by the caller.
        unsafe { codes.quad::<S, BITS>(s, j, *quads, (block, pair, half)) }
    }
}

impl Codes {
    /// Up to four tiles, which one panel of rows meets or several; where their codes are is still to be said.
    pub(super) fn of(w: &Coded, tiles: impl Iterator<Item = usize>, is_alone: bool) -> Self {
        let mut codes = Self {
            tiles: [std::ptr::null(); MAX_COLUMNS],
            bits: if is_alone { w.form.bits } else { 8 },
            short_quads: w.form.short_quads(),
            factors: [std::ptr::null(); MAX_COLUMNS],
            parts: [std::ptr::null(); MAX_COLUMNS],
            blocks_per_factor: w.form.blocks_per_factor,
            has_minimum: w.form.has_minimum,
        };
        for (j, tile) in tiles.enumerate().take(MAX_COLUMNS) {
            let (factors, parts) = w.tile_scales(tile);
            (codes.factors[j], codes.parts[j]) = (factors.as_ptr(), parts.as_ptr());
        }
        codes
    }

    /// Four codes of each output of tile `j` as bytes: a half of a pair of quads of block `block`, since two quads share words
    /// of four bits.
    ///
    /// # Safety
    /// There must be such a tile, and such a quad of such a block after where the tile starts.
    #[inline(always)]
    unsafe fn quad<S: Simd, const BITS: usize>(
        &self,
        s: S,
        j: usize,
        quads: usize,
        (block, pair, half): (usize, usize, usize),
    ) -> S::W {
        let quad = 2 * pair + half;
        // SAFETY: promised by the caller.
        unsafe {
            if BITS == 8 {
                return s.load_words_at(self.tiles[j].add((block * quads + quad) * LANES));
            }
            let bits = if BITS == ANY { self.bits } else { BITS };
            let words = self.tiles[j].add(block * quads * bits / 8 * LANES);
            let low = s.load_words_at(words.add(pair * LANES));
            let low = s.bits(low, 4 * half as u32, NIBBLES);
            match bits - 4 {
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
    pub(super) unsafe fn scale<S: Simd>(&self, s: S, j: usize, block: usize, level: usize) -> S::V {
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
