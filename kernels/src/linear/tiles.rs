//! The way through a stripe where the machine multiplies whole tiles: sixteen rows, sixteen outputs, and sixteen words of
//! inputs at a time. Leaves the instructions to `simd`, and how rows are laid out for them to `panels` and `rounding`.
#![expect(unsafe_code, reason = "operands are addressed by pointer in the innermost loop")]

use std::ops::Range;

use super::byte_tile::{Codes, LINE};
use super::bytes::BYTES;
use super::coded::Coded;
use super::packed::Storage;
use super::rounding::EXTRA;
use super::{Part, Product, SUMS};
use crate::simd::tile::Sums;
use crate::simd::tiles::{Ahead, Pairs, SQUARE, STREAMS, WORDS};
use crate::simd::{LANES, Op, Simd, dispatch};

/// Tiles of a column that all rows meet before any of the next: with those of another column they stay in the first-level
/// cache, beside rows of pairs.
const SHARED: usize = 8;
/// The same if many panels of rows meet them: sums come and go less often, and there is time to ask for more.
const SHARED_LONG: usize = 14;
/// So many panels.
const MANY_PANELS: usize = 8;
/// The same of codes.
const SHARED_CODES: usize = 14;
/// The same if one panel of rows meets them: as many as are asked for in advance.
const ALONE: usize = 32;
/// Products of blocks that are begun before the sums of one are used.
const BEHIND: usize = 4;

/// Outputs of a square.
const RUN: usize = SQUARE * LANES;

/// The tiles of columns that a square takes: two side by side, or gates and what they gate; or the last alone.
#[derive(Clone, Copy)]
struct Pair {
    first: usize,
    /// Tiles from one to the other.
    apart: usize,
    columns: usize,
    /// How many tiles further on the next begins, if the task has one.
    next: Option<usize>,
}

/// The way down the columns of a pair in chunks of tiles.
#[derive(Clone, Copy)]
struct Chunks {
    /// Words of a tile, tiles of a column.
    tile: usize,
    count: usize,
    pair: Pair,
    /// Tiles of a chunk.
    len: usize,
    /// Products of a chunk, which together ask for the next.
    products: usize,
}

impl Chunks {
    fn new((tile, count): (usize, usize), pair: Pair, most: usize, products: usize) -> Self {
        Self { tile, count, pair, len: count.div_ceil(count.div_ceil(most).max(1)), products }
    }

    /// Tiles of the chunk that begins with tile `first`.
    fn len_at(self, first: usize) -> usize {
        self.len.min(self.count - first)
    }

    /// What product `index` of the chunk that begins with tile `first` of columns that begin at `start` asks for: its share of the
    /// next chunk of all columns, or of the first of the next, unless these are the last of the task.
    fn ahead(self, start: [*const u32; SQUARE], first: usize, index: usize) -> Ahead {
        let len = self.len_at(first);
        let (next, tiles) = match (first + len < self.count, self.pair.next) {
            (true, _) => ((first + len) * self.tile, self.len_at(first + len)),
            (false, Some(next)) => (next * self.count * self.tile, self.len),
            (false, None) => return Ahead::NOTHING,
        };
        let per_column = STREAMS / self.pair.columns;
        let lines = (tiles * self.tile).div_ceil(per_column * LINE);
        let share = lines.div_ceil(self.products);
        let streams = std::array::from_fn(|stream| {
            let word = next + (stream % per_column * lines + index * share) * LINE;
            start[stream / per_column].wrapping_add(word)
        });
        Ahead { streams, lines: share.div_ceil(len) }
    }
}

