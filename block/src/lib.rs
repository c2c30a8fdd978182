//! The layered image stack: storage files, formats, the node graph and jobs.
//!
//! Everything but [`mem`] and the values in [`api`] lives on one thread, the device thread.
//! There is no lock around the graph: see `docs/ARCHITECTURE.md`.

pub mod api;
pub mod commit;
pub mod copy;
pub mod disk;
pub mod engine;
pub mod graph;
mod jobs;
pub mod nbd;
pub mod rebase;
pub mod unix_socket;

#[cfg(test)]
mod chain_tests;
#[cfg(test)]
mod sim_tests;
