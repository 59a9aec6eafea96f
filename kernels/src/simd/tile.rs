//! The one inner loop of all matrix products: a tile of rows times packed columns, summed in the order of the inputs.
//! Leaves packing, blocking and what happens to the sums to `linear` and `attention`.
#![expect(unsafe_code, reason = "operands are addressed by pointer in the innermost loop")]

use std::sync::atomic::{Ordering, compiler_fence};

use super::{LANES, Op, Simd};

/// Most column tiles side by side.
pub(crate) const MAX_COLUMNS: usize = 4;

/// What is multiplied.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a> {
    /// Left operand: words of rows, each one f32, or one pair of numbers of sixteen bits where both operands are pairs
    /// ([`Simd::HAS_DOT`], [`Words::Halves`]). For pairs that are turned into f32 there are two words for each of the right's.
    pub(crate) rows: *const u32,
    /// Right operand: words of up to four tiles of sixteen columns.
    pub(crate) tiles: [*const u32; MAX_COLUMNS],
    /// What the right operand's words are.
    pub(crate) words: Words,
    pub(crate) layout: Layout<'a>,
}

/// How operands lie.
#[derive(Clone, Copy)]
pub(crate) enum Layout<'a> {
    /// One step after the other, at addresses that are known when compiling: word `a[k · rows + row]` meets `b[tile][k · 16 +
    /// column]`. What lies at `next` is asked for in advance, `step` words further on at each step.
    Packed { next: [*const u32; MAX_COLUMNS], step: usize },
    /// Word `a[row · row_step + k · word_step]` meets `b[tile][block + k · step + column]`, where `block` runs over `blocks` and,
    /// for each, the right's `k` over the depth, while the left's goes on. (A `word_step` of one that the compiler knew would
    /// have it read neighbouring words of all rows at once, for which there are no registers.)
    Strided { row_step: usize, word_step: usize, blocks: &'a [usize], step: usize },
}

/// What words of the right operand are.
#[derive(Clone, Copy)]
pub(crate) enum Words {
    /// f32.
    Single,
    /// Pairs of bf16, of the steps `2 k` and `2 k + 1`.
    Pairs,
    /// As `Pairs`, in half precision, and turned into f32.
    WideHalves,
    /// Pairs of numbers in half precision, on both sides; products of a call are summed in half precision, and these sums in
    /// f32.
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

/// `sums (+)= a · b` over `depth` words of the right operand (of each block), for `(rows, columns)` rows and column tiles, which
/// must fit the registers: an operation of its own, so that every tile is compiled once.
pub(crate) struct Multiply<'a> {
    shape: (usize, usize),
    depth: usize,
    operands: Operands<'a>,
    sums: Sums,
}

impl<'a> Multiply<'a> {
    /// # Safety
    /// Until the operation has run, all words and sums of that extent must be readable, the sums writable, and no one
    /// else may use the sums.
    pub(crate) unsafe fn new(
        shape: (usize, usize),
        depth: usize,
        operands: Operands<'a>,
        sums: Sums,
    ) -> Self {
        Self { shape, depth, operands, sums }
    }

    #[inline(always)]
    fn run_as<S: Simd, const PACKED: bool, const PAIRS: bool, const HALVES: bool>(self, s: S) {
        let Self { shape: (rows, columns), depth, operands, sums } = self;
        debug_assert!(rows <= S::MAX_ROWS && columns <= columns_for::<S>(rows), "no such tile");
        // SAFETY: promised to `new`.
        of_shape!(S, (rows, columns), ROWS, COLUMNS => unsafe {
            tile::<S, PACKED, PAIRS, HALVES, ROWS, COLUMNS>(s, depth, operands, sums)
        });
    }

    #[inline(always)]
    fn run_halves<S: Simd>(self, s: S) {
        let Self { shape, depth, operands, sums } = self;
        // SAFETY: promised to `new`.
        of_shape!(S, shape, ROWS, COLUMNS => unsafe { halves::<S, ROWS, COLUMNS>(s, depth, operands, sums) });
    }
}

impl Op for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match (self.operands.words, self.operands.layout) {
            (Words::Single, Layout::Packed { .. }) => self.run_as::<S, true, false, false>(s),
            (Words::Single, Layout::Strided { .. }) => self.run_as::<S, false, false, false>(s),
            (Words::Pairs, Layout::Packed { .. }) => self.run_as::<S, true, true, false>(s),
            (Words::Pairs, Layout::Strided { .. }) => self.run_as::<S, false, true, false>(s),
            // Of `linear` alone.
            (Words::WideHalves, _) => self.run_as::<S, true, true, true>(s),
            (Words::Halves, _) => self.run_halves(s),
        }
    }
}

