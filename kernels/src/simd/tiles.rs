//! What a product of tiles is: operands that lie as the registers of matrix instructions take them, sixteen rows of sixteen
//! words, and the product in plain Rust, which says what the instructions compute. Leaves the instructions to `amx`.
#![expect(unsafe_code, reason = "operands are addressed by pointer")]

use half::bf16;

use super::LANES;
use super::tile::Sums;

/// Words of a tile.
pub(crate) const WORDS: usize = LANES * LANES;
/// Most tiles of columns of [`Gathered`].
pub(crate) const WIDE: usize = 4;
/// Tiles of rows, and of columns, of the product that reads least for its size.
pub(crate) const SQUARE: usize = 2;

/// `sums (+)= a · b` of pairs of bf16, for `(rows, columns)` tiles, up to [`SQUARE`] of both. Rows hold `[steps][rows][16
/// rows][16 words]`, each tile of columns `[steps][16 words][16 columns]`; word `k` of a row meets word `k` of a column. The even
/// numbers of a step and the odd ones are summed on their own, then both, then with the sums of the steps before; numbers too small
/// to be normal count as zero.
pub(crate) struct Pairs {
    pub(crate) rows: *const u32,
    pub(crate) columns: [*const u32; SQUARE],
    pub(crate) steps: usize,
    pub(crate) ahead: Ahead,
    pub(crate) sums: Sums,
}

/// `dots = a · b` of bytes, for `(rows, columns)` tiles, up to [`SQUARE`] of both. Each tile of rows holds `[16 rows][steps · depth]`
/// words of four signed bytes, each of columns `[steps · depth][16 columns]` of unsigned ones; `depth` is sixteen words or fewer.
/// Products are signed words, `[rows][columns][16 rows][16 columns]`.
pub(crate) struct Bytes {
    pub(crate) rows: [*const u32; SQUARE],
    pub(crate) columns: [*const u32; SQUARE],
    pub(crate) depth: usize,
    pub(crate) steps: usize,
    pub(crate) dots: *mut u32,
}

/// What is asked for in advance: at each step `lines` times a line at each of two places and at those `apart` words further on, every
/// time `stride` words beyond the last. The nearest cache waits for few lines at a time, fewer than memory could bring; the
/// second-level cache reads on by itself, in as many streams as it is shown.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    pub(crate) places: [*const u32; 2],
    pub(crate) apart: usize,
    pub(crate) stride: usize,
    pub(crate) lines: usize,
}

/// Lines that are asked for one after the other, see [`Ahead`].
pub(crate) const AT_ONCE: usize = 4;

impl Ahead {
    pub(crate) const NOTHING: Self = Self { places: [std::ptr::null(); 2], apart: 0, stride: 0, lines: 0 };

    /// What is asked for after so many times.
    #[inline(always)]
    pub(crate) fn after(self, times: usize) -> [*const u32; AT_ONCE] {
        let [first, second] = self.places.map(|place| place.wrapping_add(times * self.stride));
        [first, first.wrapping_add(self.apart), second, second.wrapping_add(self.apart)]
    }

    /// As many lines, so many words further on.
    #[inline(always)]
    pub(crate) fn further(self, words: usize) -> Self {
        Self { places: self.places.map(|place| place.wrapping_add(words)), ..self }
    }
}

/// As [`Pairs`], for one tile of rows and up to [`WIDE`] of columns wherever they lie: word `k` of row `i` is `rows[i · row_step +
/// step · depth + k]`, and that of column `c` of tile `j` is `tiles[step · columns + j][k · word_step + c]`.
pub(crate) struct Gathered<'a> {
    pub(crate) rows: *const u32,
    pub(crate) row_step: usize,
    /// `[steps][columns]`.
    pub(crate) tiles: &'a [*const u32],
    pub(crate) columns: usize,
    pub(crate) word_step: usize,
    /// Words of a step.
    pub(crate) depth: usize,
    /// For each tile where as many lines begin that are asked for in advance; or nothing.
    pub(crate) ahead: &'a [*const u32],
    pub(crate) sums: Sums,
}

