//! What the fuzzing targets do with their input.
//!
//! `fuzz_targets/` hands it the fuzzer's bytes; the tests of `strata-block` include this file and
//! hand it the committed corpus, on a stable compiler. So modules name each other by `super`.

pub mod headers;
mod image;
pub mod images;
pub mod nbd_client;
pub mod nbd_server;
pub mod operations;
pub mod requests;
mod support;
pub mod tables;

/// A target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 7] = [
    ("headers", headers::run),
    ("tables", tables::run),
    ("images", images::run),
    ("requests", requests::run),
    ("operations", operations::run),
    ("nbd_server", nbd_server::run),
    ("nbd_client", nbd_client::run),
];
