//! The `rectify` server and command line as a library.

pub mod cli;
