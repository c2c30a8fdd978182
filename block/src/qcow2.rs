//! qcow2, versions 2 and 3 (specification: QEMU's `docs/interop/qcow2`).
//!
//! Everything is async on one thread. No table is locked while data moves: what was looked up is
//! looked up again after an await, or is held by a claim (clusters being allocated) or an
//! [`freed::Operation`] (clusters being read or written). Tables are changed in memory, in cached
//! slices, once the data they point to has been written; `flush.rs` writes them back in the order
//! that rules W1 to W4 ask for.

mod admin;
mod data;
mod layout;
mod order;
mod space;
mod tables;

use std::cell::{Cell, RefCell};

pub use admin::{
    amend::{Amend, amend},
    create::{CreateOptions, Preallocation, create},
    measure::{Measured, measure},
    open::{Damaged, OpenOptions},
    snapshot::Snapshot,
};
pub use data::{compression::Compression, data_file::DataFile, pack::Packed};
pub use space::freed::Operation;

use crate::{
    backing::Backing,
    error::{IoError, IoResult},
    exec::sync::Lock,
    root_table::RootTable,
    stop::Stop,
    storage::Storage,
    table_cache::TableCache,
};
use admin::bitmaps::PersistentBitmaps;
use data::{claims::Claims, unpacked::Unpacked};
use layout::{geometry::Geometry, header, header_area::HeaderArea};
use order::flush::Flushes;
use space::{freed::Freed, metadata_map::MetadataMap, refcount::Refcounts};

/// Bytes of the shortest header, that of version 2.
pub const SHORTEST_HEADER: u64 = header::V2_LEN as u64;

/// An open qcow2 image.
///
/// The caller keeps overlapping requests apart where their order matters: reads and writes may
/// overlap each other, but while [`Qcow2::discard`], [`Qcow2::write_zeroes`] with `unmap` or
/// [`Qcow2::write_if_unallocated`] runs, nothing else runs on the same clusters.
pub struct Qcow2 {
    file: Storage,
    /// Where guest data lies: `file`, or an external data file.
    data: Storage,
    /// Guest data can be read; otherwise only what the header says is known.
    readable: bool,
    geometry: Geometry,
    /// Bytes of the virtual disk.
    size: Cell<u64>,
    read_only: Cell<bool>,
    /// Holes are punched where clusters are freed.
    discard: bool,
    area: RefCell<HeaderArea>,
    /// Why there is no refcount table, in an image that has been opened for a check.
    lost_refcounts: Option<String>,
    l1: RootTable,
    l2: TableCache,
    refcounts: Refcounts,
    metadata: MetadataMap,
    claims: Claims,
    freed: Freed,
    compression: Compression,
    unpacked: Unpacked,
    /// Held while a compressed cluster is unpacked.
    unpacking: Lock,
    /// Where the next compressed cluster goes, if one is being filled.
    packing: Cell<Option<u64>>,
    flushes: Flushes,
    bitmaps: PersistentBitmaps,
    /// Refcounts are written when the image is closed; until then it is marked dirty.
    lazy: bool,
    /// Held while a new L2 table is linked.
    linking: Lock,
    /// Held while the header is changed.
    header_edit: Lock,
    /// Unknown autoclear bits have been cleared: the image may be written to.
    write_ready: Cell<bool>,
    /// A metadata write failed (rule W6).
    stopped: Stop,
}

impl Qcow2 {
    /// Bytes of the virtual disk.
    pub fn virtual_size(&self) -> u64 {
        self.size.get()
    }

    /// Bytes in a cluster.
    pub fn cluster_size(&self) -> u64 {
        self.geometry.cluster_size()
    }

    /// Bytes that may be held or not by themselves: a subcluster with extended L2 entries,
    /// otherwise a cluster.
    pub fn subcluster_size(&self) -> u64 {
        self.geometry.subcluster_size()
    }

    /// Version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.geometry.version
    }

    /// The backing file, as the header names it.
    pub fn backing(&self) -> Option<Backing> {
        self.area.borrow().backing()
    }

    /// Whether writes are refused: the image was opened so, and not prepared for writing since.
    pub fn is_read_only(&self) -> bool {
        self.read_only.get()
    }

    /// The file.
    pub fn file(&self) -> &Storage {
        &self.file
    }

    /// Whether writing has stopped after a metadata write error (rule W6).
    pub fn is_stopped(&self) -> bool {
        self.stopped.is_set()
    }

    /// Keeps clusters that are looked up from now on from being given to anyone else, until the
    /// guard is dropped: for whoever reads the file where [`Qcow2::extent`] says.
    pub fn pin(&self) -> Operation {
        self.freed.operation()
    }

    /// Whether the image was not closed cleanly, so that its refcounts may be stale.
    pub fn is_dirty(&self) -> bool {
        let incompatible = self.area.borrow().header.incompatible;
        incompatible.contains(header::Incompatible::DIRTY)
    }

    fn corrupt(&self, what: impl Into<String>) -> IoError {
        IoError::Corrupt {
            file: self.file.path().to_owned(),
            what: what.into(),
        }
    }

    fn unsupported(&self, what: impl Into<String>) -> IoError {
        IoError::Unsupported {
            file: self.file.path().to_owned(),
            what: what.into(),
        }
    }

    fn check_running(&self) -> IoResult<()> {
        self.stopped.check(&self.file)
    }

    /// Rule W6: what the file holds is no longer known for certain, so nothing more is written.
    /// A file that finds no room is no such error: the same write is tried again later.
    fn stop_after(&self, error: &IoError) {
        if !matches!(error, IoError::NoSpace { .. }) {
            self.stop(error);
        }
    }

    fn stop(&self, error: &IoError) {
        self.stopped.set(&self.file, error);
    }

    fn check_range(&self, offset: u64, len: u64) -> IoResult<()> {
        if !self.readable {
            return Err(self.unsupported("reading data of an image opened for its header"));
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.size.get() => Ok(()),
            _ => Err(IoError::OutOfRange),
        }
    }
}

#[cfg(test)]
mod tests;
