//! Everything that is not a guest's request.

pub(in crate::qcow2) mod amend;
pub(in crate::qcow2) mod bitmaps;
pub(in crate::qcow2) mod check;
pub(in crate::qcow2) mod copied;
pub(in crate::qcow2) mod create;
pub(in crate::qcow2) mod empty;
pub(in crate::qcow2) mod info;
pub(in crate::qcow2) mod l1_table;
pub(in crate::qcow2) mod measure;
pub(in crate::qcow2) mod open;
pub(in crate::qcow2) mod preallocate;
pub(in crate::qcow2) mod prepare;
pub(in crate::qcow2) mod resize;
pub(in crate::qcow2) mod snapshot;
