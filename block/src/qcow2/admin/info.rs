//! What `qemu-img info` says of the format.

use serde_json::{Map, Value, json};

use crate::{
    error::IoResult,
    qcow2::{
        DataFile, Qcow2,
        data::data_file::is_raw,
        layout::{
            geometry::HostCluster,
            header::{Incompatible, LAZY_REFCOUNTS},
            width,
        },
    },
};

impl Qcow2 {
    /// Whether clearly more clusters are in use than the file takes space: then tables may have
    /// been preallocated, and data may be a hole in the file.
    ///
    /// # Errors
    /// The refcounts cannot be read.
    pub async fn is_mostly_holes(&self) -> IoResult<bool> {
        let Some(bytes) = self.file.allocated_bytes() else {
            return Ok(false);
        };
        let stored = bytes >> self.geometry.cluster_bits;
        let threshold = (stored * 10 / 9).max(stored + 2);
        let lock = self.refcounts.lock().await;
        let (mut used, mut at) = (0, 0);
        let order = self.geometry.refcount_order;
        let counted = self.refcounts.table.len() as u64 * self.geometry.refcounts_per_block();
        let end = self.geometry.clusters_for(self.file.len()).min(counted);
        while at < end && used < threshold {
            let cluster = HostCluster(at);
            let Some((slice, index)) = self.refcount_slice(&lock, cluster).await? else {
                at += self.geometry.refcounts_per_block();
                continue;
            };
            let end = self.geometry.refcounts_per_slice() as usize;
            let counts = slice.with(|bytes| {
                let counts = (index..end).map(|i| width::get(bytes, order, i));
                counts.filter(|count| *count > 0).count()
            });
            used += counts as u64;
            at += (end - index) as u64;
        }
        Ok(used >= threshold)
    }

    /// How the data is encrypted, in QEMU's words.
    pub fn encryption(&self) -> Option<&'static str> {
        match self.area.borrow().header.crypt_method {
            0 => None,
            1 => Some("aes"),
            _ => Some("luks"),
        }
    }

    /// `ImageInfoSpecific`: version and features, with the names of QEMU's schema.
    pub fn format_specific(&self) -> Value {
        let area = self.area.borrow();
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
            say("data-file-raw", is_raw(header).into());
        }
        if !old {
            say("corrupt", has(Incompatible::CORRUPT).into());
            say("extended-l2", has(Incompatible::EXTENDED_L2).into());
        }
        json!({ "type": "qcow2", "data": data })
    }
}
