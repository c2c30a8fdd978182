//! The node graph: layers, the chains that they form, and the disks on top.

#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]

mod accounting;
mod backend;
#[cfg(test)]
mod bench;
pub mod bitmaps;
pub mod chain;
pub mod commit;
pub mod copy;
mod create;
mod data_file;
pub mod disk;
mod edit;
mod foreign;
mod format;
mod guest_disk;
mod hold;
mod image;
mod index;
mod inflight;
mod kept;
mod layer_disk;
mod mirror;
mod named_layer;
mod named_request;
mod names;
mod node;
mod policy;
mod reading;
pub mod rebase;
pub mod spec;
mod survey;
mod walk;

#[cfg(test)]
mod chain_tests;

pub use accounting::{Accounting, Counts, Kind};
pub use backend::{
    Backend, ErrorPolicy, Limit, Limits, OnRequestError, ThrottleGroup, ThrottleLimits, Throttling,
};
pub use create::create_image_in;
pub use create::{NewImage, create_image, replace_image};
pub use edit::{Edit, EditError};
pub use format::Format;
pub use guest_disk::{
    DetectZeroes, DiskOptions, ErrorAction, FailedRequest, FailureSink, GuestDisk, IoStatus,
};
pub use hold::{Busy, Hold, Purpose};
pub use image::{Dropped, Image};
pub use kept::Kept;
pub use layer_disk::LayerDisk;
pub use mirror::{CopyError, Mirror};
pub use named_layer::{NoSuchLayer, named_layer};
pub use named_layer::{check_leads_to, name_for};
pub use names::{NameError, Names};
pub use node::Node;
pub use reading::Reading;
pub use walk::{Found, Walk};

pub use strata_format::names::Name;
