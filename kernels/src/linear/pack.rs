//! From rows as a checkpoint stores them to packed weights: some MiB of tiles a task, every row read once and let go of.
//! Leaves what the layouts are to `packed`.

use std::ops::Range;

use half::bf16;

use super::coded::{Coded, Form, MAX_BLOCK, TileMut};
use super::packed::{Quantised, Values, WeightDtype};
use super::quant;
use crate::buffer::Buffer;
use crate::error::ensure;
use crate::ggml::{Block, BlockKind};
use crate::rows::{for_each_chunk, for_each_row_run};
use crate::simd::{LANES, Op, Simd, dispatch};
use crate::transpose::transpose;
use crate::{KernelError, Pool};

/// Words of a row that are put in their places at a time: those of all rows of a tile stay in the first-level cache.
const BLOCK: usize = 64;
/// Bytes that a task packs at most. Less, and two threads would often ask the system for the same huge page, of which one
/// is then thrown away; more, and spent rows would stay for long.
const TASK_BYTES: usize = 4 << 20;

/// Rows to pack.
pub(super) struct Stored<'a> {
    parts: &'a [Values<'a>],
    in_features: usize,
    /// Rows of each part and those before it.
    ends: Vec<usize>,
    spent: &'a (dyn Fn(usize, Range<usize>) + Sync),
}

