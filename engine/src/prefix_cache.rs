//! Names of full KV blocks: a hash chain over everything a block's contents depend on. Leaves keeping the blocks to
//! `block_pool`.

use sha2::{Digest, Sha256};

use crate::model::adapter::Adapter;

/// Identity of a full block: the tokens in it and before it, and the adapter that computed them. 128 bits of SHA-256,
/// so that equal hashes mean equal contents for all practical purposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockHash(u128);

impl BlockHash {
    /// Start of the chain of sequences under `adapter` (`None`: the bare model).
    ///
    /// **Invariant**: chains of different adapter versions never meet, so no KV block mixes versions.
    pub fn root(adapter: Option<&Adapter>) -> Self {
        let version = adapter.map_or("", |adapter| &*adapter.info.content_hash);
        Self::digest(Sha256::new().chain_update(b"root").chain_update(version.as_bytes()))
    }

    /// The block after `self` that holds `tokens`.
    pub fn child(self, tokens: impl IntoIterator<Item = u32>) -> Self {
        let mut hasher = Sha256::new().chain_update(self.0.to_le_bytes());
        for token in tokens {
            hasher.update(token.to_le_bytes());
        }
        Self::digest(hasher)
    }

    fn digest(hasher: Sha256) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize()[..16]);
        Self(u128::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::adapter;

    #[test]
    fn a_block_is_named_by_its_tokens_its_past_and_its_adapter() {
        let root = BlockHash::root(None);
        assert_eq!(root.child([1, 2]), root.child([1, 2]));
        assert_ne!(root.child([1, 2]), root.child([2, 1]));
        assert_ne!(root.child([1, 2]).child([3]), root.child([2, 1]).child([3]));
        let (a, b): (Arc<Adapter>, Arc<Adapter>) = (adapter("a", "1"), adapter("a", "2"));
        assert_ne!(BlockHash::root(Some(&a)), root);
        assert_ne!(BlockHash::root(Some(&a)), BlockHash::root(Some(&b)));
    }
}
