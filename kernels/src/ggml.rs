//! The blocks in which GGUF files keep weights of few bits: their codes, what those are multiples of, and the numbers they
//! stand for, those of the reference implementation bit for bit. Leaves packing and products to `linear`.
//!
//! The layouts are those of ggml's `ggml-common.h`; `QK_K` there is [`SUPER`] here.

use half::f16;

use crate::linear::Form;

/// Values of a super-block, the largest block there is.
pub(crate) const SUPER: usize = 256;
/// Groups of a super-block that have a scale of their own, at most.
const GROUPS: usize = 16;

/// How a block is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockKind {
    /// 32 values of eight bits.
    Q8_0,
    /// 32 values of four bits.
    Q4_0,
    /// 256 values of four bits; groups of 32 have a scale and a minimum.
    Q4K,
    /// 256 values of five bits; groups of 32 have a scale and a minimum.
    Q5K,
    /// 256 values of six bits; groups of 16 have a scale.
    Q6K,
}

/// A block, read.
pub(crate) struct Block {
    /// One for each value.
    pub(crate) codes: [u8; SUPER],
    /// In half precision: of scales, and of minima.
    pub(crate) factors: [u16; 2],
    /// What the factors are to be multiplied by: scales, and minima. Not used where the factor is the scale.
    pub(crate) parts: [[i8; GROUPS]; 2],
}

