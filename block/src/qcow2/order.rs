//! When metadata is written: rules W1 to W6.

pub(in crate::qcow2) mod flush;
pub(in crate::qcow2) mod header_edit;