impl Part<'_> {
    /// The outputs of the part, those of each panel as soon as its sums are complete.
    #[inline(always)]
    pub(super) fn multiply_tiles<S: Simd>(&self, s: S) {
        let Product { panels, w, gate, .. } = *self.product;
        let mut sums = SUMS.take();
        sums.resize(panels.height(self.panels.clone()) * RUN);
        let (side, apart) = match gate {
            Some(_) => (1, w.out_features() / 2 / LANES),
            None => (SQUARE, 1),
        };
        let depth = match w.storage() {
            Storage::Coded(codes, _) => codes.form.quads(),
            _ => LANES,
        };
        s.begin_tiles([depth; 2]);
        for first in self.tiles.clone().step_by(side) {
            let end = self.tiles.end.min(first + side);
            let columns = if gate.is_some() { SQUARE } else { end - first };
            let pair = Pair { first, apart, columns, next: (end < self.tiles.end).then_some(side) };
            match w.storage() {
                Storage::Bf16(words) => self.multiply_pairs(s, words, pair, first..end, &mut sums),
                Storage::Coded(codes, _) => self.multiply_codes(s, codes, pair, first..end, &mut sums),
                _ => {}
            }
        }
        s.end_tiles();
        SUMS.set(sums);
    }

    /// Outputs `tiles` of pairs of bf16.
    #[inline(always)]
    fn multiply_pairs<S: Simd>(&self, s: S, w: &[u32], pair: Pair, tiles: Range<usize>, sums: &mut [f32]) {
        let Pair { first, apart, columns, .. } = pair;
        let Product { panels, words, .. } = self.product;
        let (depth, num_panels) = (panels.depth, self.panels.len());
        let (whole, rest) = (depth / LANES, depth % LANES);
        // A missing column is not read.
        let weights: [_; SQUARE] = std::array::from_fn(|j| {
            w[(first + j.min(columns - 1) * apart) * depth * LANES..][..depth * LANES].as_ptr()
        });
        let mut last = [[0; WORDS]; SQUARE];
        for (j, last) in last.iter_mut().enumerate().take(columns) {
            let end = (first + j * apart + 1) * depth;
            last[..rest * LANES].copy_from_slice(&w[(end - rest) * LANES..end * LANES]);
        }
        let most = match num_panels {
            1 => ALONE,
            MANY_PANELS.. => SHARED_LONG,
            _ => SHARED,
        };
        let chunks = Chunks::new((WORDS, whole), pair, most, num_panels);
        let height = panels.height(0..1);
        let count = whole + usize::from(rest > 0);
        let mut k = 0;
        while k < count {
            let is_whole = k < whole;
            let (steps, columns_of) = match is_whole {
                true => (chunks.len_at(k), weights.map(|tile| tile.wrapping_add(k * WORDS))),
                false => (1, last.each_ref().map(|tile| tile.as_ptr())),
            };
            for (index, panel) in self.panels.clone().enumerate() {
                let start = panels.first_word(panel) + k * height * LANES;
                let rows = &words[start..start + steps * height * LANES];
                let sums = &mut sums[index * height * RUN..][..height * RUN];
                let product = Pairs {
                    rows: rows.as_ptr(),
                    columns: columns_of,
                    steps,
                    ahead: if is_whole { chunks.ahead(weights, k, index) } else { Ahead::NOTHING },
                    sums: Sums { start: sums.as_mut_ptr(), row_step: RUN, resume: k > 0 },
                };
                // SAFETY: rows, columns and sums are as long as sliced; the part has begun.
                unsafe { s.multiply_tiles((height / LANES, columns), &product) };
                if k + steps == count {
                    self.finish(s, tiles.clone(), panel, (sums, LANES, RUN));
                }
            }
            k += steps;
        }
    }

    /// Outputs `tiles` of codes.
    #[inline(always)]
    fn multiply_codes<S: Simd>(&self, s: S, w: &Coded, pair: Pair, tiles: Range<usize>, sums: &mut [f32]) {
        let Pair { first, apart, columns, .. } = pair;
        let Product { panels, words, .. } = self.product;
        let (form, rows) = (w.form, self.panels.len());
        let (per_block, quads) = (form.words(), form.quads());
        let (tile, panel_block) = (quads * LANES, (quads + EXTRA) * LANES);
        let chunks = Chunks::new((per_block, w.blocks), pair, SHARED_CODES, rows * columns);
        let column_len = w.blocks * per_block;
        let weights: [_; SQUARE] = std::array::from_fn(|j| {
            &w.codes[(first + j.min(columns - 1) * apart) * column_len..][..column_len]
        });
        let starts = weights.map(|column| column.as_ptr());
        let mut bytes = BYTES.take();
        bytes.resize(if form.bits < 8 { chunks.len * columns * tile } else { 0 });
        let mut codes = Codes::of(w, (0..columns).map(|j| first + j * apart), false);
        let mut dots = Dots([[[0; LANES]; LANES]; BEHIND]);
        let mut block = 0;
        while block < w.blocks {
            let count = chunks.len_at(block);
            for j in 0..columns {
                let of_chunk = &weights[j][block * per_block..][..count * per_block];
                codes.tiles[j] = of_chunk.as_ptr();
                if form.bits < 8 {
                    let out = &mut bytes[j * chunks.len * tile..][..count * tile];
                    form.unpack_blocks(of_chunk, out);
                    codes.tiles[j] = out.as_ptr();
                }
            }
            for (index, panel) in self.panels.clone().enumerate() {
                let start = panels.first_word(panel) + block * panel_block;
                let rows_of = &words[start..start + count * panel_block];
                let sums = &mut sums[index * LANES * RUN..][..LANES * RUN];
                if block == 0 {
                    sums.fill(0.0);
                }
                for j in 0..columns {
                    let ahead = chunks.ahead(starts, block, index * columns + j);
                    // The column holds `count` blocks of codes and scales, the sums are as many as sliced, and the part has begun.
                    let blocks = AddBlocks {
                        codes: &codes,
                        column: j,
                        quads,
                        first: block,
                        rows: rows_of,
                        ahead,
                        dots: &mut dots,
                        sums: sums[j * LANES..].as_mut_ptr(),
                        run: RUN,
                    };
                    dispatch(S::ISA, blocks);
                }
                if block + count == w.blocks {
                    self.finish(s, tiles.clone(), panel, (sums, LANES, RUN));
                }
            }
            block += count;
        }
        BYTES.set(bytes);
    }
}