/// What to ask for in advance, and how far to go on at each step.
#[inline(always)]
fn ahead(operands: &Operands<'_>) -> ([*const u32; MAX_COLUMNS], usize) {
    match operands.layout {
        Layout::Packed { next, step } => (next, step),
        Layout::Strided { .. } => (operands.tiles, 0),
    }
}

/// # Safety
/// As [`Multiply::new`].
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "sums, tiles and operands are indexed alike")]
unsafe fn tile<
    S: Simd,
    const PACKED: bool,
    const PAIRS: bool,
    const HALVES: bool,
    const ROWS: usize,
    const COLUMNS: usize,
>(
    s: S,
    depth: usize,
    operands: Operands<'_>,
    c: Sums,
) {
    // Words that are turned into f32 first hold two steps.
    let is_wide = HALVES || PAIRS && !S::HAS_DOT;
    let parts = if is_wide { 2 } else { 1 };
    // Constants where they can be: a register for each row's address leaves too few for the rest.
    let (row_step, row_word, blocks, step) = match operands.layout {
        Layout::Strided { row_step, word_step, blocks, step } if !PACKED => {
            (row_step, word_step, blocks, step)
        }
        _ => (1, ROWS, [0].as_slice(), LANES),
    };
    let (next, next_step) = ahead(&operands);
    let mut sums = [[s.splat(0.0); COLUMNS]; ROWS];
    // SAFETY: every address is `row`, `k` and `column` inside the extents the caller promised.
    unsafe {
        if c.resume {
            for i in 0..ROWS {
                for j in 0..COLUMNS {
                    sums[i][j] = s.load_at(c.start.add(i * c.row_step + j * LANES));
                }
            }
        }
        let mut rows = operands.rows;
        let mut asked = 0;
        for &block in blocks {
            let tiles: [*const u32; COLUMNS] = std::array::from_fn(|j| operands.tiles[j].add(block));
            for k in 0..depth {
                if PACKED {
                    for j in 0..COLUMNS {
                        s.prefetch(next[j].wrapping_add(asked).cast());
                    }
                    asked += next_step;
                }
                for part in 0..parts {
                    // Words are read again for the second part: kept, they would take the registers of sums.
                    compiler_fence(Ordering::SeqCst);
                    let mut right = [s.splat(0.0); COLUMNS];
                    let mut words = [s.splat_word(0); COLUMNS];
                    for j in 0..COLUMNS {
                        let at = tiles[j].add(k * step);
                        if !PAIRS {
                            right[j] = s.load_at(at.cast());
                            continue;
                        }
                        words[j] = s.load_words_at(at);
                        right[j] = match part {
                            _ if HALVES => s.widen_halves(words[j])[part],
                            0 => s.even(words[j]),
                            _ => s.odd(words[j]),
                        };
                    }
                    for i in 0..ROWS {
                        let word = rows.add(i * row_step + part * row_word);
                        for j in 0..COLUMNS {
                            sums[i][j] = if PAIRS && !is_wide {
                                s.dot_bf16(sums[i][j], s.splat_word(*word), words[j])
                            } else {
                                s.mul_add(s.splat(*word.cast::<f32>()), right[j], sums[i][j])
                            };
                        }
                    }
                }
                rows = rows.add(parts * row_word);
            }
        }
        for i in 0..ROWS {
            for j in 0..COLUMNS {
                s.store_at(sums[i][j], c.start.add(i * c.row_step + j * LANES));
            }
        }
    }
}

/// Of packed operands.
///
/// # Safety
/// As [`Multiply::new`].
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "sums, tiles and operands are indexed alike")]
unsafe fn halves<S: Simd, const ROWS: usize, const COLUMNS: usize>(
    s: S,
    depth: usize,
    operands: Operands<'_>,
    c: Sums,
) {
    let (next, next_step) = ahead(&operands);
    let mut sums = [[s.splat_word(0); COLUMNS]; ROWS];
    // SAFETY: every address is `row`, `k` and `column` inside the extents the caller promised.
    unsafe {
        for k in 0..depth {
            let mut words = [s.splat_word(0); COLUMNS];
            for j in 0..COLUMNS {
                words[j] = s.load_words_at(operands.tiles[j].add(k * LANES));
                s.prefetch(next[j].wrapping_add(k * next_step).cast());
            }
            for i in 0..ROWS {
                let word = s.splat_word(*operands.rows.add(k * ROWS + i));
                for j in 0..COLUMNS {
                    sums[i][j] = s.mul_add_halves(sums[i][j], word, words[j]);
                }
            }
        }
        for i in 0..ROWS {
            for j in 0..COLUMNS {
                let out = c.start.add(i * c.row_step + j * LANES);
                let before = if c.resume { s.load_at(out) } else { s.splat(0.0) };
                s.store_at(s.add_halves(before, sums[i][j]), out);
            }
        }
    }
}
