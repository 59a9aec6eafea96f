//! LoRA adapters (PEFT folders): low-rank pairs by module, an optional score head, a version. Leaves the choice of
//! adapter to the scheduler.

use std::sync::Arc;

/// An immutable, content-hashed LoRA adapter.
#[derive(Debug)]
pub struct Adapter {
    /// Name and content hash.
    pub info: AdapterInfo,
}

/// What people see of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterInfo {
    /// The name requests use.
    pub name: Arc<str>,
    /// First 12 hex digits of the content's SHA-256.
    pub version: Arc<str>,
    /// LoRA rank (the largest, if modules differ).
    pub rank: usize,
    /// Has a score head: it is a reward model on the policy's base.
    pub has_score_head: bool,
}
