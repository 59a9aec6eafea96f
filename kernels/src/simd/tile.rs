//! The one inner loop of all matrix products: a tile of rows times packed columns, summed in the order of the inputs.
//! Leaves packing, blocking and what happens to the sums to `linear` and `attention`.
#![expect(unsafe_code, reason = "operands are addressed by pointer in the innermost loop")]

use super::{LANES, Op, Simd};

/// Most column tiles side by side.
pub(crate) const MAX_COLUMNS: usize = 4;

/// Left operand: words `a[row · row_step + k · step]`, each one f32, or one pair of bf16 where both operands are pairs
/// ([`Simd::HAS_DOT`]).
#[derive(Clone, Copy)]
pub(crate) struct Left {
    pub(crate) words: *const u32,
    pub(crate) row_step: usize,
    pub(crate) step: usize,
}

/// Right operand: up to four tiles of sixteen columns, words `b[tile][block + k · step + column]`, where `block`
/// runs over `blocks` and, for each, `k` over the depth.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    pub(crate) blocks: &'a [usize],
    pub(crate) tiles: [*const u32; MAX_COLUMNS],
    pub(crate) step: usize,
    /// What to ask for in advance, a tile at a time: where it starts, and words to go on at each step of all blocks.
    pub(crate) next: Option<([*const u32; MAX_COLUMNS], usize)>,
}

/// What the right operand's words are.
#[derive(Clone, Copy)]
pub(crate) enum Operand {
    /// f32.
    Single,
    /// Pairs of bf16, of the steps `2 k` and `2 k + 1`.
    Pairs,
    /// As `Pairs`, in half precision, and turned into f32.
    WideHalves,
    /// Pairs of numbers in half precision, on both sides; products are summed in half precision to the end of a block, and
    /// these sums in f32.
    Halves,
}

/// Sums: `c[row · row_step + tile · 16 + column]`, started from zero or from what is there.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    pub(crate) start: *mut f32,
    pub(crate) row_step: usize,
    pub(crate) resume: bool,
}

/// Column tiles that fit the registers beside `rows` rows.
#[inline(always)]
pub(crate) const fn columns_for<S: Simd>(rows: usize) -> usize {
    let columns = S::MAX_TILES / rows;
    if columns > MAX_COLUMNS { MAX_COLUMNS } else { columns }
}

/// Runs `$call` with `$rows` and `$columns` as constants, for a tile of that shape; nothing for one that does not fit the
/// registers, which is known when compiling: such tiles are left out.
macro_rules! of_shape {
    ($simd:ident, $shape:expr, $rows:ident, $columns:ident => $call:expr) => {
        of_shape! { $simd, $shape, $rows, $columns => $call;
            1: 1 2 3 4; 2: 1 2 3 4; 3: 1 2 3 4; 4: 1 2 3 4; 5: 1 2 3 4; 6: 1 2 3 4; 7: 1 2 3; 8: 1 2 3; }
    };
    ($simd:ident, $shape:expr, $rows:ident, $columns:ident => $call:expr; $($row:literal: $($column:literal)*;)*) => {
        match $shape {
            $($(($row, $column)
                if const { $row <= $simd::MAX_ROWS && $column <= $crate::simd::tile::columns_for::<$simd>($row) } =>
            {
                const $rows: usize = $row;
                const $columns: usize = $column;
                $call
            })*)*
            _ => {}
        }
    };
}
pub(crate) use of_shape;

/// `sums (+)= a · b` over `depth` words of each block of the right operand, for `(rows, columns)` rows and column tiles,
/// which must fit the registers: an operation of its own, so that every tile is compiled once.
pub(crate) struct Multiply<'a> {
    shape: (usize, usize),
    depth: usize,
    a: Left,
    b: Right<'a>,
    c: Sums,
    operand: Operand,
}

impl<'a> Multiply<'a> {
    /// # Safety
    /// Until the operation has run, all words and sums of that extent must be readable, the sums writable, and no one
    /// else may use the sums.
    pub(crate) unsafe fn new(
        shape: (usize, usize),
        depth: usize,
        a: Left,
        b: Right<'a>,
        c: Sums,
        operand: Operand,
    ) -> Self {
        Self { shape, depth, a, b, c, operand }
    }

    #[inline(always)]
    fn run_as<S: Simd, const PAIRS: bool, const HALVES: bool>(self, s: S) {
        let Self { shape: (rows, columns), depth, a, b, c, .. } = self;
        debug_assert!(rows <= S::MAX_ROWS && columns <= columns_for::<S>(rows), "no such tile");
        // SAFETY: promised to `new`.
        of_shape!(S, (rows, columns), ROWS, COLUMNS => unsafe {
            tile::<S, PAIRS, HALVES, ROWS, COLUMNS>(s, depth, a, b, c)
        });
    }
}

impl Multiply<'_> {
    #[inline(always)]
    fn run_halves<S: Simd>(self, s: S) {
        let Self { shape, depth, a, b, c, .. } = self;
        // SAFETY: promised to `new`.
        of_shape!(S, shape, ROWS, COLUMNS => unsafe { halves::<S, ROWS, COLUMNS>(s, depth, a, b, c) });
    }
}

