//! The `rectify` server and command line as a library.
