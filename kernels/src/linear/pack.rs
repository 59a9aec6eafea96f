//! From rows as a checkpoint stores them to packed weights: some MiB of tiles a task, every row read once. Leaves what the
//! layouts are to `packed`.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::sync::OnceLock;

use bytemuck::Pod;
use half::{bf16, f16};

use super::coded::{Coded, Form, MAX_BLOCK, TileMut};
use super::packed::{Quantised, WeightDtype};
use super::quant;
use super::source::{Scratch, Source, Values};
use crate::buffer::{Buffer, HugePages};
use crate::error::ensure;
use crate::ggml::{Block, BlockKind, SUPER};
use crate::rows::for_each_run;
use crate::simd::{LANES, Op, Simd, dispatch};
use crate::transpose::transpose;
use crate::{KernelError, Pool};

/// Words of a row that are put in their places at a time: those of all rows of a tile stay in the first-level cache.
const BLOCK: usize = 64;
/// Bytes that a task packs at most.
const TASK_BYTES: usize = 4 << 20;
/// Bytes that are packed between two reads, at most: what was read is still in the second-level cache.
const PIECE_BYTES: usize = 512 << 10;

thread_local! {
    /// What parts are read into.
    static SCRATCH: Cell<Vec<Scratch>> = const { Cell::new(Vec::new()) };
}

/// Rows of parts one below the other: of each part, how many there are with those before it.
struct Ends(Vec<usize>);

impl Ends {
    fn new(parts: impl Iterator<Item = usize>) -> Self {
        let ends = parts.scan(0, |end, rows| {
            *end += rows;
            Some(*end)
        });
        Self(ends.collect())
    }

    fn num_rows(&self) -> usize {
        self.0.last().copied().unwrap_or(0)
    }

    /// The parts that hold `rows`, with the rows of each, counted from its own first.
    fn parts_of(&self, rows: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let ends = &self.0;
        let first = ends.partition_point(|&end| end <= rows.start);
        (first..ends.len()).map_while(move |part| {
            let start = part.checked_sub(1).map_or(0, |before| ends[before]);
            let of_part = rows.start.max(start)..rows.end.min(ends[part]);
            (of_part.start < rows.end)
                .then(|| (part, of_part.start - start..of_part.end.max(of_part.start) - start))
        })
    }
}

/// Rows to pack.
pub(super) struct Stored<'a> {
    parts: &'a [&'a dyn Source],
    in_features: usize,
    ends: Ends,
}

