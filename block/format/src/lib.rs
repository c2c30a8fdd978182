//! Formats of images: qcow2 and QED, and what they share.
//!
//! A format knows its file ([`strata_storage::Storage`]) and what lies [below](below::Below) it,
//! and nothing of chains, disks or jobs. No format knows another.

#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]

pub mod backing;
pub mod below;
pub mod bitmap;
pub mod check;
pub mod extent;
pub mod names;
pub mod qcow2;
pub mod qed;
mod root_table;
pub mod size;
mod stop;
mod table_cache;
pub mod under_way;