impl<'a> Stored<'a> {
    pub(super) fn new(
        parts: &'a [Values<'a>],
        in_features: usize,
        spent: &'a (dyn Fn(usize, Range<usize>) + Sync),
    ) -> Result<Self, KernelError> {
        ensure(in_features > 0, || "a matrix needs at least one input".to_owned())?;
        let (mut ends, mut end) = (Vec::with_capacity(parts.len()), 0);
        for (p, part) in parts.iter().enumerate() {
            ensure(part.len().is_multiple_of(in_features), || {
                format!("part {p} holds {} values, which are not whole rows of {in_features}", part.len())
            })?;
            end += part.len() / in_features;
            ends.push(end);
        }
        Ok(Self { parts, in_features, ends, spent })
    }

    pub(super) fn num_rows(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    fn num_tiles(&self) -> usize {
        self.num_rows().div_ceil(LANES)
    }

    /// The parts that hold `rows`, with the rows of each, counted from its own first.
    fn parts_of(&self, rows: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let first = self.ends.partition_point(|&end| end <= rows.start);
        (first..self.parts.len()).map_while(move |part| {
            let start = part.checked_sub(1).map_or(0, |before| self.ends[before]);
            let of_part = rows.start.max(start)..rows.end.min(self.ends[part]);
            (of_part.start < rows.end)
                .then(|| (part, of_part.start - start..of_part.end.max(of_part.start) - start))
        })
    }

    fn tile(&self, tile: usize) -> Tile<'a> {
        let rows = tile * LANES..self.num_rows().min((tile + 1) * LANES);
        let mut lanes = [Values::F32(&[]); LANES];
        let (mut count, mut in_one_part) = (0, None);
        for (part, of_part) in self.parts_of(rows.clone()) {
            let values = of_part.start * self.in_features..of_part.end * self.in_features;
            if of_part.len() == rows.len() {
                in_one_part = Some(self.parts[part].slice(values));
            }
            for row in of_part {
                lanes[count] = self.parts[part].slice(row * self.in_features..(row + 1) * self.in_features);
                count += 1;
            }
        }
        Tile { lanes, count, in_one_part, width: self.in_features }
    }

    fn tell(&self, tiles: Range<usize>) {
        for (part, rows) in self.parts_of(tiles.start * LANES..self.num_rows().min(tiles.end * LANES)) {
            (self.spent)(part, rows.start * self.in_features..rows.end * self.in_features);
        }
    }

    /// All rows as words: f32, or pairs of bf16.
    pub(super) fn words(&self, pool: &Pool, dtype: WeightDtype) -> Buffer<u32> {
        let depth = if dtype == WeightDtype::F32 { self.in_features } else { self.in_features.div_ceil(2) };
        let (num_tiles, per_tile) = (self.num_tiles(), depth * LANES);
        let most = num_tiles.div_ceil(4 * pool.num_threads());
        let per_task = (TASK_BYTES / (per_tile * size_of::<u32>())).min(most).max(1);
        let mut words = Buffer::streamed(num_tiles * per_tile);
        for_each_chunk(pool, true, &mut words, per_task * per_tile, |task, words| {
            let first = task * per_task;
            for (index, out) in words.chunks_mut(per_tile).enumerate() {
                dispatch(pool.isa(), FillWords { tile: &self.tile(first + index), dtype, depth, out });
            }
            self.tell(first..first + words.len() / per_tile);
        });
        words
    }

    /// All rows as NF4, two codes to a byte.
    pub(super) fn quantised(&self, pool: &Pool) -> Quantised {
        let num_tiles = self.num_tiles();
        let codes_per_tile = self.in_features.div_ceil(2) * LANES;
        let scales_per_tile = self.in_features.div_ceil(quant::BLOCK) * LANES;
        let mut codes = Buffer::streamed(num_tiles * codes_per_tile);
        let mut scales = Buffer::zeroed(num_tiles * scales_per_tile);
        let (all_codes, all_scales): (&mut [u8], &mut [f32]) = (&mut codes, &mut scales);
        let (codes_of, scales_of) = ((all_codes, codes_per_tile), (all_scales, scales_per_tile));
        self.for_each_tile(pool, codes_of, scales_of, |tile, codes, scales| {
            dispatch(pool.isa(), FillNf4 { tile, codes, scales });
        });
        Quantised { codes, scales }
    }

    /// All rows as codes of this form: those of their blocks, or, if they are numbers, made here.
    pub(super) fn coded(&self, pool: &Pool, form: Form) -> Coded {
        let mut coded = Coded::zeroed(form, self.num_tiles(), self.in_features);
        let (codes_per_tile, scales_per_tile) = coded.per_tile();
        let (codes, scales) = coded.parts_mut();
        let (codes, scales) = ((codes, codes_per_tile), (scales, scales_per_tile));
        self.for_each_tile(pool, codes, scales, |tile, codes, scales| {
            let out = TileMut::new(form, self.in_features, codes, scales);
            dispatch(pool.isa(), FillCoded { tile, out });
        });
        coded
    }

    /// Runs `fill(tile, its codes, its scales)` for all tiles.
    fn for_each_tile<T: Send, U: Send>(
        &self,
        pool: &Pool,
        codes: (&mut [T], usize),
        scales: (&mut [U], usize),
        fill: impl Fn(&Tile<'_>, &mut [T], &mut [U]) + Sync,
    ) {
        let (per_tile, scales_per_tile) = (codes.1, scales.1);
        for_each_row_run(pool, true, codes, scales, |first, codes, scales| {
            let tiles = codes.chunks_mut(per_tile).zip(scales.chunks_mut(scales_per_tile));
            for (index, (codes, scales)) in tiles.enumerate() {
                fill(&self.tile(first + index), codes, scales);
            }
            self.tell(first..first + codes.len() / per_tile);
        });
    }
}

impl Values<'_> {
    /// How many.
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::Blocks(kind, bytes) => bytes.len() / kind.num_bytes() * kind.num_values(),
        }
    }

    /// Values `range`, of blocks whole ones.
    fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::F32(values) => Self::F32(&values[range]),
            Self::Bf16(values) => Self::Bf16(&values[range]),
            Self::Blocks(kind, bytes) => {
                let byte = |value: usize| value / kind.num_values() * kind.num_bytes();
                Self::Blocks(*kind, &bytes[byte(range.start)..byte(range.end)])
            }
        }
    }

    /// Values `from..from + out.len()` in single precision; not of blocks, which nobody asks for numbers.
    #[inline(always)]
    fn read(&self, from: usize, out: &mut [f32]) {
        match self {
            Self::F32(values) => out.copy_from_slice(&values[from..from + out.len()]),
            Self::Bf16(values) => out.iter_mut().zip(&values[from..]).for_each(|(out, x)| *out = x.to_f32()),
            Self::Blocks(..) => {}
        }
    }
}

