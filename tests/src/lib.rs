//! Helpers shared by the parity tests: what PyTorch computed, engines over the fixtures, requests run to their end.
//! Leaves the checks to the tests.

pub mod fixture;
pub mod harness;
pub mod outcome;
pub mod sheet;
