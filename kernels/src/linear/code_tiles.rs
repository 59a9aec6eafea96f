//! The way through columns of codes where the machine multiplies whole tiles of bytes: products of blocks are integers, which
//! vectors bring to scale. Leaves the instructions to `simd`, and how rows are laid out for them to `rounding`.
#![expect(unsafe_code, reason = "operands are addressed by pointer in the innermost loop")]

use std::cell::RefCell;
use std::ops::Range;

use super::byte_tile::Codes;
use super::coded::Coded;
use super::rounding::{BASE, EXTRA};
use super::tiles::{Chunks, Pair, RUN};
use super::{Part, Product};
use crate::buffer::Buffer;
use crate::simd::tile::Sums;
use crate::simd::tiles::{Ahead, Bytes, SQUARE, WORDS};
use crate::simd::{LANES, Op, Simd, dispatch};

/// Blocks of a column that all rows meet before any of the next.
const SHARED: usize = 4;
/// Rows whose sums stay in registers.
const HEIGHT: usize = LANES / 2;

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// What a chunk of codes needs beside them; kept for the next.
#[derive(Default)]
struct Room {
    /// Codes of fewer than eight bits as bytes.
    bytes: Buffer<u32>,
    /// `[block][columns]`.
    scales: Vec<[Scales; SQUARE]>,
    /// Products of a square for each block. They are read back through memory, long after they were written.
    dots: Buffer<u32>,
}

/// What the products of a block are multiples of.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Scales {
    scale: [f32; LANES],
    /// `−scale ·` [`BASE`].
    base: [f32; LANES],
    /// Of blocks that have one.
    minimum: [f32; LANES],
}

impl Part<'_> {
    /// The outputs of codes.
    #[inline(always)]
    pub(super) fn multiply_codes<S: Simd>(&self, s: S, w: &Coded, sums: &mut [f32]) {
        let mut room = ROOM.take();
        for (pair, tiles) in self.pairs() {
            self.multiply_codes_of(s, w, pair, tiles, sums, &mut room);
        }
        ROOM.set(room);
    }

    /// Outputs `tiles` of codes.
    #[inline(always)]
    fn multiply_codes_of<S: Simd>(
        &self,
        s: S,
        w: &Coded,
        pair: Pair,
        tiles: Range<usize>,
        sums: &mut [f32],
        room: &mut Room,
    ) {
        let Pair { first, apart, columns, .. } = pair;
        let Product { panels, words, .. } = self.product;
        let form = w.form;
        let (per_block, tile) = (form.words(), form.quads() * LANES);
        let panel_block = tile + EXTRA * LANES;
        let chunks = Chunks::new((per_block, w.blocks), pair, SHARED, self.panels.len().div_ceil(SQUARE));
        let column_len = w.blocks * per_block;
        let weights: [_; SQUARE] = std::array::from_fn(|j| {
            &w.codes[(first + j.min(columns - 1) * apart) * column_len..][..column_len]
        });
        let starts = weights.map(|column| column.as_ptr());
        room.bytes.resize(if form.bits < 8 { chunks.len * columns * tile } else { 0 });
        room.scales.resize(chunks.len, Default::default());
        room.dots.resize(chunks.len * SQUARE * SQUARE * WORDS);
        let codes = Codes::of(w, (0..columns).map(|j| first + j * apart), false);
        let mut block = 0;
        while block < w.blocks {
            let count = chunks.len_at(block);
            let mut columns_of = [std::ptr::null(); SQUARE];
            for j in 0..columns {
                let of_chunk = &weights[j][block * per_block..][..count * per_block];
                columns_of[j] = of_chunk.as_ptr();
                if form.bits < 8 {
                    let out = &mut room.bytes[j * chunks.len * tile..][..count * tile];
                    form.unpack_blocks(of_chunk, out);
                    columns_of[j] = out.as_ptr();
                }
                for (index, scales) in room.scales[..count].iter_mut().enumerate() {
                    // SAFETY: the matrix has such a column of so many blocks.
                    unsafe { scales[j].read(s, &codes, j, block + index) };
                }
            }
            let (ahead, share) = chunks.ahead(starts, block);
            for (index, panel) in self.panels.clone().step_by(SQUARE).enumerate() {
                let height = SQUARE.min(self.panels.end - panel);
                let rows = std::array::from_fn(|i| {
                    let start = panels.first_word(panel + i.min(height - 1)) + block * panel_block;
                    words[start..start + count * panel_block].as_ptr()
                });
                let sums = &mut sums[index * SQUARE * LANES * RUN..][..height * LANES * RUN];
                let blocks = Blocks {
                    rows,
                    columns: columns_of,
                    tile,
                    depth: form.tile_depth(),
                    scales: &room.scales[..count],
                    have_minimum: form.has_minimum,
                    ahead: ahead.further(index * share),
                };
                let sums_of = Sums { start: sums.as_mut_ptr(), row_step: RUN, resume: block > 0 };
                // SAFETY: rows and columns hold `count` blocks; there is room for the products of as many squares; sums are as long
                // as sliced; tiles are as deep as a block.
                let product = unsafe { AddBlocks::new((height, columns), &blocks, &mut room.dots, sums_of) };
                dispatch(S::ISA, product);
                if block + count == w.blocks {
                    for (panel, sums) in (panel..).zip(sums.chunks_exact(LANES * RUN)) {
                        self.finish(s, tiles.clone(), panel, (sums, LANES, RUN));
                    }
                }
            }
            block += count;
        }
    }
}