impl Gathered<'_> {
    /// # Safety
    /// As [`Pairs::multiply_plainly`].
    pub(crate) unsafe fn multiply_plainly(&self) {
        for (i, j) in (0..LANES).flat_map(|i| (0..self.columns * LANES).map(move |j| (i, j))) {
            // SAFETY: inside the extents the caller promised.
            unsafe {
                let sum = self.sums.start.add(i * self.sums.row_step + j);
                let mut total = if self.sums.resume { *sum } else { 0.0 };
                for (step, tiles) in self.tiles.chunks_exact(self.columns).enumerate() {
                    let a = self.rows.add(i * self.row_step + step * self.depth);
                    let b = tiles[j / LANES].add(j % LANES);
                    total += dot(self.depth, |k| (*a.add(k), *b.add(k * self.word_step)));
                }
                *sum = total;
            }
        }
    }
}

/// The dot product of pairs of bf16: the even numbers on their own, and the odd ones.
fn dot(depth: usize, words: impl Fn(usize) -> (u32, u32)) -> f32 {
    let number = |word: u32, odd: usize| bf16::from_bits((word >> (16 * odd)) as u16).to_f32();
    let [even, odd] = [0, 1].map(|odd| {
        (0..depth).map(&words).fold(0.0f32, |sum, (a, b)| number(a, odd).mul_add(number(b, odd), sum))
    });
    even + odd
}

impl Pairs {
    /// # Safety
    /// All words and sums of that extent must be readable, the sums writable, and no one else may use the sums.
    pub(crate) unsafe fn multiply_plainly(&self, (rows, columns): (usize, usize)) {
        for i in 0..rows * LANES {
            for j in 0..columns * LANES {
                // SAFETY: inside the extents the caller promised.
                unsafe {
                    let sum = self.sums.start.add(i * self.sums.row_step + j);
                    let mut total = if self.sums.resume { *sum } else { 0.0 };
                    for step in 0..self.steps {
                        let a = self.rows.add((step * rows * LANES + i) * LANES);
                        let b = self.columns[j / LANES].add(step * WORDS + j % LANES);
                        total += dot(LANES, |k| (*a.add(k), *b.add(k * LANES)));
                    }
                    *sum = total;
                }
            }
        }
    }
}

impl Bytes {
    /// # Safety
    /// All words of that extent must be readable, the products writable, and no one else may use these.
    pub(crate) unsafe fn multiply_plainly(&self, (rows, columns): (usize, usize)) {
        let depth = self.depth * self.steps;
        for (i, j) in (0..rows * LANES).flat_map(|i| (0..columns * LANES).map(move |j| (i, j))) {
            // SAFETY: inside the extents the caller promised.
            unsafe {
                let dot = (0..depth).map(|k| {
                    let a = *self.rows[i / LANES].add(i % LANES * depth + k);
                    let b = *self.columns[j / LANES].add(k * LANES + j % LANES);
                    let products = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
                    products.map(|(a, b)| i32::from(a.cast_signed()) * i32::from(b)).sum::<i32>()
                });
                let tile = self.dots.add((i / LANES * columns + j / LANES) * WORDS);
                *tile.add(i % LANES * LANES + j % LANES) = dot.sum::<i32>().cast_unsigned();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::simd::{Op, Simd, dispatch};

    /// Whatever of bits that are numbers of either kind.
    fn words(seed: u32, len: usize) -> Vec<u32> {
        let word = |i: u32| {
            let bits = (i ^ seed).wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(0x85eb_ca6b);
            // Exponents around that of one.
            bits & 0x81ff_81ff | 0x3e00_3e00
        };
        (0..len as u32).map(word).collect()
    }

    struct Multiplied<'a> {
        shape: (usize, usize),
        operands: &'a (Vec<u32>, [Vec<u32>; SQUARE]),
        sums: &'a mut [f32],
        plainly: bool,
    }

    impl Op for Multiplied<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let (rows, columns) = self.operands;
            for resume in [false, true] {
                let product = Pairs {
                    rows: rows.as_ptr(),
                    columns: columns.each_ref().map(|column| column.as_ptr()),
                    steps: STEPS,
                    ahead: Ahead { places: [rows.as_ptr(); 2], apart: 5, stride: 16, lines: 3 },
                    sums: Sums { start: self.sums.as_mut_ptr(), row_step: ROW_STEP, resume },
                };
                s.begin_tiles([LANES; 2]);
                // SAFETY: operands and sums have the extents of the largest shape.
                unsafe {
                    match self.plainly {
                        true => product.multiply_plainly(self.shape),
                        false => s.multiply_tiles(self.shape, &product),
                    }
                }
                s.end_tiles();
            }
        }
    }

    const STEPS: usize = 5;
    const ROW_STEP: usize = 40;

