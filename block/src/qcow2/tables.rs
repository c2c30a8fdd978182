//! Where the clusters of the disk lie: L1 and L2.

pub(in crate::qcow2) mod l2_table;
pub(in crate::qcow2) mod mapping;