/// The rows of a tile.
struct Tile<'a> {
    lanes: [Values<'a>; LANES],
    /// Fewer in the last tile.
    count: usize,
    /// All of them together, if they lie together.
    in_one_part: Option<Values<'a>>,
    /// Values of a row.
    width: usize,
}

impl<'a> Tile<'a> {
    /// All rows as the words that are wanted, if that is what they are already.
    fn words(&self, dtype: WeightDtype) -> Option<&'a [u32]> {
        match (self.in_one_part?, dtype) {
            (Values::F32(values), WeightDtype::F32) => Some(bytemuck::cast_slice(values)),
            // An odd row would end in half a word, and a slice may begin in the middle of one.
            (Values::Bf16(values), WeightDtype::Bf16) if self.width.is_multiple_of(2) => {
                bytemuck::try_cast_slice(values).ok()
            }
            _ => None,
        }
    }
}

/// A tile as words `[depth][LANES]`.
struct FillWords<'a> {
    tile: &'a Tile<'a>,
    dtype: WeightDtype,
    depth: usize,
    out: &'a mut [u32],
}

impl Op for FillWords<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { tile, dtype, depth, out } = self;
        let (words, mut made) = (tile.words(dtype), [0; LANES * BLOCK]);
        for (block, out) in out.chunks_mut(BLOCK * LANES).enumerate() {
            let (first, count) = (block * BLOCK, out.len() / LANES);
            let (rows, stride) = match words {
                Some(words) => (&words[first..], depth),
                None => {
                    for (row, words) in tile.lanes[..tile.count].iter().zip(made.chunks_mut(BLOCK)) {
                        make_words(row, dtype, first, &mut words[..count]);
                    }
                    (&made[..], BLOCK)
                }
            };
            let (rows, out) = (bytemuck::cast_slice(rows), bytemuck::cast_slice_mut(out));
            transpose(rows, stride, (tile.count, count), out, LANES);
        }
    }
}

/// The words of a row from word `first` on.
#[inline(always)]
fn make_words(row: &Values<'_>, dtype: WeightDtype, first: usize, out: &mut [u32]) {
    let pair = |low: bf16, high: bf16| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
    let out = out.iter_mut();
    match (row, dtype) {
        (Values::F32(row), WeightDtype::F32) => {
            out.zip(&row[first..]).for_each(|(out, x)| *out = x.to_bits());
        }
        (Values::Bf16(row), WeightDtype::F32) => {
            out.zip(&row[first..]).for_each(|(out, x)| *out = x.to_f32().to_bits());
        }
        (Values::F32(row), _) => {
            out.zip(row[2 * first..].chunks(2)).for_each(|(out, x)| {
                *out = pair(bf16::from_f32(x[0]), bf16::from_f32(x.get(1).copied().unwrap_or(0.0)));
            });
        }
        (Values::Blocks(..), _) => {}
        (Values::Bf16(row), _) => {
            out.zip(row[2 * first..].chunks(2)).for_each(|(out, x)| {
                *out = pair(x[0], x.get(1).copied().unwrap_or(bf16::ZERO));
            });
        }
    }
}

/// A tile as codes `[depth / 2][LANES]` and scales `[blocks][LANES]`; both hold zeros before.
struct FillNf4<'a> {
    tile: &'a Tile<'a>,
    codes: &'a mut [u8],
    scales: &'a mut [f32],
}

impl Op for FillNf4<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let mut values = [0.0; quant::BLOCK];
        let per_block = quant::BLOCK / 2 * LANES;
        let blocks = self.codes.chunks_mut(per_block).zip(self.scales.chunks_mut(LANES));
        for (block, (codes, scales)) in blocks.enumerate() {
            let first = block * quant::BLOCK;
            let values = &mut values[..quant::BLOCK.min(self.tile.width - first)];
            for (lane, row) in self.tile.lanes[..self.tile.count].iter().enumerate() {
                row.read(first, values);
                scales[lane] = quant::nf4_scale(values);
                let code = |x: Option<&f32>| x.map_or(0, |x| quant::nf4_code(*x, scales[lane]));
                codes[lane..]
                    .iter_mut()
                    .step_by(LANES)
                    .zip(values.chunks(2))
                    .for_each(|(place, x)| *place = code(x.first()) | code(x.get(1)) << 4);
            }
        }
    }
}

