//! What `qemu-img info` says of the format.

use serde_json::{Value, json};

use super::{
    Qcow2,
    header::{Incompatible, LAZY_REFCOUNTS},
};

impl Qcow2 {
    /// `ImageInfoSpecific`: version and features, with the names of QEMU's schema.
    pub fn format_specific(&self) -> Value {
        let area = self.area.borrow();
        let header = &area.header;
        let compression = ["zlib", "zstd"][usize::from(header.compression_type() == 1)];
        let has = |bit| header.incompatible.contains(bit);
        let data = if header.geometry.version == 2 {
            json!({
                "compat": "0.10",
                "compression-type": compression,
                "refcount-bits": 16,
            })
        } else {
            json!({
                "compat": "1.1",
                "compression-type": compression,
                "lazy-refcounts": header.compatible & LAZY_REFCOUNTS != 0,
                "refcount-bits": 1u64 << header.geometry.refcount_order,
                "corrupt": has(Incompatible::CORRUPT),
                "extended-l2": has(Incompatible::EXTENDED_L2),
            })
        };
        json!({ "type": "qcow2", "data": data })
    }
}
