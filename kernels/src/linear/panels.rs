//! Activations in the layout the kernels read: panels of as many rows as a tile holds. Leaves weights to `packed`.

use std::ops::Range;

use super::coded::Form;
use super::packed::{PackedLinear, Storage};
use super::rounding::RoundRows;
use crate::buffer::Buffer;
use crate::rows::for_each_piece;
use crate::simd::halves::{magnitude, power_of_two};
use crate::simd::tile::columns_for;
use crate::simd::tiles::SQUARE;
use crate::simd::{LANES, Op, Simd, dispatch, narrowed, padded, paired};
use crate::transpose::transpose;
use crate::{Pool, Rows};

/// Most rows of a panel with any instruction set.
pub(super) const MAX_PANEL_ROWS: usize = 8;
/// Times sixteen values of every row of a panel that are rounded before they are put side by side.
const LINE: usize = 8;
/// Inputs of a block from which on tiles of codes are not for the most part empty either.
const LEAST_BLOCK: usize = 32;
/// Rows of a block of panels at least: fewer would have weights read too often.
const LEAST_ROWS: usize = 128;
/// Rows up to which codes are multiplied vector by vector, with the same bits: tiles would be empty for the most part.
const FEW_ROWS: usize = 8;
/// Activations below which packing is left to one thread.
const PARALLEL_VALUES: usize = 1 << 15;
/// Activations of a panel that are packed before the next, as far as they can be cut: what is written of a row lies in lines
/// a multiple of the rows apart, of which a near cache would not hold those of a whole row.
const PIECE_VALUES: usize = 1 << 14;

/// How rows are cut: panels differ by one row at most, the longer ones first. Panel `p` holds `[words][rows of p]` words
/// (an f32, a pair of bf16, or as `rounding` says) from word `first_row(p) · words` on. Where whole tiles are multiplied
/// panels are one tile of rows or two, some of which the last may lack, and hold `[words / 16][rows][16]` words, or as
/// `rounding` says.
#[derive(Clone, Debug)]
pub(super) struct Panels {
    /// Words of a row.
    pub(super) words: usize,
    /// Words of a row for one word of weights.
    pub(super) ratio: usize,
    /// Words of a row that are multiplied: of numbers in half precision one follows, what sums are multiples of, and in tiles
    /// zeros.
    pub(super) depth: usize,
    /// Words of a row that are packed at once.
    unit: usize,
    /// Column tiles a tile of products takes.
    pub(super) stripe: usize,
    /// Panels are tiles.
    pub(super) are_tiles: bool,
    pub(super) num_rows: usize,
    count: usize,
    rows: usize,
    /// Panels with one row more.
    longer: usize,
    rounding: Rounding,
}

/// What a word of a panel is.
#[derive(Clone, Copy, Debug)]
enum Rounding {
    /// An f32.
    None,
    /// An f32 rounded to bf16.
    Single,
    /// A pair of bf16.
    Pairs,
    /// Pairs in half precision. Each row is multiplied by a power of two that brings its largest magnitude to `2^exponent`
    /// or up to twice as much.
    Halves { exponent: i32 },
    /// Four bytes, and what they are multiples of.
    Bytes(Form),
}

/// Cuts rows into panels for an instruction set.
struct Plan<'a> {
    num_rows: usize,
    w: &'a PackedLinear,
    /// [`PackedLinear::magnitude`] of weights in half precision; of others it does not matter.
    magnitude: u32,
}

impl Op for Plan<'_> {
    type Output = Panels;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Panels {
        const { assert!(S::MAX_ROWS <= MAX_PANEL_ROWS, "panels are at most as high as they can be packed") };
        let are_tiles = S::HAS_TILES
            && match self.w.storage() {
                Storage::Bf16(_) => true,
                Storage::Coded(codes, _) => self.num_rows > FEW_ROWS && codes.form.block >= LEAST_BLOCK,
                _ => false,
            };
        let is_coded = matches!(self.w.storage(), Storage::Coded(..));
        // Pairs are multiplied in squares, which read least.
        let side = if is_coded { 1 } else { self.num_rows.div_ceil(LANES).min(SQUARE) };
        let count = self.num_rows.div_ceil(if are_tiles { side * LANES } else { S::MAX_ROWS });
        let width = self.w.in_features();
        let (words, unit, ratio, rounding) = match self.w.storage() {
            Storage::Bf16(_) if are_tiles => {
                (width.div_ceil(2).next_multiple_of(LANES), LANES, 1, Rounding::Pairs)
            }
            Storage::Bf16(_) if S::HAS_DOT => (width.div_ceil(2), LANES / 2, 1, Rounding::Pairs),
            Storage::Bf16(_) => (width.next_multiple_of(2), LANES, 2, Rounding::Single),
            // 64 products of magnitudes below 2^(exponent + 1) and 2^(ours + 1) stay within 2^15. Weights that are not finite
            // have none: they are multiplied as f32, so that it shows.
            Storage::F16(_) if S::HAS_HALVES && self.magnitude >> 23 != 0xff => {
                let exponent = (7 + 127 - (self.magnitude >> 23) as i32).clamp(-14, 14);
                let words = width.div_ceil(2) + 1;
                (words, words, 1, Rounding::Halves { exponent })
            }
            Storage::Coded(data, _) => {
                let block = data.form.row_words::<S>();
                (data.blocks * block, block, 1, Rounding::Bytes(data.form))
            }
            Storage::F16(_) => (width.next_multiple_of(2), LANES, 2, Rounding::None),
            Storage::F32(_) | Storage::Nf4(_) | Storage::Stacked(_) => (width, LANES, 1, Rounding::None),
        };
        Panels {
            words,
            unit,
            ratio,
            depth: match rounding {
                Rounding::Halves { .. } => words - 1,
                Rounding::Pairs => width.div_ceil(2),
                _ => words,
            },
            stripe: if are_tiles { SQUARE } else { columns_for::<S>(self.num_rows.div_ceil(count)) },
            are_tiles,
            num_rows: self.num_rows,
            count,
            rows: if are_tiles { side * LANES } else { self.num_rows / count },
            longer: if are_tiles { 0 } else { self.num_rows % count },
            rounding,
        }
    }
}

