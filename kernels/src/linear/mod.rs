//! `x Wᵀ` over packed weights. Leaves the layouts to `packed` and `panels` and the innermost loop to `simd::tile`.
//!
//! Outputs are cut into stripes of a few column tiles. A thread takes some stripes of some rows at a time; it walks the inputs in
//! chunks whose weights stay in the first-level cache while all panels of these rows pass over them. Sums resume from
//! chunk to chunk, so that every output is summed in the order of its inputs whatever the number of rows.
#![expect(unsafe_code, reason = "tasks write different columns of the same rows")]

mod byte_tile;
mod bytes;
mod code_tiles;
mod coded;
mod finish;
mod gate;
mod pack;
mod packed;
mod panels;
mod quant;
mod reading;
mod rounding;
mod shares;
mod source;
mod tiles;
mod widen;

pub(crate) use coded::Form;
pub use gate::{GatedMlp, gated_linear, gated_mlp};
pub use packed::{PackedLinear, WeightDtype};
pub use source::{Scratch, Source, Values};

use std::cell::RefCell;
use std::ops::Range;

use crate::buffer::Buffer;
use crate::error::check_len;
use crate::simd::tile::{Layout, MAX_COLUMNS, Multiply, Operands, Sums};
use crate::simd::{LANES, Op, Simd, dispatch};
use crate::{Activation, KernelError, Pool, Rows, RowsMut};
use finish::Outputs;
pub(crate) use packed::Storage;
use panels::Panels;
use reading::{Reading, WIDE, wide_inputs};
use shares::{Run, Share, Shares};
pub(crate) use widen::Widen;

/// Bytes of activations a task keeps in the second-level cache.
const ROWS_BYTES: usize = 1 << 20;
/// Multiplications below which a second thread costs more than it brings.
const PARALLEL_WORK: usize = 1 << 18;
/// Bytes of weights below which a second thread costs more than it brings.
const PARALLEL_BYTES: usize = 1 << 17;
/// Outputs of a row that are written at once: rows lie pages apart.
const RUN: usize = 128;
/// Bytes of sums a task keeps until it writes them, in the first-level cache.
const SUMS_BYTES: usize = 1 << 15;
/// Words asked for in advance when weights are read once: as far as memory is away.
const AHEAD: usize = 256;

thread_local! {
    /// Sums of the rows and stripe in hand.
    static SUMS: RefCell<Buffer<f32>> = RefCell::default();
    /// Weights of the chunk in hand as f32.
    static WIDENED: RefCell<Buffer<f32>> = RefCell::default();
    /// Packed activations of the call in hand; kept for the next.
    static PANELS: RefCell<Buffer<u32>> = RefCell::default();
    /// Runs of the call in hand.
    static RUNS: RefCell<Vec<Run>> = RefCell::default();
}

/// What happens to a product: `out = (accumulate ? out : 0) + scale · (x Wᵀ) + bias`.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// `[out_features]`.
    pub bias: Option<&'a [f32]>,
    /// Factor of the product.
    pub scale: f32,
    /// Add to what `out` holds.
    pub accumulate: bool,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { bias: None, scale: 1.0, accumulate: false }
    }
}

/// `out = (accumulate ? out : 0) + scale · (x Wᵀ) + bias`: `x` is `[num_rows, in_features]`, `out` `[num_rows,
/// out_features]`.
///
/// Sums are kept in f32 and taken in the order of the inputs for every number of rows. With bf16 weights `x` is first
/// rounded to bf16, with codes ([`WeightDtype::Int8`], [`WeightDtype::Blocks`]) to eight bits, by blocks of inputs; NF4 is
/// multiplied as the f32 it stands for.
///
/// # Errors
/// [`KernelError`] if a slice is too short for its shape.
pub fn linear(
    pool: &Pool,
    x: Rows<'_>,
    num_rows: usize,
    w: &PackedLinear,
    epilogue: &Epilogue<'_>,
    out: RowsMut<'_>,
) -> Result<(), KernelError> {
    out.check("out", num_rows, w.out_features())?;
    check_operands(x, num_rows, w, epilogue.bias)?;
    if let Storage::Stacked(parts) = w.storage() {
        return stacked(pool, x, num_rows, parts, epilogue, out);
    }
    multiply(pool, x, num_rows, w, epilogue, None, Outputs::rows(out));
    Ok(())
}

/// That there are so many rows, and a bias for each output if there is one.
fn check_operands(
    x: Rows<'_>,
    num_rows: usize,
    w: &PackedLinear,
    bias: Option<&[f32]>,
) -> Result<(), KernelError> {
    x.check("x", num_rows, w.in_features())?;
    bias.map_or(Ok(()), |bias| check_len("bias", bias.len(), w.out_features()))
}

