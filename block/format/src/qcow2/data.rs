//! What lies on the disk: reading, writing, zeroing, discarding, copying up, compressed clusters.
//!
//! Lies on [`file`](super::file), [`space`](super::space), [`tables`](super::tables) and
//! [`order`](super::order).

mod claims;
mod compression;
mod cow;
mod external;
mod pack;
mod read;
mod unpacked;
mod write;
mod zero;

use std::{cell::Cell, rc::Rc};

use claims::Claims;
pub use compression::Compression;
pub use pack::Packed;
use unpacked::Unpacked;

use strata_storage::error::{IoError, IoResult};

use crate::qcow2::{
    file::ImageFile,
    layout::geometry::Geometry,
    lock_order::{LockOrder, Rank, RankedLock},
    order::Order,
    space::Space,
    tables::Tables,
};

/// The disk that an open image holds.
pub(in crate::qcow2) struct Data {
    file: Rc<ImageFile>,
    space: Rc<Space>,
    tables: Rc<Tables>,
    order: Rc<Order>,
    geometry: Geometry,
    /// Bytes of the virtual disk.
    size: Cell<u64>,
    /// Guest data can be read; otherwise only what the header says is known.
    readable: bool,
    /// Holes are punched where clusters are given up.
    discard: bool,
    claims: Claims,
    compression: Compression,
    unpacked: Unpacked,
    /// Held while a compressed cluster is unpacked.
    unpacking: RankedLock,
}

/// What a disk has from the beginning.
pub(in crate::qcow2) struct DataOptions {
    pub size: u64,
    pub readable: bool,
    pub discard: bool,
    pub compression: Compression,
}

impl Data {
    /// The disk that `tables` map.
    pub fn new(
        file: Rc<ImageFile>,
        space: Rc<Space>,
        tables: Rc<Tables>,
        order: Rc<Order>,
        options: DataOptions,
        locks: &Rc<LockOrder>,
    ) -> Self {
        let geometry = *file.geometry();
        Self {
            file,
            space,
            tables,
            order,
            geometry,
            size: Cell::new(options.size),
            readable: options.readable,
            discard: options.discard,
            claims: Claims::new(locks.clone()),
            compression: options.compression,
            unpacked: Unpacked::default(),
            unpacking: RankedLock::new(Rank::Unpacking, locks),
        }
    }

    /// Whether guest data can be read.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Bytes of the virtual disk.
    pub fn size(&self) -> u64 {
        self.size.get()
    }

    /// The disk has another size from now on. The header follows, or has said so already.
    pub fn set_size(&self, size: u64) {
        self.size.set(size);
    }

    fn check_range(&self, offset: u64, len: u64) -> IoResult<()> {
        if !self.readable {
            let what = "reading data of an image opened for its header";
            return Err(self.file.unsupported(what));
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.size.get() => Ok(()),
            _ => Err(IoError::OutOfRange),
        }
    }
}
