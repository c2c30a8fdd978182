//! What lies on the disk: reading, writing, zeroing.

pub(in crate::qcow2) mod claims;
pub(in crate::qcow2) mod compression;
pub(in crate::qcow2) mod cow;
pub(in crate::qcow2) mod data_file;
pub(in crate::qcow2) mod pack;
pub(in crate::qcow2) mod read;
pub(in crate::qcow2) mod unpacked;
pub(in crate::qcow2) mod write;
pub(in crate::qcow2) mod zero;
