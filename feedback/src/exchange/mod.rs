//! Votes from and to the files people have: preferences, thumbs, demonstrations, Argilla's records, and whole records as
//! they are stored; as JSON lines, JSON lists or Parquet. Owns what a vote is in each format; leaves the formats'
//! fields to their records and the bytes to the writers.
//!
//! An imported vote gets a completion of its own, as if its answers had been served by a version called `imported`, so
//! that the same quality rules look at it. Whatever else its row says is kept and written again.

mod export;
mod import;
#[cfg(test)]
mod tests;

pub use export::{Exported, Format, export, write_rows};
pub use import::{Entry, ImportOptions, import};

/// Keys of an imported completion's metadata.
mod keys {
    /// The row's other columns.
    pub(super) const COLUMNS: &str = "columns";
    /// The row holds plain texts, not turns.
    pub(super) const PLAIN: &str = "plain";
    /// The margin the row gives.
    pub(super) const MARGIN: &str = "margin";
    /// The row is `prompt` and `completion` rather than `messages`.
    pub(super) const SPLIT: &str = "split";
}
