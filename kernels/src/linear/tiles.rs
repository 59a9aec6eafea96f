//! The way through a stripe where the machine multiplies whole tiles: sixteen rows, sixteen outputs, and sixteen words of
//! inputs at a time. Leaves the instructions to `simd`, and how rows are laid out for them to `panels` and `rounding`.
#![expect(unsafe_code, reason = "operands are addressed by pointer in the innermost loop")]

use super::byte_tile::{Codes, LINE};
use super::bytes::BYTES;
use super::coded::Coded;
use super::rounding::EXTRA;
use super::{Part, Product, Stripe};
use crate::simd::tile::Sums;
use crate::simd::tiles::{Ahead, Pairs, SQUARE, STREAMS, WORDS};
use crate::simd::{LANES, Op, Simd, dispatch};

/// Tiles of a column that all rows meet before any of the next: with those of another column they stay in the first-level
/// cache, beside rows of pairs.
const SHARED: usize = 8;
/// The same of codes.
const SHARED_CODES: usize = 14;
/// The same if one panel of rows meets them: as many as are asked for in advance.
const ALONE: usize = 32;
/// Products of blocks that are begun before the sums of one are used.
const BEHIND: usize = 4;

/// The way down the columns of a stripe in chunks of tiles.
#[derive(Clone, Copy)]
struct Chunks {
    /// Words of a tile, tiles of a column, columns of the stripe.
    tile: usize,
    count: usize,
    columns: usize,
    /// Tiles of a chunk.
    len: usize,
    /// Products of a chunk, which together ask for the next.
    products: usize,
    /// Words to the task's next stripe, if there is one.
    next: Option<isize>,
}

impl Chunks {
    fn new(
        (tile, count): (usize, usize),
        Stripe { columns, next, .. }: Stripe,
        most: usize,
        products: usize,
    ) -> Self {
        let next = next.map(|tiles| tiles * (tile * count) as isize);
        Self { tile, count, columns, len: count.div_ceil(count.div_ceil(most).max(1)), products, next }
    }

    /// Tiles of the chunk that begins with tile `first`.
    fn len_at(self, first: usize) -> usize {
        self.len.min(self.count - first)
    }

    /// What product `index` of the chunk that begins with tile `first` of the stripe at `start` asks for: its share of the next
    /// chunk of all columns, or of the first of the next stripe, unless this is the last of the task.
    fn ahead(self, start: *const u32, first: usize, index: usize) -> Ahead {
        let len = self.len_at(first);
        let column = self.count * self.tile;
        let (next, tiles) = match (first + len < self.count, self.next) {
            (true, _) => (((first + len) * self.tile) as isize, self.len_at(first + len)),
            (false, Some(next)) => (next, self.len),
            (false, None) => return Ahead::NOTHING,
        };
        let per_column = STREAMS / self.columns;
        let lines = (tiles * self.tile).div_ceil(per_column * LINE);
        let share = lines.div_ceil(self.products);
        let streams = std::array::from_fn(|stream| {
            let word = stream / per_column * column + (stream % per_column * lines + index * share) * LINE;
            start.wrapping_offset(next).wrapping_add(word)
        });
        Ahead { streams, lines: share.div_ceil(len) }
    }
}

