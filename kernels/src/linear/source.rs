//! Values as a checkpoint stores them, and where packing gets them from. Leaves how they are packed to `pack`.

use std::io;
use std::ops::Range;

use half::bf16;

use crate::ggml::BlockKind;

/// Numbers as a checkpoint stores them.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// Blocks of a GGUF file, whole ones in each row.
    Blocks(BlockKind, &'a [u8]),
}

impl<'a> Values<'a> {
    /// How many.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::Blocks(kind, bytes) => bytes.len() / kind.num_bytes() * kind.num_values(),
        }
    }

    /// Values `range`, of blocks whole ones.
    pub fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::F32(values) => Self::F32(&values[range]),
            Self::Bf16(values) => Self::Bf16(&values[range]),
            Self::Blocks(kind, bytes) => {
                let byte = |value: usize| value / kind.num_values() * kind.num_bytes();
                Self::Blocks(*kind, &bytes[byte(range.start)..byte(range.end)])
            }
        }
    }

    /// As they lie in memory.
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Self::F32(values) => bytemuck::cast_slice(values),
            Self::Bf16(values) => bytemuck::cast_slice(values),
            Self::Blocks(_, bytes) => bytes,
        }
    }

    /// Values of the same kind that lie elsewhere: `bytes`, as those of [`Scratch`], aligned for any.
    pub fn at<'b>(&self, bytes: &'b [u8]) -> Values<'b> {
        match self {
            Self::F32(_) => Values::F32(bytemuck::cast_slice(bytes)),
            Self::Bf16(_) => Values::Bf16(bytemuck::cast_slice(bytes)),
            Self::Blocks(kind, _) => Values::Blocks(*kind, bytes),
        }
    }

    /// Values `from..from + out.len()` in single precision; not of blocks, which nobody asks for numbers.
    #[inline(always)]
    pub(super) fn read(&self, from: usize, out: &mut [f32]) {
        match self {
            Self::F32(values) => out.copy_from_slice(&values[from..from + out.len()]),
            Self::Bf16(values) => out.iter_mut().zip(&values[from..]).for_each(|(out, x)| *out = x.to_f32()),
            Self::Blocks(..) => {}
        }
    }

    /// Whether both are kept in the same way.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Blocks(one, _), Self::Blocks(another, _)) => one == another,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// Where a part of a matrix is stored.
pub trait Source: Sync {
    /// All its values, where they lie.
    fn values(&self) -> Values<'_>;

    /// Values `range`, of blocks whole ones: where they lie, or read into `scratch` if that is faster than to look at them
    /// there. Packing asks for every value once, some MiB at a time, from all threads of its pool.
    ///
    /// # Errors
    /// What reading them may end in.
    fn read<'a>(&'a self, range: Range<usize>, scratch: &'a mut Scratch) -> io::Result<Values<'a>> {
        let _ = scratch;
        Ok(self.values().slice(range))
    }
}

impl Source for Values<'_> {
    fn values(&self) -> Values<'_> {
        *self
    }
}

/// Memory that a part may be read into, used again and again.
#[derive(Debug, Default)]
pub struct Scratch(Vec<u64>);

impl Scratch {
    /// The first `len` bytes, which begin at a multiple of eight; what they hold is left over from before.
    pub fn bytes(&mut self, len: usize) -> &mut [u8] {
        if self.0.len() * size_of::<u64>() < len {
            self.0.resize(len.div_ceil(size_of::<u64>()), 0);
        }
        &mut bytemuck::cast_slice_mut(&mut self.0)[..len]
    }
}
