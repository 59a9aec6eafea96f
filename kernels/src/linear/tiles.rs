//! The way through a stripe where the machine multiplies whole tiles: sixteen rows, sixteen outputs, and sixteen words of
//! inputs at a time. Leaves the instructions to `simd`, how rows are laid out for them to `panels`, and codes to `code_tiles`.
#![expect(unsafe_code, reason = "operands are addressed by pointer in the innermost loop")]

use std::ops::Range;

use super::byte_tile::LINE;
use super::packed::Storage;
use super::{Part, Product, SUMS};
use crate::simd::tile::Sums;
use crate::simd::tiles::{AT_ONCE, Ahead, Pairs, SQUARE, WORDS};
use crate::simd::{LANES, Simd};

/// Tiles of a column that all rows meet before any of the next: with those of another column they stay in the first-level
/// cache, beside rows of pairs.
const SHARED: usize = 8;
/// The same if many panels of rows meet them: sums come and go less often, and there is time to ask for more.
const SHARED_LONG: usize = 14;
/// So many panels.
const MANY_PANELS: usize = 8;
/// Words of a column that are asked for in advance if one panel of rows meets them: memory brings most to who walks on step by step.
const CLOSE: usize = WORDS;
/// Words of the next columns that are asked for while the sums of these become outputs.
const BEGINNING: usize = 2 * WORDS;

/// Outputs of a square.
pub(super) const RUN: usize = SQUARE * LANES;

/// The tiles of columns that a square takes: two side by side, or gates and what they gate; or the last alone.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    pub(super) first: usize,
    /// Tiles from one to the other.
    pub(super) apart: usize,
    pub(super) columns: usize,
    /// How many tiles further on the next begins, if the thread is likely to have one.
    next: Option<usize>,
}

/// The way down the columns of a pair in chunks of tiles.
#[derive(Clone, Copy)]
pub(super) struct Chunks {
    /// Words of a tile, tiles of a column.
    tile: usize,
    count: usize,
    pair: Pair,
    /// Tiles of a chunk.
    pub(super) len: usize,
    /// Products of a chunk, which together ask for the next.
    products: usize,
}

impl Chunks {
    pub(super) fn new((tile, count): (usize, usize), pair: Pair, most: usize, products: usize) -> Self {
        Self { tile, count, pair, len: count.div_ceil(count.div_ceil(most).max(1)), products }
    }

    /// Tiles of the chunk that begins with tile `first`.
    pub(super) fn len_at(self, first: usize) -> usize {
        self.len.min(self.count - first)
    }

    /// What the first product of the chunk that begins with tile `first` of columns that begin at `start` asks for, and how many words
    /// further on what each of the others does: shares of the next chunk of all columns, or of the first of the next, unless no more
    /// are likely.
    #[inline(always)]
    pub(super) fn ahead(self, start: [*const u32; SQUARE], first: usize) -> (Ahead, usize) {
        let len = self.len_at(first);
        let (next, tiles) = match (first + len < self.count, self.pair.next) {
            (true, _) => ((first + len) * self.tile, self.len_at(first + len)),
            (false, Some(next)) => (next * self.count * self.tile, self.len),
            (false, None) => return (Ahead::NOTHING, 0),
        };
        let per_column = AT_ONCE / self.pair.columns;
        let lines = (tiles * self.tile).div_ceil(per_column * LINE);
        let share = lines.div_ceil(self.products);
        let apart = lines * LINE;
        let places = self.places(start, 2 * apart).map(|place| place.wrapping_add(next));
        (Ahead { places, apart, stride: LINE, lines: share.div_ceil(len) }, share * LINE)
    }

    /// What each step asks for if columns are read once: the lines a little further on.
    #[inline(always)]
    fn close(self, start: [*const u32; SQUARE]) -> Ahead {
        let stride = AT_ONCE / self.pair.columns * LINE;
        let places = self.places(start, 2 * LINE).map(|place| place.wrapping_add(CLOSE));
        Ahead { places, apart: LINE, stride, lines: self.tile / stride }
    }

    /// Asks for the beginning of the next columns, if there are any.
    #[inline(always)]
    fn ask_for_next<S: Simd>(self, s: S, start: [*const u32; SQUARE]) {
        let Some(next) = self.pair.next else { return };
        for word in (0..BEGINNING).step_by(LINE) {
            for column in &start[..self.pair.columns] {
                s.prefetch_far(column.wrapping_add(next * self.count * self.tile + word).cast());
            }
        }
    }

    /// Where two columns begin, or the only one, and so many words further on.
    #[inline(always)]
    fn places(self, start: [*const u32; SQUARE], words: usize) -> [*const u32; 2] {
        [start[0], if self.pair.columns > 1 { start[1] } else { start[0].wrapping_add(words) }]
    }
}

impl Part<'_> {
    /// The outputs of the part, those of each panel as soon as its sums are complete.
    #[inline(always)]
    pub(super) fn multiply_tiles<S: Simd>(&self, s: S) {
        let Product { panels, w, .. } = *self.product;
        let mut sums = SUMS.take();
        sums.resize(panels.height(self.panels.clone()) * RUN);
        match w.storage() {
            Storage::Bf16(words) => {
                s.begin_tiles([LANES; 2]);
                for (pair, tiles) in self.pairs() {
                    self.multiply_pairs(s, words, pair, tiles, &mut sums);
                }
            }
            Storage::Coded(codes, _) => {
                s.begin_tiles([codes.form.tile_depth(); 2]);
                self.multiply_codes(s, codes, &mut sums);
            }
            _ => {}
        }
        s.end_tiles();
        SUMS.set(sums);
    }

    /// The columns of the part, and which outputs those are.
    #[inline(always)]
    pub(super) fn pairs(&self) -> impl Iterator<Item = (Pair, Range<usize>)> {
        let Product { w, gate, .. } = *self.product;
        let (side, apart) = match gate {
            Some(_) => (1, w.out_features() / 2 / LANES),
            None => (SQUARE, 1),
        };
        let last = self.tiles.end;
        self.tiles.clone().step_by(side).map(move |first| {
            let end = last.min(first + side);
            let columns = if gate.is_some() { SQUARE } else { end - first };
            (Pair { first, apart, columns, next: (end < last || self.continues).then_some(side) }, first..end)
        })
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
            1 => usize::MAX,
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
            let (ahead, share) = match is_whole {
                true if num_panels == 1 => (chunks.close(columns_of), 0),
                true => chunks.ahead(weights, k),
                false => (Ahead::NOTHING, 0),
            };
            for (index, panel) in self.panels.clone().enumerate() {
                let start = panels.first_word(panel) + k * height * LANES;
                let rows = &words[start..start + steps * height * LANES];
                let sums = &mut sums[index * height * RUN..][..height * RUN];
                let product = Pairs {
                    rows: rows.as_ptr(),
                    columns: columns_of,
                    steps,
                    ahead: ahead.further(index * share),
                    sums: Sums { start: sums.as_mut_ptr(), row_step: RUN, resume: k > 0 },
                };
                // SAFETY: rows, columns and sums are as long as sliced; the part has begun.
                unsafe { s.multiply_tiles((height / LANES, columns), &product) };
                if k + steps == count {
                    if num_panels == 1 {
                        chunks.ask_for_next(s, weights);
                    }
                    self.finish(s, tiles.clone(), panel, (sums, LANES, RUN));
                }
            }
            k += steps;
        }
    }
}
