//! Tests of whole images. Those of parts lie beside the parts.

mod amend;
mod bad_images;
mod bitmaps;
mod chain;
mod compressed;
mod crash;
mod data_file;
mod extended;
mod interop;
mod lazy;
mod model;
mod no_room;
mod order;
mod parts;
mod refusals;
mod repair;
mod resize;
mod snapshot_ops;
mod snapshots;
mod subclusters;
mod support;