impl<'a> Stored<'a> {
    pub(super) fn new(parts: &'a [&'a dyn Source], in_features: usize) -> Result<Self, KernelError> {
        ensure(in_features > 0, || "a matrix needs at least one input".to_owned())?;
        for (p, part) in parts.iter().enumerate() {
            let len = part.values().len();
            ensure(len.is_multiple_of(in_features), || {
                format!("part {p} holds {len} values, which are not whole rows of {in_features}")
            })?;
        }
        let ends = Ends::new(parts.iter().map(|part| part.values().len() / in_features));
        Ok(Self { parts, in_features, ends })
    }

    pub(super) fn num_rows(&self) -> usize {
        self.ends.num_rows()
    }

    fn num_tiles(&self) -> usize {
        self.num_rows().div_ceil(LANES)
    }

    /// All rows as words: f32, or pairs of bf16.
    pub(super) fn words(&self, pool: &Pool, dtype: WeightDtype) -> Result<Buffer<u32>, KernelError> {
        let depth = if dtype == WeightDtype::F32 { self.in_features } else { self.in_features.div_ceil(2) };
        let per_tile = depth * LANES;
        let mut words = Buffer::streamed(self.num_tiles() * per_tile);
        self.for_each_tile(pool, (&mut words, per_tile), (&mut [0u8; 0], 0), |tile, out, _| {
            dispatch(pool.isa(), FillWords { tile, dtype, depth, out });
        })?;
        Ok(words)
    }

    /// All rows as NF4, two codes to a byte.
    pub(super) fn quantised(&self, pool: &Pool) -> Result<Quantised, KernelError> {
        let num_tiles = self.num_tiles();
        let codes_per_tile = self.in_features.div_ceil(2) * LANES;
        let scales_per_tile = self.in_features.div_ceil(quant::BLOCK) * LANES;
        let mut codes = Buffer::streamed(num_tiles * codes_per_tile);
        let mut scales = Buffer::zeroed(num_tiles * scales_per_tile);
        let (codes_of, scales_of) = ((&mut *codes, codes_per_tile), (&mut *scales, scales_per_tile));
        self.for_each_tile(pool, codes_of, scales_of, |tile, codes: &mut [u8], scales: &mut [f32]| {
            dispatch(pool.isa(), FillNf4 { tile, codes, scales });
        })?;
        Ok(Quantised { codes, scales })
    }

    /// All rows as codes of this form: those of their blocks, or, if they are numbers, made here.
    pub(super) fn coded(&self, pool: &Pool, form: Form) -> Result<Coded, KernelError> {
        let mut coded = Coded::zeroed(form, self.num_tiles(), self.in_features);
        let (codes_per_tile, scales_per_tile) = coded.per_tile();
        let (codes, scales) = coded.parts_mut();
        let (codes, scales) = ((codes, codes_per_tile), (scales, scales_per_tile));
        self.for_each_tile(pool, codes, scales, |tile, codes, scales| {
            let out = TileMut::new(form, self.in_features, codes, scales);
            dispatch(pool.isa(), FillCoded { tile, out });
        })?;
        Ok(coded)
    }

    /// Runs `fill(tile, its part of a, its part of b)` for all tiles; `a` and `b` come with what is one tile's.
    fn for_each_tile<T: Pod + Send, U: Send>(
        &self,
        pool: &Pool,
        a: (&mut [T], usize),
        b: (&mut [U], usize),
        fill: impl Fn(&Tile<'_>, &mut [T], &mut [U]) + Sync,
    ) -> Result<(), KernelError> {
        let (of_a, of_b) = (a.1, b.1);
        let most = self.num_tiles().div_ceil(4 * pool.num_threads());
        let fitting = |bytes: usize| (bytes / (of_a * size_of::<T>()).max(1)).max(1);
        let (task, piece) = (fitting(TASK_BYTES).min(most.max(1)), fitting(PIECE_BYTES));
        let (pages, failure) = (HugePages::of(a.0), OnceLock::new());
        for_each_run(pool, task, a, b, |first, a, b| {
            let (mut scratch, count) = (SCRATCH.take(), a.len() / of_a);
            for start in (0..count).step_by(piece) {
                let tiles = start..count.min(start + piece);
                pages.touch(&mut a[tiles.start * of_a..tiles.end * of_a]);
                let rows = (first + tiles.start) * LANES..self.num_rows().min((first + tiles.end) * LANES);
                match self.read(rows, &mut scratch) {
                    Ok(rows) => tiles.for_each(|tile| {
                        let (a, b) = (&mut a[tile * of_a..][..of_a], &mut b[tile * of_b..][..of_b]);
                        fill(&rows.tile(tile - start), a, b);
                    }),
                    // The first is as good as any.
                    Err(error) => drop(failure.set(KernelError::Read(error.to_string()))),
                }
            }
            SCRATCH.set(scratch);
        });
        failure.into_inner().map_or(Ok(()), Err)
    }

    fn read<'b>(&'b self, rows: Range<usize>, scratch: &'b mut Vec<Scratch>) -> io::Result<Rows<'b>> {
        let width = self.in_features;
        let parts: Vec<_> = self.ends.parts_of(rows).collect();
        if scratch.len() < parts.len() {
            scratch.resize_with(parts.len(), Scratch::default);
        }
        let ends = Ends::new(parts.iter().map(|(_, rows)| rows.len()));
        let read = |((part, rows), scratch): ((usize, Range<usize>), &'b mut Scratch)| {
            self.parts[part].read(rows.start * width..rows.end * width, scratch)
        };
        let parts = parts.into_iter().zip(scratch).map(read).collect::<io::Result<_>>()?;
        Ok(Rows { parts, ends, width })
    }
}

/// Rows at hand.
struct Rows<'a> {
    parts: Vec<Values<'a>>,
    ends: Ends,
    /// Values of a row.
    width: usize,
}

impl<'a> Rows<'a> {
    fn tile(&self, tile: usize) -> Tile<'a> {
        let rows = tile * LANES..self.ends.num_rows().min((tile + 1) * LANES);
        let mut lanes = [Values::F32(&[]); LANES];
        let (mut count, mut in_one_part) = (0, None);
        for (part, of_part) in self.ends.parts_of(rows.clone()) {
            let values = of_part.start * self.width..of_part.end * self.width;
            if of_part.len() == rows.len() {
                in_one_part = Some(self.parts[part].slice(values));
            }
            for row in of_part {
                lanes[count] = self.parts[part].slice(row * self.width..(row + 1) * self.width);
                count += 1;
            }
        }
        Tile { lanes, count, in_one_part, width: self.width }
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
        (_, WeightDtype::F16) => {
            let mut values = [0.0; 2 * BLOCK];
            let values = &mut values[..(2 * out.len()).min(row.len() - 2 * first)];
            row.read(2 * first, values);
            out.zip(values.chunks(2)).for_each(|(out, x)| {
                let [low, high] =
                    [x[0], x.get(1).copied().unwrap_or(0.0)].map(|x| f16::from_f32(x).to_bits());
                *out = u32::from(low) | u32::from(high) << 16;
            });
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
        let kind = match tile.lanes[0] {
            Values::Blocks(kind, _) => Some(kind),
            Values::F32(_) | Values::Bf16(_) => None,
        };
        let (form, mut codes, mut block) = (out.form(), [[0; SUPER / 4]; LANES], Block::default());
        let per_read = kind.map_or(form.block, BlockKind::num_values);
        let groups = per_read / form.block;
        for index in 0..tile.width.div_ceil(per_read) {
            for (lane, (row, codes)) in tile.lanes[..tile.count].iter().zip(&mut codes).enumerate() {
                let (first, codes) = (index * groups, bytemuck::cast_slice_mut::<u32, u8>(codes));
                match (kind, row) {
                    (Some(kind), Values::Blocks(_, bytes)) => {
                        block.read(kind, &bytes[index * kind.num_bytes()..][..kind.num_bytes()]);
                        codes[..per_read].copy_from_slice(&block.codes[..per_read]);
                        out.set_scales(first, lane, &block);
                    }
                    _ => {
                        let count = per_read.min(tile.width - index * per_read);
                        let factor = int8_codes(row, index * per_read, &mut codes[..count]);
                        codes[count..per_read].fill(form.offset);
                        out.set_factor(0, first, lane, factor.to_bits());
                    }
                }
            }
            for group in 0..groups {
                out.set_codes(index * groups + group, tile.count, &codes, group * form.block);
            }
        }
    }
}

