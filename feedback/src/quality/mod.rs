//! Which votes may be trained on: pure functions of the votes and the settings. Leaves storage, files and what training
//! makes of the rest to others.

pub mod accuracy;
pub mod minhash;
pub mod stats;
pub mod words;