    #[test]
    fn instructions_for_pairs_are_their_plain_definition() {
        let operands = (words(1, STEPS * SQUARE * WORDS), [2, 3].map(|seed| words(seed, STEPS * WORDS)));
        for shape in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            let [plain, fast] = [true, false].map(|plainly| {
                let mut sums = vec![7.0; SQUARE * LANES * ROW_STEP];
                let isa = if plainly { Isa::Portable } else { Isa::detect() };
                dispatch(isa, Multiplied { shape, operands: &operands, sums: &mut sums, plainly });
                sums
            });
            assert_eq!(plain, fast, "{shape:?}");
            assert!(plain[0] != 7.0 && plain[(shape.0 * LANES - 1) * ROW_STEP + shape.1 * LANES] == 7.0);
        }
    }

    struct Collected<'a> {
        depth: usize,
        columns: usize,
        operands: &'a [Vec<u32>],
        sums: &'a mut [f32],
        plainly: bool,
    }

    impl Op for Collected<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Self { depth, columns, operands, sums, plainly } = self;
            // Tiles back to front, whose words lie further apart than they are wide.
            let tiles: Vec<_> =
                (0..STEPS * columns).rev().map(|i| operands[1][i * LANES..].as_ptr()).collect();
            for resume in [false, true] {
                let product = Gathered {
                    rows: operands[0].as_ptr(),
                    row_step: STEPS * LANES + 3,
                    tiles: &tiles,
                    columns,
                    word_step: STEPS * WIDE * LANES,
                    depth,
                    ahead: if resume { &tiles } else { &[] },
                    sums: Sums { start: sums.as_mut_ptr(), row_step: WIDE * LANES + 5, resume },
                };
                s.begin_tiles([LANES, LANES / 2]);
                // SAFETY: operands and sums have the extents of the deepest and widest.
                unsafe {
                    match plainly {
                        true => product.multiply_plainly(),
                        false => s.multiply_gathered(&product),
                    }
                }
                s.end_tiles();
            }
        }
    }

    #[test]
    fn instructions_for_pairs_anywhere_are_their_plain_definition() {
        let operands = [words(6, LANES * (STEPS * LANES + 3)), words(7, STEPS * WIDE * WORDS)];
        for (depth, columns) in [(8, 1), (8, 4), (16, 1), (16, 2), (16, 3), (16, 4)] {
            let [plain, fast] = [true, false].map(|plainly| {
                let mut sums = vec![7.0; LANES * (WIDE * LANES + 5)];
                let isa = if plainly { Isa::Portable } else { Isa::detect() };
                dispatch(isa, Collected { depth, columns, operands: &operands, sums: &mut sums, plainly });
                sums
            });
            assert_eq!(plain, fast, "{depth} {columns}");
            assert!(plain[0] != 7.0 && plain[columns * LANES] == 7.0);
        }
    }

    struct Dotted<'a> {
        shape: (usize, usize),
        depths: (usize, usize),
        operands: &'a [[Vec<u32>; SQUARE]; 2],
        dots: &'a mut [u32],
        plainly: bool,
    }

    impl Op for Dotted<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let [rows, columns] =
                self.operands.each_ref().map(|tiles| tiles.each_ref().map(|tile| tile.as_ptr()));
            let (depth, steps) = self.depths;
            let product = Bytes { rows, columns, depth, steps, dots: self.dots.as_mut_ptr() };
            s.begin_tiles([depth; 2]);
            // SAFETY: operands are as deep as the deepest, and there is room for the products of a square.
            unsafe {
                match self.plainly {
                    true => product.multiply_plainly(self.shape),
                    false => s.dot_tiles(self.shape, &product),
                }
            }
            s.end_tiles();
        }
    }

    #[test]
    fn instructions_for_bytes_are_their_plain_definition() {
        let noise = |seed| {
            words(seed, 2 * WORDS).iter().map(|word| word.wrapping_mul(0x9e37_79b9)).collect::<Vec<_>>()
        };
        let operands = [[4, 5].map(noise), [6, 7].map(noise)];
        for shape in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            for depths in [(4, 1), (8, 1), (16, 1), (16, 2)] {
                let [plain, fast] = [true, false].map(|plainly| {
                    let mut dots = vec![7; (SQUARE * SQUARE + 1) * WORDS];
                    let isa = if plainly { Isa::Portable } else { Isa::detect() };
                    dispatch(isa, Dotted { shape, depths, operands: &operands, dots: &mut dots, plainly });
                    dots
                });
                assert_eq!(plain, fast, "{shape:?} {depths:?}");
                assert!(plain[shape.0 * shape.1 * WORDS] == 7);
            }
        }
    }
}