impl Op for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.operand {
            Operand::Single => self.run_as::<S, false, false>(s),
            Operand::Pairs => self.run_as::<S, true, false>(s),
            Operand::WideHalves => self.run_as::<S, true, true>(s),
            Operand::Halves => self.run_halves(s),
        }
    }
}

/// # Safety
/// As [`Multiply::new`].
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "sums, tiles and operands are indexed alike")]
unsafe fn tile<S: Simd, const PAIRS: bool, const HALVES: bool, const ROWS: usize, const COLUMNS: usize>(
    s: S,
    depth: usize,
    a: Left,
    b: Right<'_>,
    c: Sums,
) {
    let mut sums = [[s.splat(0.0); COLUMNS]; ROWS];
    // Steps that are turned into f32 first, of each step of the right operand.
    let widened = if HALVES || PAIRS && !S::HAS_DOT { 2 } else { 0 };
    // SAFETY: every address is `row`, `k` and `column` inside the extents the caller promised.
    unsafe {
        if c.resume {
            for i in 0..ROWS {
                for j in 0..COLUMNS {
                    sums[i][j] = s.load_at(c.start.add(i * c.row_step + j * LANES));
                }
            }
        }
        let mut left = a.words;
        for (index, &block) in b.blocks.iter().enumerate() {
            let mut tiles = b.tiles;
            for j in 0..COLUMNS {
                tiles[j] = tiles[j].add(block);
            }
            for k in 0..depth {
                if let Some((next, step)) = b.next {
                    for j in 0..COLUMNS {
                        s.prefetch(next[j].wrapping_add((index * depth + k) * step).cast());
                    }
                }
                if HALVES {
                    for j in 0..COLUMNS {
                        let wide = s.widen_halves(s.load_words_at(tiles[j].add(k * b.step)));
                        for part in 0..widened {
                            for i in 0..ROWS {
                                let a = left.add(i * a.row_step + (widened * k + part) * a.step);
                                sums[i][j] = s.mul_add(s.splat(*a.cast::<f32>()), wide[part], sums[i][j]);
                            }
                        }
                    }
                    continue;
                }
                for part in 0..widened {
                    let mut right = [s.splat(0.0); COLUMNS];
                    for j in 0..COLUMNS {
                        let words = s.load_words_at(tiles[j].add(k * b.step));
                        right[j] = if part == 0 { s.even(words) } else { s.odd(words) };
                    }
                    for i in 0..ROWS {
                        let a = left.add(i * a.row_step + (widened * k + part) * a.step);
                        let a = s.splat(*a.cast::<f32>());
                        for j in 0..COLUMNS {
                            sums[i][j] = s.mul_add(a, right[j], sums[i][j]);
                        }
                    }
                }
                if widened > 0 {
                    continue;
                }
                for i in 0..ROWS {
                    let a = left.add(i * a.row_step + k * a.step);
                    for j in 0..COLUMNS {
                        let b = tiles[j].add(k * b.step);
                        sums[i][j] = if PAIRS {
                            s.dot_bf16(sums[i][j], s.splat_word(*a), s.load_words_at(b))
                        } else {
                            s.mul_add(s.splat(*a.cast::<f32>()), s.load_at(b.cast()), sums[i][j])
                        };
                    }
                }
            }
            left = left.add(depth * a.step * if widened > 0 { widened } else { 1 });
        }
        for i in 0..ROWS {
            for j in 0..COLUMNS {
                s.store_at(sums[i][j], c.start.add(i * c.row_step + j * LANES));
            }
        }
    }
}

/// # Safety
/// As [`Multiply::new`].
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "sums, tiles and operands are indexed alike")]
unsafe fn halves<S: Simd, const ROWS: usize, const COLUMNS: usize>(
    s: S,
    depth: usize,
    a: Left,
    b: Right<'_>,
    c: Sums,
) {
    let mut left = a.words;
    let mut resume = c.resume;
    // SAFETY: every address is `row`, `k` and `column` inside the extents the caller promised.
    unsafe {
        for (index, &block) in b.blocks.iter().enumerate() {
            let mut sums = [[s.splat_word(0); COLUMNS]; ROWS];
            for k in 0..depth {
                let mut right = [s.splat_word(0); COLUMNS];
                for j in 0..COLUMNS {
                    right[j] = s.load_words_at(b.tiles[j].add(block + k * b.step));
                    if let Some((next, step)) = b.next {
                        s.prefetch(next[j].wrapping_add((index * depth + k) * step).cast());
                    }
                }
                for i in 0..ROWS {
                    let a = s.splat_word(*left.add(i * a.row_step + k * a.step));
                    for j in 0..COLUMNS {
                        sums[i][j] = s.mul_add_halves(sums[i][j], a, right[j]);
                    }
                }
            }
            for i in 0..ROWS {
                for j in 0..COLUMNS {
                    let out = c.start.add(i * c.row_step + j * LANES);
                    let before = if resume { s.load_at(out) } else { s.splat(0.0) };
                    s.store_at(s.add_halves(before, sums[i][j]), out);
                }
            }
            left = left.add(depth * a.step);
            resume = true;
        }
    }
}
