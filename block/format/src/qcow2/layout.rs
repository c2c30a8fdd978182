//! What the bytes of an image mean: header, tables, entries. Nothing here keeps any state.

pub(in crate::qcow2) mod bitmap_directory;
pub(in crate::qcow2) mod bitmap_table;
pub(in crate::qcow2) mod data_file;
pub(in crate::qcow2) mod entry;
pub(in crate::qcow2) mod extensions;
pub(in crate::qcow2) mod fields;
pub(in crate::qcow2) mod geometry;
pub(in crate::qcow2) mod header;
pub(in crate::qcow2) mod header_area;
pub(in crate::qcow2) mod snapshot_table;
pub(in crate::qcow2) mod width;