impl Scales {
    /// Those of a block of column `j`.
    ///
    /// # Safety
    /// As [`Codes::scale`].
    #[inline(always)]
    unsafe fn read<S: Simd>(&mut self, s: S, codes: &Codes, j: usize, block: usize) {
        // SAFETY: promised by the caller.
        let scale = unsafe { codes.scale(s, j, block, 0) };
        s.store(scale, &mut self.scale);
        // Two bits times at most eighteen: exact.
        s.store(s.mul(scale, s.splat(-BASE)), &mut self.base);
        if codes.has_minimum {
            // SAFETY: as above.
            s.store(unsafe { codes.scale(s, j, block, 1) }, &mut self.minimum);
        }
    }
}

/// Blocks of rows and of columns that meet.
struct Blocks<'a> {
    /// Of each block `[16 rows][quads]` words, sixteen scales and sixteen corrections.
    rows: [*const u32; SQUARE],
    /// Of each block `[quads][16]` words.
    columns: [*const u32; SQUARE],
    /// Words of a block of a tile.
    tile: usize,
    /// [`Form::tile_depth`](super::coded::Form::tile_depth).
    depth: usize,
    scales: &'a [[Scales; SQUARE]],
    have_minimum: bool,
    ahead: Ahead,
}

impl Blocks<'_> {
    /// Asks for lines of each stream, of those that are asked for at a block.
    #[inline(always)]
    fn ask<S: Simd>(&self, s: S, block: usize, lines: Range<usize>) {
        for line in lines {
            for place in self.ahead.after(block * self.ahead.lines + line) {
                s.prefetch_far(place.cast());
            }
        }
    }
}

/// Adds the products of blocks to the sums of `shape` tiles of rows and of columns, block by block as `byte_tile` does, so that the
/// sums are the same bits: an operation of its own, so that it has the registers for itself.
struct AddBlocks<'a> {
    shape: (usize, usize),
    blocks: &'a Blocks<'a>,
    dots: &'a mut [u32],
    sums: Sums,
}

impl<'a> AddBlocks<'a> {
    /// # Safety
    /// Until the operation has run there must be as many blocks of such rows and columns as of scales, room for their products, and
    /// sums that no one else uses; between [`Simd::begin_tiles`] of the blocks' depth and [`Simd::end_tiles`].
    unsafe fn new(shape: (usize, usize), blocks: &'a Blocks<'a>, dots: &'a mut [u32], sums: Sums) -> Self {
        Self { shape, blocks, dots, sums }
    }

