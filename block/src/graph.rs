//! The node graph: layers, the chains that they form, and the disks on top.

mod above;
pub mod bitmaps;
pub mod chain;
mod data_file;
mod foreign;
mod format;
mod guest_disk;
pub mod inflight;
mod node;
mod policy;
mod survey;

pub use format::Format;
pub(crate) use guest_disk::EventSink;
pub use guest_disk::{DetectZeroes, DiskOptions, GuestDisk, IoStatus};
pub use node::Node;
