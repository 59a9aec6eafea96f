//! The `rectify` server and command line as a library.
//!
//! A request's way: `extract` reads JSON, `api` checks it once, `answer` follows the engine's events, `routes` writes
//! the response. `config` and `boot` make the engine that `app` shares; `policy` is one of its policies, and `serving` says which version of it answers;
//! `serve` listens and stops.

pub mod answer;
pub mod api;
pub mod app;
pub mod auth;
pub mod boot;
pub mod cli;
pub mod config;
pub mod demo;
pub mod error;
pub mod extract;
pub mod feedback;
mod hub;
pub mod learning;
pub mod policy;
pub mod recorder;
pub mod reply;
pub mod routes;
pub mod serve;
pub mod serving;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod text;

pub use app::App;
pub use routes::router;

/// A list of names for a sentence: `a, b`, or `none`.
pub(crate) fn names<I>(names: I) -> String
where
    I: IntoIterator,
    I::Item: AsRef<str>,
{
    let names: Vec<String> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