/// Codes of eight bits for the values of a block from `first` on, and their scale.
#[inline(always)]
fn int8_codes(row: &Values<'_>, first: usize, codes: &mut [u8]) -> f16 {
    let mut values = [0.0; MAX_BLOCK];
    let values = &mut values[..codes.len()];
    row.read(first, values);
    let factor = quant::int8_scale(values);
    let scale = factor.to_f32();
    codes.iter_mut().zip(&*values).for_each(|(code, x)| *code = quant::int8_code(*x, scale));
    factor
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::PackedLinear;

    /// A part that is read, like one in a file, and counts who asks for what.
    struct Counted<'a> {
        values: Values<'a>,
        times: Mutex<Vec<usize>>,
        fails: bool,
    }

    impl Source for Counted<'_> {
        fn values(&self) -> Values<'_> {
            self.values
        }

        fn read<'a>(&'a self, range: Range<usize>, scratch: &'a mut Scratch) -> io::Result<Values<'a>> {
            if self.fails && range.contains(&0) {
                return Err(io::Error::other("the disk is gone"));
            }
            self.times.lock().unwrap()[range.clone()].iter_mut().for_each(|times| *times += 1);
            Ok(match self.values.slice(range) {
                Values::F32(values) => Values::F32(copied(values, scratch)),
                Values::Bf16(values) => Values::Bf16(copied(values, scratch)),
                Values::Blocks(kind, bytes) => Values::Blocks(kind, copied(bytes, scratch)),
            })
        }
    }

    fn copied<'a, T: bytemuck::Pod>(values: &[T], scratch: &'a mut Scratch) -> &'a [T] {
        let bytes = scratch.bytes(size_of_val(values));
        bytes.copy_from_slice(bytemuck::cast_slice(values));
        bytemuck::cast_slice(bytes)
    }

    #[test]
    fn every_value_is_read_once_and_a_part_that_cannot_be_read_is_an_error() {
        let pool = Pool::new(3).unwrap();
        let width = 70;
        let numbers: Vec<f32> = (0..width * 150).map(|i| i as f32).collect();
        let halves: Vec<bf16> = numbers.iter().map(|x| bf16::from_f32(*x)).collect();
        // Borders of parts in the middle of tiles, and a part without rows.
        let cuts = [0, 5 * width, 5 * width, 37 * width, 150 * width];
        let values = |p: usize| match p {
            0 => Values::F32(&numbers[cuts[p]..cuts[p + 1]]),
            _ => Values::Bf16(&halves[cuts[p]..cuts[p + 1]]),
        };
        let parts = |fails: Option<usize>| -> Vec<Counted<'_>> {
            let part = |p| Counted {
                values: values(p),
                times: Mutex::new(vec![0; cuts[p + 1] - cuts[p]]),
                fails: fails == Some(p),
            };
            (0..4).map(part).collect()
        };
        for dtype in [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::Int8, WeightDtype::Nf4] {
            let counted = parts(None);
            let packed = PackedLinear::pack(&pool, &counted, width, dtype).unwrap();
            assert_eq!(packed.out_features(), 150);
            let times =
                counted.iter().flat_map(|part| part.times.lock().unwrap().clone()).collect::<Vec<_>>();
            assert_eq!(times, vec![1; numbers.len()], "{dtype:?}");
            let all: Vec<_> = (0..4).map(values).collect();
            let same = PackedLinear::pack(&pool, &all, width, dtype).unwrap();
            assert_eq!(packed.unpack(), same.unpack());
            let error = PackedLinear::pack(&pool, &parts(Some(2)), width, dtype).unwrap_err();
            assert_eq!(error, KernelError::Read("the disk is gone".to_owned()));
        }
    }
}
