//! The engine of one device thread: disks, commands, jobs, exports.
//!
//! Everything but the values in [`api`] lives on one thread, the device thread. There is no lock
//! around the graph: see `docs/ARCHITECTURE.md`.

#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]

pub mod api;
pub mod chain;
pub mod engine;
mod jobs;
pub mod nbd;
mod size;
pub mod unix_socket;

pub use size::human_size;
/// The seam for devices: a disk, and requests to it.
pub use strata_graph::disk;
