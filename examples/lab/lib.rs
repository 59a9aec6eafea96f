//! The demo lab: a small help-desk world with a programmatic oracle.
