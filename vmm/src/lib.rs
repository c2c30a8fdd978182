//! The machine behind the `strata` binary, as a library so that its parts can be tested alone.

pub mod monitor;
