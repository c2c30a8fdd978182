//! Chains of layers: commits and rebases on simulated files, with power cuts at every moment;
//! layers that become writable below others, or record what changes; external data files.

mod bitmaps;
mod commit;
mod data_file;
mod index;
mod rebase;
mod support;
mod writing;