impl Panels {
    /// How so many rows are cut that meet these weights.
    pub(super) fn new(pool: &Pool, num_rows: usize, w: &PackedLinear) -> Self {
        let magnitude = if let Storage::F16(_) = w.storage() { w.magnitude(pool) } else { 0 };
        dispatch(pool.isa(), Plan { num_rows, w, magnitude })
    }

    /// Words of all panels.
    pub(super) fn len(&self) -> usize {
        self.height(0..self.count) * self.words
    }

    /// Where the first of a row's lines lies, and how much further on the next, if they are tiles of pairs.
    pub(super) fn lines(&self, row: usize) -> (usize, usize) {
        (row / self.rows * self.rows * self.words + row % self.rows * LANES, self.rows * LANES)
    }

    /// Whether panels are tiles of pairs of bf16.
    pub(super) fn are_tiles_of_pairs(&self) -> bool {
        self.are_tiles && matches!(self.rounding, Rounding::Pairs)
    }

    pub(super) fn first_row(&self, panel: usize) -> usize {
        (panel * self.rows + panel.min(self.longer)).min(self.num_rows)
    }

    pub(super) fn num_rows(&self, panel: usize) -> usize {
        self.first_row(panel + 1) - self.first_row(panel)
    }

    /// Where a panel begins.
    pub(super) fn first_word(&self, panel: usize) -> usize {
        self.first_row(panel) * self.words
    }

    /// Rows of some panels, those that the last of them lacks included.
    pub(super) fn height(&self, panels: Range<usize>) -> usize {
        match self.are_tiles {
            true => panels.len() * self.rows,
            false => self.first_row(panels.end) - self.first_row(panels.start),
        }
    }

    /// Blocks of panels of about `bytes` each at most.
    pub(super) fn num_blocks(&self, bytes: usize) -> usize {
        let height = self.height(0..1);
        let most = (bytes / (height * self.words * 4)).max(LEAST_ROWS.div_ceil(height));
        self.count.div_ceil(most)
    }

    /// The panels of one of `num_blocks` blocks of nearly equal length.
    pub(super) fn block(&self, block: usize, num_blocks: usize) -> Range<usize> {
        block * self.count / num_blocks..(block + 1) * self.count / num_blocks
    }

    /// Whether both sides are multiplied in half precision.
    pub(super) fn are_halves(&self) -> bool {
        matches!(self.rounding, Rounding::Halves { .. })
    }

    /// What the sums of row `i` of panel `panel` are multiples of.
    pub(super) fn factor(&self, words: &[u32], panel: usize, i: usize) -> f32 {
        if !self.are_halves() {
            return 1.0;
        }
        let (first, rows) = (self.first_row(panel), self.num_rows(panel));
        f32::from_bits(words[first * self.words + self.depth * rows + i])
    }

    /// Packs rows of `width` values into `words`.
    pub(super) fn fill(&self, pool: &Pool, x: Rows<'_>, width: usize, words: &mut Buffer<u32>) {
        words.resize(self.len());
        let parallel = self.num_rows * width > PARALLEL_VALUES;
        // Chunks of the longest panel's size would not end where panels do, so tasks are counted in panels of each kind.
        let (longer, shorter) = words.split_at_mut(self.longer * (self.rows + 1) * self.words);
        let isa = pool.isa();
        for (part, first, rows) in [(longer, 0, self.rows + 1), (shorter, self.longer, self.rows)] {
            let units = self.words.div_ceil(self.unit).div_ceil((rows * width).div_ceil(PIECE_VALUES));
            let sizes = (rows * self.words, rows * units * self.unit);
            for_each_piece(pool, parallel, part, sizes, |i, piece, words| {
                let (first_row, present) = (self.first_row(first + i), self.num_rows(first + i));
                let first = piece * units;
                match self.rounding {
                    Rounding::Bytes(form) => {
                        let is_tile = self.are_tiles;
                        let rows = present;
                        dispatch(isa, RoundRows { x, width, first_row, rows, first, form, is_tile, words });
                    }
                    Rounding::Pairs if self.are_tiles => {
                        dispatch(isa, PackTiles { x, width, first_row, rows: (present, rows), first, words });
                    }
                    rounding => {
                        dispatch(isa, Pack { x, width, first_row, rows, first, rounding, words });
                    }
                }
            });
        }
    }
}