/// [`linear`], or [`gated_linear`] of what can be gated as it is written, of operands that were checked.
fn multiply(
    pool: &Pool,
    x: Rows<'_>,
    num_rows: usize,
    w: &PackedLinear,
    epilogue: &Epilogue<'_>,
    gate: Option<Activation>,
    out: Outputs<'_>,
) {
    if num_rows == 0 || w.out_features() == 0 {
        return;
    }
    // Taken, not borrowed: a task that calls `linear` again on this thread gets its own.
    let mut words = PANELS.take();
    let panels = Panels::new(pool, num_rows, w);
    panels.fill(pool, x, w.in_features(), &mut words);
    multiply_panels(pool, &Product { panels: &panels, words: &words, w, epilogue, gate, out });
    PANELS.set(words);
}

/// A product of rows that are packed.
fn multiply_panels(pool: &Pool, product: &Product<'_>) {
    let Product { panels, w, gate, .. } = *product;
    let depth = panels.depth / panels.ratio;
    let parts = if gate.is_some() { 2 } else { 1 };
    let num_tiles = w.out_features().div_ceil(LANES) / parts;
    let num_blocks = panels.num_blocks(ROWS_BYTES);
    let weights = parts * num_tiles * LANES * depth;
    let parallel = panels.num_rows * weights > PARALLEL_WORK || weights * 4 > PARALLEL_BYTES;
    let num_threads = if parallel { pool.num_threads() } else { 1 };
    let mut runs = RUNS.take();
    let shares = Shares::new(&mut runs, num_threads, num_tiles.div_ceil(panels.stripe), num_blocks);
    pool.run_if(parallel, shares.count(), |own| {
        while let Some(Share { block, stripes, continues }) = shares.next(own) {
            let tiles = stripes.start * panels.stripe..num_tiles.min(stripes.end * panels.stripe);
            let panels = panels.block(block, num_blocks);
            dispatch(pool.isa(), Part { product, tiles, continues, panels });
        }
    });
    RUNS.set(runs);
}

/// [`linear`] of matrices one below the other.
fn stacked(
    pool: &Pool,
    x: Rows<'_>,
    num_rows: usize,
    parts: &[PackedLinear],
    epilogue: &Epilogue<'_>,
    out: RowsMut<'_>,
) -> Result<(), KernelError> {
    let mut first = 0;
    for w in parts {
        let rows = first..first + w.out_features();
        let epilogue = Epilogue { bias: epilogue.bias.map(|bias| &bias[rows.clone()]), ..*epilogue };
        let out = RowsMut { data: &mut *out.data, stride: out.stride, column: out.column + first };
        linear(pool, x, num_rows, w, &epilogue, out)?;
        first = rows.end;
    }
    Ok(())
}

/// One call's operands.
struct Product<'a> {
    panels: &'a Panels,
    words: &'a [u32],
    w: &'a PackedLinear,
    epilogue: &'a Epilogue<'a>,
    /// The first half of the outputs gates the second.
    gate: Option<Activation>,
    out: Outputs<'a>,
}

/// What a thread takes of a product: some column tiles, and of gated outputs those that they gate, for some panels of rows.
struct Part<'a> {
    product: &'a Product<'a>,
    tiles: Range<usize>,
    /// The tiles after these are most likely the thread's next.
    continues: bool,
    panels: Range<usize>,
}

/// Column tiles side by side, which a tile of products takes.
#[derive(Clone, Copy)]
struct Stripe {
    first: usize,
    columns: usize,
    /// How many tiles further on the thread's next stripe begins, if it is likely to have one.
    next: Option<isize>,
}

impl Stripe {
    /// How many tiles further on most likely follows what is read next.
    fn next(self) -> isize {
        self.next.unwrap_or(self.columns as isize)
    }
}

impl Op for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if S::HAS_TILES && self.product.panels.are_tiles {
            self.multiply_tiles(s);
        } else {
            self.multiply_stripes(s);
        }
        self.product.end(s);
    }
}

