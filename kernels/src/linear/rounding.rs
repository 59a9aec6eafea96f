//! Activations in eight bits, for products with codes: each block of inputs as bytes and what they are multiples of.
//! Leaves the product to `bytes`.
//!
//! As ggml does for its `Q8_0`: the largest magnitude of a block becomes 127, and the scale is kept in half precision.

use half::f16;

use super::coded::{Form, MAX_BLOCK};
use super::panels::{MAX_PANEL_ROWS, side_by_side};
use crate::Rows;
use crate::simd::{LANES, Op, Simd, padded};

/// Words beside the codes of a row's block: the scale, and what makes up for the offset or the minimum of the weights.
pub(super) const EXTRA: usize = 2;

/// Writes blocks of rows as a panel: for each block `[quads][rows]` words of four bytes, or `[quads][2][rows]` words of the inputs 0
/// and 2 and of 1 and 3 of each in sixteen bits ([`Form::quad_words`]), `[rows]` scales, and `[rows]` words that sums start
/// from: minus the offset of the weights' codes times the sum of the bytes, or, if blocks of weights have a minimum, minus the
/// scale times the sum of the bytes as f32, to be multiplied by it. A tile holds `[16 rows][quads]` words of four bytes, sixteen
/// scales and sixteen such words instead; those of rows it lacks may be anything.
pub(super) struct RoundRows<'a> {
    pub(super) x: Rows<'a>,
    pub(super) width: usize,
    pub(super) first_row: usize,
    pub(super) rows: usize,
    /// The first block of those that are written.
    pub(super) first: usize,
    pub(super) form: Form,
    pub(super) is_tile: bool,
    pub(super) words: &'a mut [u32],
}

impl Op for RoundRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, width, first_row, rows, first, form, is_tile, words } = self;
        let height = if is_tile { LANES } else { rows };
        let (block, quads) = (form.block, form.quads());
        let quad_words = form.quad_words::<S>();
        let per_row = quads * quad_words;
        let mut lines = [[0; MAX_BLOCK / 2]; MAX_PANEL_ROWS];
        for (index, words) in words.chunks_exact_mut((per_row + EXTRA) * height).enumerate() {
            let (of_quads, extra) = words.split_at_mut(per_row * height);
            for (i, line) in lines.iter_mut().enumerate().take(rows) {
                let start = (first + index) * block;
                let row = &x.row(first_row + i, width)[start..width.min(start + block)];
                let mut filled = [[0.0; LANES]; MAX_BLOCK / LANES];
                let values = if row.len() == block {
                    row.as_chunks().0
                } else {
                    for (values, row) in filled.iter_mut().zip(row.chunks(LANES)) {
                        *values = padded(row, 0.0);
                    }
                    &filled[..block / LANES]
                };
                let (scale, sum, bytes) = round(s, values);
                let bytes = bytes.as_flattened().as_chunks::<4>().0;
                let words = bytes.iter().map(|bytes| u32::from_le_bytes(bytes.map(i8::cast_unsigned)));
                if quad_words == 1 {
                    line.iter_mut().zip(words).for_each(|(line, word)| *line = word);
                } else {
                    for (line, word) in line.as_chunks_mut().0.iter_mut().zip(words) {
                        *line = [even_bytes(word), even_bytes(word >> 8)];
                    }
                }
                extra[i] = scale.to_bits();
                extra[height + i] = match form.has_minimum {
                    true => (-scale * sum as f32).to_bits(),
                    false => (-i32::from(form.offset) * sum).cast_unsigned(),
                };
            }
            if is_tile {
                for (line, words) in lines.iter().zip(of_quads.chunks_exact_mut(per_row)).take(rows) {
                    words.copy_from_slice(&line[..per_row]);
                }
            } else {
                side_by_side(lines.as_flattened(), MAX_BLOCK / 2, rows, of_quads);
            }
        }
    }
}

/// The bytes 0 and 2 of a word as signed numbers of sixteen bits.
#[inline(always)]
fn even_bytes(word: u32) -> u32 {
    let bytes = word & 0x00ff_00ff;
    // Where a byte's sign is set, eight ones above it.
    let signs = bytes & 0x0080_0080;
    bytes | (signs << 9).wrapping_sub(signs << 1)
}

/// A block as a scale, the sum of its bytes, and the bytes.
#[inline(always)]
fn round<S: Simd>(s: S, values: &[[f32; LANES]]) -> (f32, i32, [[i8; LANES]; MAX_BLOCK / LANES]) {
    let mut largest = s.splat(0.0);
    for values in values {
        let values = s.load(values);
        largest = s.max(s.max(values, s.sub(s.splat(0.0), values)), largest);
    }
    let scale = s.largest(largest) / 127.0;
    let inverse = s.splat(if scale > 0.0 { 1.0 / scale } else { 0.0 });
    let mut bytes = [[0; LANES]; MAX_BLOCK / LANES];
    let mut sum = s.splat(0.0);
    for (values, bytes) in values.iter().zip(&mut bytes) {
        let rounded = s.round(s.mul(s.load(values), inverse));
        // A scale below the smallest normal number has no inverse; a block of infinities is nothing that could be kept.
        let rounded = s.min(s.max(rounded, s.splat(-127.0)), s.splat(127.0));
        s.to_bytes(rounded, bytes);
        sum = s.add(sum, rounded);
    }
    // Whole numbers, so that every order gives this sum.
    let sum = s.sum(sum) as i32;
    let half = f16::from_f32(scale);
    (if half.is_finite() { half.to_f32() } else { scale }, sum, bytes)
}
