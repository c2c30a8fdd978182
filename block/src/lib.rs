//! The layered image stack: storage files, formats, the node graph and jobs.
//!
//! Everything but [`mem`] and the values in [`api`] lives on one thread, the device thread.
//! There is no lock around the graph: see `docs/ARCHITECTURE.md`.

pub mod api;
pub mod backing;
pub mod below;
pub mod bitmap;
pub mod check;
pub mod commit;
pub mod copy;
pub mod disk;
pub mod engine;
pub mod extent;
pub mod graph;
mod jobs;
pub mod nbd;
pub mod qcow2;
pub mod qed;
pub mod rebase;
mod root_table;
mod size;
mod stop;
mod table_cache;
pub mod unix_socket;

#[cfg(test)]
mod chain_tests;
#[cfg(test)]
mod sim_tests;
