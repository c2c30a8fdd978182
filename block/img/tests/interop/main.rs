//! Images of every feature, both ways: made by QEMU's tools and used by us, made by us and used by
//! them; and a second library's opinion.

#![allow(clippy::unwrap_used)]

mod bitmaps;
mod growth;
mod made_by_qemu;
mod made_by_us;
mod matrix;
mod requests;
mod second_opinion;
mod snapshots;
mod support;
