//! Newtypes for the identifiers of the engine. Leaves what they identify to its owner.

/// Index of a physical KV block in its model's pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// Index of one token's place in a model's KV cache: `block_id * block_size + offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

/// One sequence (a candidate, or a text being scored), unique for the life of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// One request, unique for the life of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One set of weights with its own KV pool: the policies first, then reward models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId(pub u16);

impl ModelId {
    /// The first policy, which answers requests that name none.
    pub const POLICY: Self = Self(0);

    /// Its place among all models.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}
