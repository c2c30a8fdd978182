//! Commands about dirty bitmaps, and what is said of them (`qapi/block-core.json`).

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// A bitmap, for commands that name several: `BlockDirtyBitmapOrStr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapRef {
    /// The layer that it belongs to; where the command says, if `None`.
    pub node: Option<String>,
    /// Its name.
    pub name: String,
}

/// `BlockDirtyBitmap`: a bitmap of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockDirtyBitmap {
    /// The disk, or the node name of a layer.
    pub node: String,
    /// The bitmap.
    pub name: String,
}

/// A name alone is a string; with a layer it is an object.
impl Serialize for BitmapRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = self.name.clone();
        match self.node.clone() {
            None => name.serialize(serializer),
            Some(node) => BlockDirtyBitmap { node, name }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for BitmapRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BitmapRefVisitor)
    }
}

struct BitmapRefVisitor;

impl<'de> Visitor<'de> for BitmapRefVisitor {
    type Value = BitmapRef;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("object")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<BitmapRef, E> {
        Ok(BitmapRef {
            node: None,
            name: name.to_owned(),
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<BitmapRef, A::Error> {
        let BlockDirtyBitmap { node, name } =
            BlockDirtyBitmap::deserialize(MapAccessDeserializer::new(members))?;
        Ok(BitmapRef {
            node: Some(node),
            name,
        })
    }
}

/// `BlockDirtyBitmapAdd`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockDirtyBitmapAdd {
    /// The disk, or the node name of a layer.
    pub node: String,
    /// The bitmap.
    pub name: String,
    /// Bytes that share a bit; the cluster size, within limits, if `None`.
    pub granularity: Option<u32>,
    /// It is stored in the image; it is not if `None`.
    pub persistent: Option<bool>,
    /// It does not record yet; it does if `None`.
    pub disabled: Option<bool>,
}

/// `BlockDirtyBitmapMerge`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockDirtyBitmapMerge {
    /// The disk, or the node name of a layer.
    pub node: String,
    /// The bitmap that changes.
    pub target: String,
    /// Those that are merged into it.
    pub bitmaps: Vec<BitmapRef>,
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
