//! Commands about dirty bitmaps, and what is said of them (`qapi/block-core.json`).

use serde::Serialize;

/// A bitmap, for commands that name several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapRef {
    /// The layer that it belongs to; where the command says, if `None`.
    pub node: Option<String>,
    /// Its name.
    pub name: String,
}

/// A command about one layer's bitmaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapCmd {
    /// The disk, or the node name of a layer.
    pub node: String,
    /// The bitmap.
    pub name: String,
    /// What becomes of it.
    pub change: BitmapChange,
}

/// What is to become of a bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BitmapChange {
    /// `block-dirty-bitmap-add`.
    Add {
        /// Bytes that share a bit; the cluster size, within limits, if `None`.
        granularity: Option<u32>,
        /// It is stored in the image.
        persistent: bool,
        /// It does not record yet.
        disabled: bool,
    },
    /// `block-dirty-bitmap-remove`.
    Remove,
    /// `block-dirty-bitmap-clear`: nothing is dirty any more.
    Clear,
    /// `block-dirty-bitmap-enable`: writes are recorded; `-disable`: they are no longer.
    Record(bool),
    /// `block-dirty-bitmap-merge`: what is dirty in others is dirty in this one, too.
    Merge(Vec<BitmapRef>),
}

/// `BlockDirtyInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BitmapInfo {
    /// Its name.
    pub name: String,
    /// Writes are recorded.
    pub recording: bool,
    /// It is stored in the image.
    pub persistent: bool,
    /// It was not stored when it should have been, and can only be removed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub inconsistent: bool,
    /// An export uses it.
    pub busy: bool,
    /// Bytes that share a bit.
    pub granularity: u64,
    /// Bytes that are dirty.
    pub count: u64,
}