/// Packs units of a panel.
struct Pack<'a> {
    x: Rows<'a>,
    width: usize,
    first_row: usize,
    rows: usize,
    /// The first of those that are packed.
    first: usize,
    rounding: Rounding,
    words: &'a mut [u32],
}

impl Op for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let are_halves = matches!(self.rounding, Rounding::Halves { .. });
        let (words, factors) =
            self.words.split_at_mut(self.words.len() - if are_halves { self.rows } else { 0 });
        let mut scales = [1.0; MAX_PANEL_ROWS];
        if let Rounding::Halves { exponent } = self.rounding {
            for (i, (scale, factor)) in scales.iter_mut().zip(factors).enumerate() {
                // Nothing that looks like a number may come of a row with something that is none.
                let row = self.x.row(self.first_row + i, self.width);
                let inverse;
                (*scale, inverse) = power_of_two(magnitude(row), exponent).unwrap_or((1.0, f32::NAN));
                *factor = inverse.to_bits();
            }
        }
        // Some values of every row, then side by side.
        let are_pairs = are_halves || matches!(self.rounding, Rounding::Pairs);
        let group = if are_pairs { LANES / 2 } else { LANES };
        let mut lines = [[0; LINE * LANES]; MAX_PANEL_ROWS];
        for (index, words) in words.chunks_mut(LINE * group * self.rows).enumerate() {
            for (i, line) in lines.iter_mut().enumerate().take(self.rows) {
                let row = rest(self.x.row(self.first_row + i, self.width), self.first + index * LINE);
                let (whole, part) = row[..row.len().min(LINE * LANES)].as_chunks();
                let mut line = line.chunks_exact_mut(group);
                for (values, words) in whole.iter().zip(&mut line) {
                    round(s, self.rounding, values, scales[i], words);
                }
                if let (Some(words), false) = (line.next(), part.is_empty()) {
                    round(s, self.rounding, &padded(part, 0.0), scales[i], words);
                }
            }
            side_by_side(lines.as_flattened(), LINE * LANES, self.rows, words);
        }
    }
}

/// Sixteen values as words of a panel, or as half as many; those in half precision times `scale`.
#[inline(always)]
fn round<S: Simd>(s: S, rounding: Rounding, values: &[f32; LANES], scale: f32, words: &mut [u32]) {
    let mut narrow = [0; LANES];
    match rounding {
        Rounding::None | Rounding::Bytes(_) => words.copy_from_slice(bytemuck::cast_slice(values)),
        Rounding::Single => {
            s.to_bf16(s.load(values), &mut narrow);
            words.copy_from_slice(&narrow.map(|x| u32::from(x) << 16));
        }
        Rounding::Pairs => {
            s.to_bf16(s.load(values), &mut narrow);
            words.copy_from_slice(&paired(&narrow));
        }
        Rounding::Halves { .. } => {
            s.to_halves(s.mul(s.load(values), s.splat(scale)), &mut narrow);
            words.copy_from_slice(&paired(&narrow));
        }
    }
}

/// Packs units of a panel of tiles of pairs; what rows it lacks may be anything.
struct PackTiles<'a> {
    x: Rows<'a>,
    width: usize,
    first_row: usize,
    /// Rows there are, and those of all tiles.
    rows: (usize, usize),
    /// The first of those that are packed.
    first: usize,
    words: &'a mut [u32],
}

impl Op for PackTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (present, height) = self.rows;
        for i in 0..present {
            let row = self.x.row(self.first_row + i, self.width);
            for (step, tiles) in self.words.chunks_exact_mut(height * LANES).enumerate() {
                let halves = tiles[i * LANES..][..LANES].chunks_exact_mut(LANES / 2);
                for (half, words) in halves.enumerate() {
                    let row = rest(row, 2 * (self.first + step) + half);
                    words.copy_from_slice(&paired(&narrowed(s, row)));
                }
            }
        }
    }
}

/// A row from value `16 index` on: nothing where it has ended.
#[inline(always)]
fn rest(row: &[f32], index: usize) -> &[f32] {
    &row[(index * LANES).min(row.len())..]
}

/// Word `k` of the first `rows` lines, which begin `stride` apart, then word `k + 1` of each, as many as `out` holds.
#[inline(always)]
pub(super) fn side_by_side(lines: &[u32], stride: usize, rows: usize, out: &mut [u32]) {
    let depth = out.len() / rows;
    transpose(bytemuck::cast_slice(lines), stride, (rows, depth), bytemuck::cast_slice_mut(out), rows);
}
