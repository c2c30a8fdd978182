//! What `qemu-img info` says of the format.

use serde_json::{Map, Value, json};
use strata_storage::error::IoResult;

use crate::qcow2::{
    DataFile, Qcow2,
    layout::header::{Incompatible, LAZY_REFCOUNTS},
};

impl Qcow2 {
    /// Whether clearly more clusters are in use than the file takes space: then tables may have
    /// been preallocated, and data may be a hole in the file.
    ///
    /// # Errors
    /// The refcounts cannot be read.
    pub async fn is_mostly_holes(&self) -> IoResult<bool> {
        let Some(bytes) = self.file.storage().allocated_bytes() else {
            return Ok(false);
        };
        let stored = bytes >> self.geometry.cluster_bits;
        let threshold = (stored * 10 / 9).max(stored + 2);
        let end = self.geometry.clusters_for(self.file.storage().len());
        self.space.has_in_use(threshold, end).await
    }

    /// How the data is encrypted, in QEMU's words.
    pub fn encryption(&self) -> Option<&'static str> {
        match self.file.area().header.crypt_method {
            0 => None,
            1 => Some("aes"),
            _ => Some("luks"),
        }
    }

    /// `ImageInfoSpecific`: version and features, with the names of QEMU's schema.
    pub fn format_specific(&self) -> Value {
        let area = self.file.area();
        let header = &area.header;
        let compression = ["zlib", "zstd"][usize::from(header.compression_type() == 1)];
        let has = |bit| header.incompatible.contains(bit);
        let mut data = Map::new();
        let mut say = |name: &str, value: Value| data.insert(name.to_owned(), value);
        let old = header.geometry.version == 2;
        say("compat", if old { "0.10" } else { "1.1" }.into());
        say("compression-type", compression.into());
        if !old {
            let lazy = header.compatible & LAZY_REFCOUNTS != 0;
            say("lazy-refcounts", lazy.into());
        }
        if let Some(bitmaps) = self.describe_bitmaps() {
            say("bitmaps", bitmaps);
        }
        let refcount_bits = 1u64 << header.geometry.refcount_order;
        say("refcount-bits", refcount_bits.into());
        if let Some(format) = self.encryption() {
            say("encrypt", json!({ "format": format }));
        }
        if let Some(file) = DataFile::in_header(&area) {
            say("data-file", file.name.display().to_string().into());
        }
        if header.geometry.external_data {
            say("data-file-raw", header.has_raw_data().into());
        }
        if !old {
            say("corrupt", has(Incompatible::CORRUPT).into());
            say("extended-l2", has(Incompatible::EXTENDED_L2).into());
        }
        json!({ "type": "qcow2", "data": data })
    }
}
