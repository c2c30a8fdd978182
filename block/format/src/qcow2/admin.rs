//! What administers an image and is no guest's request: opening and closing, making, checking,
//! snapshots, bitmaps on disk, the size, other options.
//!
//! Lies on all other parts.

pub(in crate::qcow2) mod amend;
mod bitmaps;
pub(in crate::qcow2) mod check;
mod close;
mod copied;
pub(in crate::qcow2) mod create;
pub(in crate::qcow2) mod empty;
mod info;
pub(in crate::qcow2) mod measure;
pub(in crate::qcow2) mod open;
mod preallocate;
mod prepare;
mod resize;
mod set_backing;
pub(in crate::qcow2) mod snapshot;