impl Part<'_> {
    /// Sums of a stripe of pairs of bf16 for all rows of the part, which begin `run` apart.
    #[inline(always)]
    pub(super) fn tile_stripe<S: Simd>(
        &self,
        s: S,
        w: &[u32],
        stripe: Stripe,
        (sums, run): (&mut [f32], usize),
    ) {
        let Stripe { first, columns, .. } = stripe;
        let Product { panels, words, .. } = self.product;
        let (depth, num_panels) = (panels.depth, self.panels.len());
        let (whole, rest) = (depth / LANES, depth % LANES);
        // A missing column is not read.
        let weights: [_; SQUARE] = std::array::from_fn(|j| {
            w[(first + j.min(columns - 1)) * depth * LANES..][..depth * LANES].as_ptr()
        });
        let mut last = [[0; WORDS]; SQUARE];
        for (j, last) in last.iter_mut().enumerate().take(columns) {
            let end = (first + j + 1) * depth;
            last[..rest * LANES].copy_from_slice(&w[(end - rest) * LANES..end * LANES]);
        }
        let most = if num_panels == 1 { ALONE } else { SHARED };
        let chunks = Chunks::new((WORDS, whole), stripe, most, num_panels);
        let height = panels.height(0..1);
        let mut k = 0;
        while k < whole + usize::from(rest > 0) {
            let is_whole = k < whole;
            let (steps, tiles) = match is_whole {
                true => (chunks.len_at(k), weights.map(|tile| tile.wrapping_add(k * WORDS))),
                false => (1, last.each_ref().map(|tile| tile.as_ptr())),
            };
            for (index, panel) in self.panels.clone().enumerate() {
                let start = panels.first_word(panel) + k * height * LANES;
                let rows = &words[start..start + steps * height * LANES];
                let sums = &mut sums[index * height * run..][..(height - 1) * run + columns * LANES];
                let product = Pairs {
                    rows: rows.as_ptr(),
                    columns: tiles,
                    steps,
                    ahead: if is_whole { chunks.ahead(weights[0], k, index) } else { Ahead::NOTHING },
                    sums: Sums { start: sums.as_mut_ptr(), row_step: run, resume: k > 0 },
                };
                // SAFETY: rows, columns and sums are as long as sliced; the part has begun.
                unsafe { s.multiply_tiles((height / LANES, columns), &product) };
            }
            k += steps;
        }
    }

    /// As [`Part::tile_stripe`], of codes.
    #[inline(always)]
    pub(super) fn coded_tile_stripe<S: Simd>(
        &self,
        _: S,
        w: &Coded,
        stripe: Stripe,
        (sums, run): (&mut [f32], usize),
    ) {
        let Stripe { first, columns, .. } = stripe;
        let Product { panels, words, .. } = self.product;
        let (form, rows) = (w.form, self.panels.len());
        let (per_block, quads) = (form.words(), form.quads());
        let (tile, panel_block) = (quads * LANES, (quads + EXTRA) * LANES);
        for sums in sums.chunks_mut(run) {
            sums[..columns * LANES].fill(0.0);
        }
        let chunks = Chunks::new((per_block, w.blocks), stripe, SHARED_CODES, rows * columns);
        let stripe = &w.codes[first * w.blocks * per_block..][..columns * w.blocks * per_block];
        let mut bytes = BYTES.take();
        bytes.resize(if form.bits < 8 { chunks.len * columns * tile } else { 0 });
        let mut codes = Codes::of(w, first, columns, false);
        let mut dots = Dots([[[0; LANES]; LANES]; BEHIND]);
        let mut block = 0;
        while block < w.blocks {
            let count = chunks.len_at(block);
            for j in 0..columns {
                let of_chunk = &stripe[(j * w.blocks + block) * per_block..][..count * per_block];
                codes.tiles[j] = of_chunk.as_ptr();
                if form.bits < 8 {
                    let out = &mut bytes[j * chunks.len * tile..][..count * tile];
                    form.unpack_blocks(of_chunk, out);
                    codes.tiles[j] = out.as_ptr();
                }
            }
            for panel in 0..rows {
                let start = panels.first_word(self.panels.start + panel) + block * panel_block;
                let rows_of = &words[start..start + count * panel_block];
                for j in 0..columns {
                    let ahead = chunks.ahead(stripe.as_ptr(), block, panel * columns + j);
                    let sums = &mut sums[panel * LANES * run + j * LANES..][..(LANES - 1) * run + LANES];
                    // The column holds `count` blocks of codes and scales, the sums are as many as sliced, and the part has begun.
                    let blocks = AddBlocks {
                        codes: &codes,
                        column: j,
                        quads,
                        first: block,
                        rows: rows_of,
                        ahead,
                        dots: &mut dots,
                        sums: sums.as_mut_ptr(),
                        run,
                    };
                    dispatch(S::ISA, blocks);
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
