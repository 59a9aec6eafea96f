//! The demo lab: a small help-desk world with a programmatic oracle, and the recipe that trains the demo on it.
//!
//! [`families`] are the kinds of tasks, [`task`] puts them under one type, [`oracle`] judges free text, [`data`]
//! makes training text with known flaws and [`tokenizer`] the vocabulary. The recipe that calls the `rectify`
//! commands is the example program `lab`, not this library.

pub mod data;
pub mod families;
pub mod lexicon;
pub mod oracle;
pub mod rng;
pub mod stats;
pub mod task;
pub mod text;
pub mod tokenizer;
pub mod world;

pub use oracle::{Reason, Verdict, judge};
pub use task::{Category, Flaw, Item, Split, Task, World};
