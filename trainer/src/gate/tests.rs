//! Suites against an engine.