/// Adds blocks of tile `column` of codes to the sums of sixteen rows, block by block as `byte_tile` does, so that the sums
/// are the same bits: an operation of its own, so that it has the registers for itself.
struct AddBlocks<'a> {
    codes: &'a Codes,
    column: usize,
    quads: usize,
    /// The first block, of those of the column.
    first: usize,
    /// Of each block `[16 rows][quads]` words, sixteen scales and sixteen corrections.
    rows: &'a [u32],
    ahead: Ahead,
    dots: &'a mut Dots,
    /// Those of the first row; the others begin `run` apart.
    sums: *mut f32,
    run: usize,
}

impl AddBlocks<'_> {
    /// # Safety
    /// There must be such blocks of such a column, and sixteen sums in each of sixteen rows that no one else uses; between
    /// [`Simd::begin_tiles`] of `quads` and [`Simd::end_tiles`].
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "sums, products and factors are indexed alike")]
    unsafe fn add<S: Simd, const MINIMUM: bool>(self, s: S) {
        let Self { codes, column, quads, first, rows, ahead, dots, sums, run } = self;
        let tile = quads * LANES;
        let per_block = tile + EXTRA * LANES;
        let count = rows.len() / per_block;
        let mut totals = [s.splat(0.0); LANES];
        // SAFETY: sums and blocks as promised by the caller.
        unsafe {
            for i in 0..LANES {
                totals[i] = s.load_at(sums.add(i * run));
            }
            for index in 0..count + BEHIND {
                let dots = &mut dots.0[index % BEHIND];
                if index >= BEHIND {
                    let extra = rows.as_ptr().add((index - BEHIND) * per_block + tile);
                    let scale = codes.scale(s, column, first + index - BEHIND, 0);
                    for i in 0..LANES {
                        let mut dot = s.load_words(&dots[i]);
                        if !MINIMUM {
                            dot = s.add_words(dot, s.splat_word(*extra.add(LANES + i)));
                        }
                        let dot = s.mul(s.to_f32(dot), scale);
                        totals[i] = s.mul_add(dot, s.splat(f32::from_bits(*extra.add(i))), totals[i]);
                    }
                    if MINIMUM {
                        let minimum = codes.scale(s, column, first + index - BEHIND, 1);
                        for i in 0..LANES {
                            let sum = s.splat(f32::from_bits(*extra.add(LANES + i)));
                            totals[i] = s.mul_add(minimum, sum, totals[i]);
                        }
                    }
                }
                if index < count {
                    for line in 0..ahead.lines {
                        for stream in ahead.streams {
                            s.prefetch(stream.wrapping_add((index * ahead.lines + line) * LINE).cast());
                        }
                    }
                    s.dot_tile(
                        quads,
                        rows.as_ptr().add(index * per_block),
                        codes.tiles[column].add(index * tile),
                        dots,
                    );
                }
            }
            for i in 0..LANES {
                s.store_at(totals[i], sums.add(i * run));
            }
        }
    }
}

/// Products of some blocks, each row a line of the cache. They are read back through memory, where they arrive some hundred
/// cycles later.
#[repr(align(64))]
struct Dots([[[u32; LANES]; LANES]; BEHIND]);

impl Op for AddBlocks<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: promised where this is made.
        unsafe {
            match self.codes.has_minimum {
                true => self.add::<S, true>(s),
                false => self.add::<S, false>(s),
            }
        }
    }
}
