//! The real binary over real sockets: OpenAI's wire format, best-of-N, adapters, feedback, clients, bad input, start and stop.
//! Built by the `server` package, which makes the binary first. Leaves the wire types' details to that crate's tests.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed check of a test is a panic"
)]

mod adapters;
mod alignment;
mod bad_input;
mod clients;
mod command_line;
mod crashes;
mod demo;
mod feedback;
mod gate;
mod harness;
mod hub;
mod hub_server;
mod keys;
mod learning;
mod lifecycle;
mod methods;
mod offline;
mod openai;
mod openapi;
mod people;
mod poisoning;
// The stand-ins of the store's and the registry's own tests.
#[path = "../../feedback/src/store/tests/postgres.rs"]
mod postgres;
mod quality;
mod registry;
#[path = "../../trainer/src/registry/tests/s3.rs"]
mod s3;
mod scoring;
mod several;
mod shadow;
mod strategies;
mod structured;
mod surface;
mod tools;
mod versions;
