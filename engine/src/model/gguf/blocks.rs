//! How GGUF files store numbers: whole ones, and blocks of few bits. Leaves what blocks stand for to `rectify_kernels`,
//! and where they are to `mod`.

use half::{bf16, f16};
use rectify_kernels::BlockKind;

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Storage {
    F32,
    F16,
    Bf16,
    Blocks(BlockKind),
}

/// Number in the file and name.
const KINDS: [(Storage, u32, &str); 8] = [
    (Storage::F32, 0, "F32"),
    (Storage::F16, 1, "F16"),
    (Storage::Bf16, 30, "BF16"),
    (Storage::Blocks(BlockKind::Q8_0), 8, "Q8_0"),
    (Storage::Blocks(BlockKind::Q4_0), 2, "Q4_0"),
    (Storage::Blocks(BlockKind::Q4K), 12, "Q4_K"),
    (Storage::Blocks(BlockKind::Q5K), 13, "Q5_K"),
    (Storage::Blocks(BlockKind::Q6K), 14, "Q6_K"),
];

impl Storage {
    /// The kind with this number.
    pub(super) fn find(number: u32) -> Option<Self> {
        KINDS.iter().find(|kind| kind.1 == number).map(|kind| kind.0)
    }

    /// The names of all, as a clause for messages.
    pub(super) fn known() -> String {
        KINDS.iter().map(|kind| kind.2).collect::<Vec<_>>().join(", ")
    }

    /// Bytes of rows of `width`, `count` values in all; `None` if rows are not whole blocks.
    pub(super) fn num_bytes(self, count: usize, width: usize) -> Option<usize> {
        let (values, bytes) = match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Blocks(kind) => (kind.num_values(), kind.num_bytes()),
        };
        width.is_multiple_of(values).then_some(count / values * bytes)
    }

    /// The numbers of whole blocks.
    pub(in crate::model) fn numbers(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks().0.iter().map(|&number| f32::from_le_bytes(number)).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|&half| f16::from_le_bytes(half).to_f32()).collect(),
            Self::Bf16 => {
                bytes.as_chunks().0.iter().map(|&half| bf16::from_le_bytes(half).to_f32()).collect()
            }
            Self::Blocks(kind) => kind.numbers(bytes),
        }
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
        for (kind, _, name) in KINDS {
            let stored = fixture.tensor(&format!("{name}.bytes")).unwrap();
            let wanted = fixture.tensor(&format!("{name}.numbers")).unwrap();
            let found: Vec<u8> =
                kind.numbers(stored.data()).iter().flat_map(|number| number.to_le_bytes()).collect();
            assert!(!found.is_empty() && found == wanted.data(), "{name}");
        }
    }

    #[test]
    fn sizes_are_whole_blocks() {
        let eight = Storage::Blocks(BlockKind::Q8_0);
        assert_eq!(eight.num_bytes(128, 64), Some(136));
        assert_eq!(eight.num_bytes(64, 16), None);
        assert_eq!(Storage::find(14), Some(Storage::Blocks(BlockKind::Q6K)));
        assert_eq!(Storage::find(3), None);
    }
}