/// A tile as codes and their scales; it holds zeros before.
struct FillCoded<'a> {
    tile: &'a Tile<'a>,
    out: TileMut<'a>,
}

impl Op for FillCoded<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { tile, mut out } = self;
        for (lane, row) in tile.lanes[..tile.count].iter().enumerate() {
            match row {
                Values::Blocks(kind, bytes) => fill_blocks(*kind, bytes, &mut out, lane),
                numbers => fill_int8(numbers, tile.width, &mut out, lane),
            }
        }
    }
}

/// A row of numbers as codes of eight bits.
#[inline(always)]
fn fill_int8(row: &Values<'_>, width: usize, out: &mut TileMut<'_>, lane: usize) {
    let (mut values, mut codes) = ([0.0; MAX_BLOCK], [0; MAX_BLOCK]);
    for block in 0..width.div_ceil(MAX_BLOCK) {
        let first = block * MAX_BLOCK;
        let count = MAX_BLOCK.min(width - first);
        let (values, codes) = (&mut values[..count], &mut codes[..count]);
        row.read(first, values);
        let half = quant::int8_scale(values);
        let scale = half.to_f32();
        codes.iter_mut().zip(&*values).for_each(|(code, x)| *code = quant::int8_code(*x, scale));
        out.set_codes(block, lane, codes);
        out.set_factor(0, block, lane, half.to_bits());
    }
}

/// A row of blocks as they are.
#[inline(always)]
fn fill_blocks(kind: BlockKind, bytes: &[u8], out: &mut TileMut<'_>, lane: usize) {
    let (form, mut block) = (kind.form(), Block::default());
    let groups = kind.num_values() / form.block;
    for (index, bytes) in bytes.chunks_exact(kind.num_bytes()).enumerate() {
        block.read(kind, bytes);
        for level in 0..form.levels() {
            out.set_factor(level, index * groups, lane, block.factors[level]);
        }
        for (group, codes) in block.codes[..kind.num_values()].chunks_exact(form.block).enumerate() {
            out.set_codes(index * groups + group, lane, codes);
            if form.blocks_per_factor > 1 {
                for level in 0..form.levels() {
                    out.set_part(level, index * groups + group, lane, block.parts[level][group]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::PackedLinear;

    #[test]
    fn every_value_is_spent_once_and_only_after_it_was_read() {
        let pool = Pool::new(3).unwrap();
        let width = 70;
        let values: Vec<f32> = (0..width * 150).map(|i| i as f32).collect();
        let halves: Vec<bf16> = values.iter().map(|x| bf16::from_f32(*x)).collect();
        // Borders of parts in the middle of tiles, and a part without rows.
        let cuts = [0, 5 * width, 5 * width, 37 * width, 150 * width];
        let parts: Vec<Values<'_>> = (0..4)
            .map(|p| match p {
                0 => Values::F32(&values[cuts[p]..cuts[p + 1]]),
                _ => Values::Bf16(&halves[cuts[p]..cuts[p + 1]]),
            })
            .collect();
        for dtype in [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::Int8, WeightDtype::Nf4] {
            let spent = Mutex::new(vec![0; values.len()]);
            let told = |part: usize, range: Range<usize>| {
                let all = cuts[part] + range.start..cuts[part] + range.end;
                spent.lock().unwrap()[all].iter_mut().for_each(|times| *times += 1);
            };
            let packed = PackedLinear::pack_and_tell(&pool, &parts, width, dtype, &told).unwrap();
            assert_eq!(packed.out_features(), 150);
            assert!(spent.into_inner().unwrap().iter().all(|&times| times == 1), "{dtype:?}");
            let same = PackedLinear::pack(&pool, &parts, width, dtype).unwrap();
            assert_eq!(packed.unpack(), same.unpack());
        }
    }
}
