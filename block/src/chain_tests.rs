//! Commits and rebases of chains on simulated files, with power cuts at every moment, and layers that
//! become writable below others.

mod commit;
mod rebase;
mod support;
mod writing;