impl BlockKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Q8_0, Self::Q4_0, Self::Q4K, Self::Q5K, Self::Q6K];

    /// Values of a block.
    pub fn num_values(self) -> usize {
        match self {
            Self::Q8_0 | Self::Q4_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => SUPER,
        }
    }

    /// Bytes of a block.
    pub fn num_bytes(self) -> usize {
        match self {
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// The codes of this kind.
    pub(crate) fn form(self) -> Form {
        let one = Form { bits: 8, block: 32, offset: 128, blocks_per_factor: 1, has_minimum: false };
        let five = Form { bits: 5, offset: 0, blocks_per_factor: 8, has_minimum: true, ..one };
        match self {
            Self::Q8_0 => one,
            Self::Q4_0 => Form { bits: 4, offset: 8, ..one },
            Self::Q4K => Form { bits: 4, ..five },
            Self::Q5K => five,
            Self::Q6K => Form { bits: 6, block: 16, offset: 32, blocks_per_factor: 16, ..one },
        }
    }

    /// The numbers that whole blocks stand for.
    pub fn numbers(self, bytes: &[u8]) -> Vec<f32> {
        let (values, form) = (self.num_values(), self.form());
        let mut out = vec![0.0; bytes.len() / self.num_bytes() * values];
        let mut block = Block::default();
        for (bytes, out) in bytes.chunks_exact(self.num_bytes()).zip(out.chunks_exact_mut(values)) {
            block.read(self, bytes);
            for (group, out) in out.chunks_exact_mut(form.block).enumerate() {
                let [scale, minimum] = [0, 1].map(|level| match form.blocks_per_factor {
                    1 => f16::from_bits(block.factors[level]).to_f32(),
                    _ => f16::from_bits(block.factors[level]).to_f32() * f32::from(block.parts[level][group]),
                });
                let codes = &block.codes[group * form.block..];
                for (out, &code) in out.iter_mut().zip(codes) {
                    *out = scale * (f32::from(code) - f32::from(form.offset)) - minimum;
                }
            }
        }
        out
    }
}

impl Default for Block {
    fn default() -> Self {
        Self { codes: [0; SUPER], factors: [0; 2], parts: [[0; GROUPS]; 2] }
    }
}

impl Block {
    /// Reads the bytes of a block of this kind.
    pub(crate) fn read(&mut self, kind: BlockKind, bytes: &[u8]) {
        match kind {
            BlockKind::Q8_0 => {
                self.factors[0] = half(bytes);
                self.codes.iter_mut().zip(&bytes[2..]).for_each(|(out, code)| *out = code ^ 128);
            }
            BlockKind::Q4_0 => {
                self.factors[0] = half(bytes);
                for (i, &pair) in bytes[2..].iter().enumerate() {
                    (self.codes[i], self.codes[i + 16]) = (pair & 15, pair >> 4);
                }
            }
            BlockKind::Q4K => {
                self.read_scales_and_minima(bytes);
                self.read_nibbles(&bytes[16..]);
            }
            BlockKind::Q5K => {
                self.read_scales_and_minima(bytes);
                let (high, low) = bytes[16..].split_at(SUPER / 8);
                self.read_nibbles(low);
                for (i, code) in self.codes.iter_mut().enumerate() {
                    *code |= (high[i % 32] >> (i / 32) & 1) << 4;
                }
            }
            BlockKind::Q6K => self.read_six_bits(bytes),
        }
    }

    /// Eight groups of 32 codes: groups lie in pairs, in the low and the high halves of 32 bytes.
    fn read_nibbles(&mut self, bytes: &[u8]) {
        for (pair, codes) in bytes.chunks_exact(32).zip(self.codes.chunks_exact_mut(64)) {
            for (i, &byte) in pair.iter().enumerate() {
                (codes[i], codes[i + 32]) = (byte & 15, byte >> 4);
            }
        }
    }

    /// Two factors, then twelve bytes of eight scales and eight minima of six bits.
    fn read_scales_and_minima(&mut self, bytes: &[u8]) {
        self.factors = [half(bytes), half(&bytes[2..])];
        let (low, rest) = bytes[4..16].split_at(4);
        let (middle, mixed) = rest.split_at(4);
        for group in 0..8 {
            let at = group % 4;
            let (scale, minimum) = match group {
                0..4 => (low[at] & 63, middle[at] & 63),
                _ => (mixed[at] & 15 | low[at] >> 2 & 48, mixed[at] >> 4 | middle[at] >> 2 & 48),
            };
            (self.parts[0][group], self.parts[1][group]) = (scale.cast_signed(), minimum.cast_signed());
        }
    }

    /// Sixteen groups of 16 codes of six bits, each with a scale of eight; the factor is last.
    fn read_six_bits(&mut self, bytes: &[u8]) {
        let (low, rest) = bytes.split_at(SUPER / 2);
        let (high, rest) = rest.split_at(SUPER / 4);
        let (scales, factor) = rest.split_at(GROUPS);
        self.factors[0] = half(factor);
        self.parts[0].iter_mut().zip(scales).for_each(|(part, &scale)| *part = scale.cast_signed());
        for (i, code) in self.codes.iter_mut().enumerate() {
            let (part, group, at) = (i / 128, i % 128 / 32, i % 32);
            let four = low[part * 64 + group % 2 * 32 + at] >> (group / 2 * 4) & 15;
            *code = four | (high[part * 32 + at] >> (2 * group) & 3) << 4;
        }
    }
}

/// The bits of the number in the first two bytes.
fn half(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_bytes_lie_half_a_block_apart() {
        let mut block = vec![0, 0x3c]; // One.
        block.extend((0..16).map(|i| i | 15 << 4));
        let numbers = BlockKind::Q4_0.numbers(&block);
        assert_eq!((numbers[0], numbers[15], numbers[16], numbers[31]), (-8.0, 7.0, 7.0, 7.0));
    }

    #[test]
    fn groups_are_multiples_of_their_own_scales() {
        let mut block = vec![0; BlockKind::Q4K.num_bytes()];
        (block[1], block[3]) = (0x3c, 0x40); // One, and two.
        // The first group's scale is 5 and its minimum 3; the last one's 33 and 16.
        (block[4], block[8]) = (5, 3);
        (block[7], block[11], block[15]) = (2 << 6, 1 << 6, 1);
        block[16] = 7;
        block[143] = 9 << 4;
        let numbers = BlockKind::Q4K.numbers(&block);
        assert_eq!((numbers[0], numbers[1]), (7.0 * 5.0 - 6.0, -6.0));
        assert_eq!((numbers[255], numbers[254]), (9.0 * 33.0 - 32.0, -32.0));
    }
}
