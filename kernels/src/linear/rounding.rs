//! Activations in eight bits, for products with codes: each block of inputs as bytes and what they are multiples of.
//! Leaves the product to `bytes`.
//!
//! As ggml does for its `Q8_0`: the largest magnitude of a block becomes 127, and the scale is kept in half precision.

use super::coded::{Form, MAX_BLOCK};
use super::panels::{MAX_PANEL_ROWS, side_by_side};
use crate::Rows;
use crate::simd::{LANES, Op, Simd, padded};

/// Words beside the codes of a row's block: the scale, and what makes up for the offset or the minimum of the weights.
pub(super) const EXTRA: usize = 2;

/// A word added to the bits of this number is added to the number, if it is an integer from `-2^22` to `2^22`: so products of tiles
/// become f32.
pub(super) const BASE: f32 = 12_582_912.0;

/// Writes blocks of rows as a panel: for each block `[quads][rows]` words of four bytes, or `[quads][2][rows]` words of the inputs 0
/// and 2 and of 1 and 3 of each in sixteen bits ([`Form::quad_words`]), `[rows]` scales, and `[rows]` words that sums start
/// from: minus the offset of the weights' codes times the sum of the bytes, or, if blocks of weights have a minimum, minus the
/// scale times the sum of the bytes as f32, to be multiplied by it. A tile holds `[16 rows][quads]` words of four bytes, sixteen
/// scales and sixteen such words instead, those that sums start from added to the bits of [`BASE`]; of rows it lacks they may be
/// anything.
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
        let base = if is_tile { BASE.to_bits() } else { 0 };
        let mut lines = [[0; MAX_BLOCK / 2]; MAX_PANEL_ROWS];
        // Of the last block, which lacks as much in every row.
        let mut padding = [[0.0; LANES]; MAX_BLOCK / LANES];
        for (index, words) in words.chunks_exact_mut((per_row + EXTRA) * height).enumerate() {
            let (of_quads, extra) = words.split_at_mut(per_row * height);
            let start = (first + index) * block;
            let values = |i| &x.row(first_row + i, width)[start..width.min(start + block)];
            let mut largest = [0.0; LANES];
            for (i, largest) in largest.iter_mut().enumerate().take(rows) {
                *largest = magnitude(s, blocks_of(values(i), block, &mut padding));
            }
            // Of all rows at once.
            let scale = s.div(s.load(&largest), s.splat(127.0));
            let mut inverse = [0.0; LANES];
            s.store(s.keep_above(s.div(s.splat(1.0), scale), scale, s.splat(0.0)), &mut inverse);
            let (mut half, mut scales, mut exact) = ([0; LANES], [0.0; LANES], [0.0; LANES]);
            s.to_halves(scale, &mut half);
            s.store(s.widen_halves(s.load_words(&half.map(u32::from)))[0], &mut scales);
            s.store(scale, &mut exact);
            for i in 0..rows {
                let scale = if scales[i].is_finite() { scales[i] } else { exact[i] };
                let (sum, bytes) = round(s, blocks_of(values(i), block, &mut padding), inverse[i]);
                let bytes: &[u32] = bytemuck::cast_slice(bytes.as_flattened());
                let line = match is_tile {
                    true => &mut of_quads[i * per_row..][..per_row],
                    false => &mut lines[i][..per_row],
                };
                if quad_words == 1 {
                    line.copy_from_slice(&bytes[..per_row]);
                } else {
                    for (line, word) in line.as_chunks_mut().0.iter_mut().zip(bytes) {
                        *line = [even_bytes(*word), even_bytes(word >> 8)];
                    }
                }
                extra[i] = scale.to_bits();
                extra[height + i] = match form.has_minimum {
                    true => (-scale * sum as f32).to_bits(),
                    false => (-i32::from(form.offset) * sum).cast_unsigned().wrapping_add(base),
                };
            }
            if !is_tile {
                side_by_side(lines.as_flattened(), MAX_BLOCK / 2, rows, of_quads);
            }
        }
    }
}

/// The values of a block sixteen by sixteen; of those that are missing zeros.
#[inline(always)]
fn blocks_of<'a>(values: &'a [f32], block: usize, padding: &'a mut [[f32; LANES]]) -> &'a [[f32; LANES]] {
    if values.len() == block {
        return values.as_chunks().0;
    }
    for (padded_to, values) in padding.iter_mut().zip(values.chunks(LANES)) {
        *padded_to = padded(values, 0.0);
    }
    &padding[..block / LANES]
}

/// The bytes 0 and 2 of a word as signed numbers of sixteen bits.
#[inline(always)]
fn even_bytes(word: u32) -> u32 {
    let bytes = word & 0x00ff_00ff;
    // Where a byte's sign is set, eight ones above it.
    let signs = bytes & 0x0080_0080;
    bytes | (signs << 9).wrapping_sub(signs << 1)
}

/// The largest magnitude of a block.
#[inline(always)]
fn magnitude<S: Simd>(s: S, values: &[[f32; LANES]]) -> f32 {
    let mut largest = s.splat(0.0);
    for values in values {
        let values = s.load(values);
        largest = s.max(s.max(values, s.sub(s.splat(0.0), values)), largest);
    }
    s.largest(largest)
}

/// A block as bytes, and their sum.
#[inline(always)]
fn round<S: Simd>(s: S, values: &[[f32; LANES]], inverse: f32) -> (i32, [[i8; LANES]; MAX_BLOCK / LANES]) {
    let mut bytes = [[0; LANES]; MAX_BLOCK / LANES];
    let mut sum = s.splat(0.0);
    for (values, bytes) in values.iter().zip(&mut bytes) {
        let rounded = s.round(s.mul(s.load(values), s.splat(inverse)));
        // A scale below the smallest normal number has no inverse; a block of infinities is nothing that could be kept.
        let rounded = s.min(s.max(rounded, s.splat(-127.0)), s.splat(127.0));
        s.to_bytes(rounded, bytes);
        sum = s.add(sum, rounded);
    }
    // Whole numbers, so that every order gives this sum.
    (s.sum(sum) as i32, bytes)
}
