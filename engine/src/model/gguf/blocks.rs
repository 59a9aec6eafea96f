//! The blocks that GGUF stores weights in, and the numbers they stand for: those of the reference implementation, bit for
//! bit. Leaves where they are to `mod`.
//!
//! The layouts are those of ggml's `ggml-common.h`; `QK_K` there is [`SUPER`] here.

use half::{bf16, f16};

/// Values of a super-block.
const SUPER: usize = 256;

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum BlockKind {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q4_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Number in the file, name, values and bytes of a block.
const KINDS: [(BlockKind, u32, &str, usize, usize); 8] = [
    (BlockKind::F32, 0, "F32", 1, 4),
    (BlockKind::F16, 1, "F16", 1, 2),
    (BlockKind::Bf16, 30, "BF16", 1, 2),
    (BlockKind::Q8_0, 8, "Q8_0", 32, 34),
    (BlockKind::Q4_0, 2, "Q4_0", 32, 18),
    (BlockKind::Q4K, 12, "Q4_K", SUPER, 144),
    (BlockKind::Q5K, 13, "Q5_K", SUPER, 176),
    (BlockKind::Q6K, 14, "Q6_K", SUPER, 210),
];

impl BlockKind {
    /// The kind with this number.
    pub(super) fn find(number: u32) -> Option<Self> {
        KINDS.iter().find(|kind| kind.1 == number).map(|kind| kind.0)
    }

    /// The names of all, as a clause for messages.
    pub(super) fn known() -> String {
        KINDS.iter().map(|kind| kind.2).collect::<Vec<_>>().join(", ")
    }

    /// Values and bytes of a block.
    fn sizes(self) -> (usize, usize) {
        KINDS.iter().find(|kind| kind.0 == self).map_or((1, 4), |kind| (kind.3, kind.4))
    }

    /// Bytes of `count` values; `None` if they are not whole blocks.
    pub(super) fn num_bytes(self, count: usize) -> Option<usize> {
        let (values, bytes) = self.sizes();
        count.is_multiple_of(values).then_some(count / values * bytes)
    }

    /// The numbers of whole blocks.
    pub(in crate::model) fn numbers(self, bytes: &[u8]) -> Vec<f32> {
        let (values, len) = self.sizes();
        let mut out = vec![0.0; bytes.len() / len * values];
        for (block, out) in bytes.chunks_exact(len).zip(out.chunks_exact_mut(values)) {
            match self {
                Self::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
                Self::F16 => out[0] = half(block),
                Self::Bf16 => out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
                Self::Q8_0 => {
                    let scale = half(block);
                    let codes = block[2..].iter().map(|&code| f32::from(code.cast_signed()));
                    out.iter_mut().zip(codes).for_each(|(out, code)| *out = code * scale);
                }
                Self::Q4_0 => {
                    let scale = half(block);
                    for (i, &pair) in block[2..].iter().enumerate() {
                        out[i] = scale * (f32::from(pair & 15) - 8.0);
                        out[i + 16] = scale * (f32::from(pair >> 4) - 8.0);
                    }
                }
                Self::Q4K => {
                    let codes = &block[16..];
                    five_bits(block, out, |group, i| nibble(codes, group, i));
                }
                Self::Q5K => {
                    let (high, codes) = block[16..].split_at(SUPER / 8);
                    five_bits(block, out, |group, i| nibble(codes, group, i) | (high[i] >> group & 1) << 4);
                }
                Self::Q6K => six_bits(block, out),
            }
        }
        out
    }
}

/// The number in the first two bytes.
fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// Code `i` of the 32 of `group`: groups lie in pairs, in the low and the high halves of 32 bytes.
fn nibble(codes: &[u8], group: usize, i: usize) -> u8 {
    codes[group / 2 * 32 + i] >> (group % 2 * 4) & 15
}

/// Eight groups of 32 codes, each with a scale and a minimum of six bits: twelve bytes of them after the two factors.
fn five_bits(block: &[u8], out: &mut [f32], code: impl Fn(usize, usize) -> u8) {
    let (scale, minimum) = (half(block), half(&block[2..]));
    let (low, rest) = block[4..16].split_at(4);
    let (middle, mixed) = rest.split_at(4);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let at = group % 4;
        let (scale_bits, minimum_bits) = match group {
            0..4 => (low[at] & 63, middle[at] & 63),
            _ => (mixed[at] & 15 | low[at] >> 2 & 48, mixed[at] >> 4 | middle[at] >> 2 & 48),
        };
        let (scale, minimum) = (scale * f32::from(scale_bits), minimum * f32::from(minimum_bits));
        for (i, out) in out.iter_mut().enumerate() {
            *out = scale * f32::from(code(group, i)) - minimum;
        }
    }
}

/// Sixteen groups of 16 codes of six bits, each with a scale of eight.
fn six_bits(block: &[u8], out: &mut [f32]) {
    let (low, rest) = block.split_at(SUPER / 2);
    let (high, rest) = rest.split_at(SUPER / 4);
    let (scales, factor) = rest.split_at(SUPER / 16);
    let factor = half(factor);
    for (i, out) in out.iter_mut().enumerate() {
        let (part, group, at) = (i / 128, i % 128 / 32, i % 32);
        let four = low[part * 64 + group % 2 * 32 + at] >> (group / 2 * 4) & 15;
        let two = high[part * 32 + at] >> (2 * group) & 3;
        let scale = factor * f32::from(scales[i / 16].cast_signed());
        *out = scale * (f32::from(four | two << 4) - 32.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_stands_for_the_references_numbers_bit_for_bit() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/gguf/blocks.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let fixture = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (kind, _, name, _, _) in KINDS {
            let stored = fixture.tensor(&format!("{name}.bytes")).unwrap();
            let wanted = fixture.tensor(&format!("{name}.numbers")).unwrap();
            let found: Vec<u8> =
                kind.numbers(stored.data()).iter().flat_map(|number| number.to_le_bytes()).collect();
            assert!(!found.is_empty() && found == wanted.data(), "{name}");
        }
    }

    #[test]
    fn sizes_are_whole_blocks() {
        assert_eq!(BlockKind::Q8_0.num_bytes(64), Some(68));
        assert_eq!(BlockKind::Q8_0.num_bytes(33), None);
        assert_eq!(BlockKind::find(14), Some(BlockKind::Q6K));
        assert_eq!(BlockKind::find(3), None);
    }

    #[test]
    fn halves_of_bytes_lie_half_a_block_apart() {
        let mut block = vec![0, 0x3c]; // One.
        block.extend((0..16).map(|i| i | 15 << 4));
        let numbers = BlockKind::Q4_0.numbers(&block);
        assert_eq!((numbers[0], numbers[15], numbers[16], numbers[31]), (-8.0, 7.0, 7.0, 7.0));
    }
}
