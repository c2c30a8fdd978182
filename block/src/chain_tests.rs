//! Commits and rebases of chains on simulated files, with power cuts at every moment.

mod commit;
mod rebase;
mod support;