    /// The products of all blocks, one by one: `[block][rows][columns]` tiles. At each block lines `asked` of it are asked for.
    ///
    /// # Safety
    /// As [`AddBlocks::new`].
    #[inline(always)]
    unsafe fn multiply<S: Simd>(&mut self, s: S, asked: Range<usize>) {
        let (shape, dots) = (self.shape, &mut *self.dots);
        let Blocks { rows, columns, tile, depth, scales, .. } = *self.blocks;
        let dots = dots.chunks_exact_mut(shape.0 * shape.1 * WORDS).take(scales.len());
        for (index, dots) in dots.enumerate() {
            self.blocks.ask(s, index, asked.clone());
            let product = Bytes {
                rows: rows.map(|rows| rows.wrapping_add(index * (tile + EXTRA * LANES))),
                columns: columns.map(|column| column.wrapping_add(index * tile)),
                depth,
                steps: tile / LANES / depth,
                dots: dots.as_mut_ptr(),
            };
            // SAFETY: promised by the caller.
            unsafe { s.dot_tiles(shape, &product) };
        }
    }

    /// Brings the products of rows `first..` of tile `of` to scale and adds them to their sums; `asked` as above.
    ///
    /// # Safety
    /// As [`AddBlocks::new`].
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "sums, products and factors are indexed alike")]
    unsafe fn add<S: Simd, const MINIMUM: bool, const COLUMNS: usize>(
        &self,
        s: S,
        (of, first): (usize, usize),
        asked: Range<usize>,
    ) {
        let Blocks { rows, tile, scales, .. } = *self.blocks;
        let run = self.sums.row_step;
        let mut totals = [[s.splat(0.0); COLUMNS]; HEIGHT];
        // SAFETY: products, factors and sums as promised by the caller.
        unsafe {
            let sums = self.sums.start.add((of * LANES + first) * run);
            if self.sums.resume {
                for i in 0..HEIGHT {
                    for j in 0..COLUMNS {
                        totals[i][j] = s.load_at(sums.add(i * run + j * LANES));
                    }
                }
            }
            let mut dots = self.dots.as_ptr().add(of * COLUMNS * WORDS + first * LANES);
            let mut extra = rows[of].add(tile + first);
            for (index, scales) in scales.iter().enumerate() {
                self.blocks.ask(s, index, asked.clone());
                for i in 0..HEIGHT {
                    let base = if MINIMUM { BASE.to_bits() } else { *extra.add(LANES + i) };
                    let factor = s.splat(f32::from_bits(*extra.add(i)));
                    for j in 0..COLUMNS {
                        let dot = s.load_words_at(dots.add(j * WORDS + i * LANES));
                        let dot = s.add_bits(dot, s.splat_word(base));
                        // Exactly the product and the scale, rounded once.
                        let dot = s.mul_add(dot, s.load(&scales[j].scale), s.load(&scales[j].base));
                        totals[i][j] = s.mul_add(dot, factor, totals[i][j]);
                    }
                }
                if MINIMUM {
                    for j in 0..COLUMNS {
                        let minimum = s.load(&scales[j].minimum);
                        for i in 0..HEIGHT {
                            let sum = s.splat(f32::from_bits(*extra.add(LANES + i)));
                            totals[i][j] = s.mul_add(minimum, sum, totals[i][j]);
                        }
                    }
                }
                dots = dots.add(self.shape.0 * COLUMNS * WORDS);
                extra = extra.add(tile + EXTRA * LANES);
            }
            for i in 0..HEIGHT {
                for j in 0..COLUMNS {
                    s.store_at(totals[i][j], sums.add(i * run + j * LANES));
                }
            }
        }
    }
}

impl Op for AddBlocks<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        // SAFETY: promised to `new`.
        unsafe {
            // Half of what is asked for, or more, while products are made, and the rest while they are added: memory would wait.
            let turns = LANES / HEIGHT * self.shape.0;
            let each = self.blocks.ahead.lines / (2 * turns);
            let first = self.blocks.ahead.lines - turns * each;
            self.multiply(s, 0..first);
            for turn in 0..turns {
                let rows = (turn * HEIGHT / LANES, turn * HEIGHT % LANES);
                let asked = first + turn * each..first + (turn + 1) * each;
                match (self.blocks.have_minimum, self.shape.1) {
                    (false, 1) => self.add::<S, false, 1>(s, rows, asked),
                    (false, _) => self.add::<S, false, SQUARE>(s, rows, asked),
                    (true, 1) => self.add::<S, true, 1>(s, rows, asked),
                    (true, _) => self.add::<S, true, SQUARE>(s, rows, asked),
                }
            }
        }
    }
}