impl Part<'_> {
    /// The outputs of the part, some stripes at a time.
    #[inline(always)]
    fn multiply_stripes<S: Simd>(&self, s: S) {
        let Product { panels, w, gate, .. } = *self.product;
        let (stripe, num_rows) = (panels.stripe, panels.height(self.panels.clone()));
        // Runs of outputs lie side by side among the sums, and of each the stripes of gates before those of what they gate.
        let gated = if gate.is_some() { w.out_features() / 2 / LANES } else { 0 };
        let parts: &[usize] = if gate.is_some() { &[0, gated] } else { &[0] };
        let width = stripe * LANES * parts.len();
        let group = (SUMS_BYTES / (4 * num_rows * width)).clamp(1, RUN.div_ceil(width));
        let (half, run) = (group * stripe * LANES, group * width);
        // Not `with_borrow`: a closure would be compiled without the instruction set.
        let mut sums = SUMS.take();
        sums.resize(num_rows * run);
        let mut widened = WIDENED.take();
        widened.resize(WIDE);
        for start in self.tiles.clone().step_by(group * stripe) {
            let tiles = start..self.tiles.end.min(start + group * stripe);
            for (part, &offset) in parts.iter().enumerate() {
                for first in tiles.clone().step_by(stripe) {
                    let end = tiles.end.min(first + stripe);
                    let next = match end < tiles.end {
                        true => Some(offset + end),
                        false if part + 1 < parts.len() => Some(parts[part + 1] + tiles.start),
                        false => (end < self.tiles.end || self.continues).then_some(end),
                    };
                    let next = next.map(|next| next as isize - (offset + first) as isize);
                    let stripe = Stripe { first: offset + first, columns: end - first, next };
                    let sums = &mut sums[part * half + (first - tiles.start) * LANES..];
                    match w.storage() {
                        Storage::Coded(codes, _) => self.coded_stripe(s, codes, stripe, (sums, run)),
                        _ => self.stripe(s, stripe, (sums, run), &mut widened),
                    }
                }
            }
            for panel in self.panels.clone() {
                let row = panels.first_row(panel) - panels.first_row(self.panels.start);
                self.finish(s, tiles.clone(), panel, (&sums[row * run..], half, run));
            }
        }
        SUMS.set(sums);
        WIDENED.set(widened);
    }

    /// Sums of a stripe for all rows of the part, which begin `run` apart.
    #[inline(always)]
    fn stripe<S: Simd>(&self, s: S, stripe: Stripe, (sums, run): (&mut [f32], usize), widened: &mut [f32]) {
        let Product { panels, words, w, .. } = self.product;
        let Stripe { first, columns, .. } = stripe;
        let depth = panels.depth / panels.ratio;
        let num_panels = self.panels.len();
        let Some(Reading { weights, step, chunk, words: kind, widen }) =
            Reading::new(w, depth, columns, num_panels, panels.are_halves())
        else {
            return;
        };
        let tile_len = depth * step;
        let first_row = panels.first_row(self.panels.start);
        let mut k = 0;
        while k < depth {
            let len = chunk.min(depth - k);
            let mut tiles = [weights; MAX_COLUMNS];
            for (j, tile) in tiles.iter_mut().enumerate().take(columns) {
                *tile = weights.wrapping_add((first + j) * tile_len + k * step);
            }
            // Read once, weights are asked for a little in advance. Else all panels together ask for the next chunk, or
            // for the first of the next stripe, so that memory is at work as long as the multipliers are.
            let ahead = match num_panels {
                1 => AHEAD as isize,
                _ if k + len < depth => (len * step) as isize,
                _ => stripe.next() * tile_len as isize - (k * step) as isize,
            };
            let share = if num_panels == 1 { 0 } else { (len * step).div_ceil(num_panels) };
            let next = tiles.map(|tile| tile.wrapping_offset(ahead));
            let mut steps = len;
            if widen {
                let inputs = k * panels.ratio..(k + len) * panels.ratio;
                let wide = widened.chunks_exact_mut(wide_inputs(columns) * LANES);
                for (j, wide) in wide.enumerate().take(columns) {
                    Widen { w, tile: first + j, inputs: inputs.clone(), out: wide }.run(s);
                    tiles[j] = wide.as_ptr().cast();
                }
                steps = inputs.len();
            }
            for (index, p) in self.panels.clone().enumerate() {
                let (row, rows) = (panels.first_row(p), panels.num_rows(p));
                let layout = Layout::Packed {
                    next: next.map(|tile| tile.wrapping_add(index * share)),
                    step: step.div_ceil(num_panels),
                };
                let start = words[row * panels.words + k * panels.ratio * rows..].as_ptr();
                let sums = &mut sums[(row - first_row) * run..][..(rows - 1) * run + columns * LANES];
                // SAFETY: the panel holds `rows` words at each of its steps, `ratio` steps for each word of weights; a
                // tile of weights holds `len` steps, or `ratio` as many turned into f32; the sums are as long as sliced.
                let product = unsafe {
                    Multiply::new(
                        (rows, columns),
                        steps,
                        Operands { rows: start, tiles, words: kind, layout },
                        Sums { start: sums.as_mut_ptr(), row_step: run, resume: k > 0 },
                    )
                };
                dispatch(S::ISA, product);
            }
            k += len;
        }
    }
}

#[cfg(test)]
mod tests;
