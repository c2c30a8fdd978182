//! Which clusters of the file are in use, and which are free.

pub(in crate::qcow2) mod adjacent;
pub(in crate::qcow2) mod alloc;
pub(in crate::qcow2) mod empty_blocks;
pub(in crate::qcow2) mod freed;
pub(in crate::qcow2) mod metadata_map;
pub(in crate::qcow2) mod refcount;
