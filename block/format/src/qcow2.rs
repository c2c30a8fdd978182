//! qcow2, versions 2 and 3 (specification: QEMU's `docs/interop/qcow2`).
//!
//! An image is made of parts, each a directory with a struct whose fields only it can touch. A part
//! uses those below it and has no way to the others:
//!
//! | part | is | lies on |
//! |---|---|---|
//! | `admin` | opening, making, checking, snapshots, bitmaps on disk, sizes, other options | all |
//! | `data` | reading, writing, zeroing, copying up, compressed clusters | `order` and below |
//! | `order` | flushing: when what is written (W1 to W4); moving L1 | `tables` and below |
//! | `tables` | L1, cached slices of L2, looking up and changing entries | `space`, `file` |
//! | `space` | allocating and releasing clusters, refcounts (W3), where metadata lies | `file` |
//! | `file` | the header and its changes (W5), stopping (W6), the mark before the first write | |
//! | `layout` | what bytes mean: header, entries, sizes | |
//!
//! Everything is async on one thread. No table is locked while data moves: what was looked up is
//! looked up again after an await, or is held by a claim (clusters being allocated) or an
//! [`Operation`] (clusters being read or written). Tables are changed in memory, in cached slices,
//! once the data they point to has been written; `order` writes them back in the order that rules
//! W1 to W4 ask for.
//!
//! A task takes locks in this order, and may leave out any of them (`lock_order`, which asserts it
//! in debug builds):
//!
//! 1. a claim (`data`): its holder never waits for another one, and no task waits for one while it
//!    holds a lock
//! 2. *unpacking* (`data`): a compressed cluster is unpacked; nothing is taken meanwhile
//! 3. *linking* (`tables`): a new L2 table is linked, or L1 is replaced
//! 4. *refcounts* (`space`): refcounts change
//! 5. *writing tables* (`file`): tables are written to the file, in a flush or to make room
//! 6. *header* (`file`): the header changes

mod admin;
mod data;
mod file;
mod layout;
mod lock_order;
mod order;
mod space;
mod tables;

use std::rc::Rc;

pub use admin::{
    amend::{Amend, amend},
    create::{CreateOptions, Preallocation, create},
    empty::DroppedTables,
    measure::{Measured, measure},
    open::{Damaged, OpenOptions},
    snapshot::Snapshot,
};
pub use data::{Compression, Packed};
pub use layout::data_file::DataFile;
pub use space::Operation;

use strata_exec::mem::SgList;
use strata_storage::{Storage, error::IoResult};

use crate::{backing::Backing, below::Below, bitmap::Bitmaps, extent::Extent, under_way::UnderWay};
use data::Data;
use file::ImageFile;
use layout::{geometry::Geometry, header};
use order::Order;
use space::Space;
use tables::Tables;

/// Bytes of the shortest header, that of version 2.
pub const SHORTEST_HEADER: u64 = header::V2_LEN as u64;

/// An open qcow2 image.
///
/// The caller keeps overlapping requests apart where their order matters: reads and writes may
/// overlap each other, but while [`Qcow2::discard`], [`Qcow2::write_zeroes`] with `unmap` or
/// [`Qcow2::write_if_unallocated`] runs, nothing else runs on the same clusters.
pub struct Qcow2 {
    file: Rc<ImageFile>,
    space: Rc<Space>,
    tables: Rc<Tables>,
    order: Rc<Order>,
    data: Data,
    geometry: Geometry,
    /// Why there is no refcount table, in an image that has been opened for a check.
    lost_refcounts: Option<String>,
    /// All bitmaps of the layer, also those that are not persistent.
    bitmaps: Rc<Bitmaps>,
}

/// What a layer of a disk does.
impl Qcow2 {
    /// What tasks hold of it, or wait for.
    pub fn under_way(&self) -> UnderWay {
        self.data.under_way()
    }

    /// How the disk is stored from `offset` on, for up to `len` bytes. `len` is not 0.
    ///
    /// # Errors
    /// The range does not lie on the disk; the tables cannot be read or are corrupt.
    pub async fn extent(&self, offset: u64, len: u64) -> IoResult<Extent> {
        self.data.extent(offset, len).await
    }

    /// As [`Qcow2::extent`], and where in the file it lies or would lie: also for what a host
    /// cluster is kept for.
    ///
    /// # Errors
    /// As [`Qcow2::extent`].
    pub async fn placed_extent(&self, offset: u64, len: u64) -> IoResult<(Extent, Option<u64>)> {
        self.data.placed_extent(offset, len).await
    }

    /// Fills `data` from compressed clusters, which [`Qcow2::extent`] has found at `offset`.
    ///
    /// # Errors
    /// Reading or unpacking failed.
    pub async fn read_compressed(&self, offset: u64, data: SgList) -> IoResult<()> {
        self.data.read_compressed(offset, data).await
    }

    /// Writes `data` at `offset` of the disk. Parts of clusters that this layer does not hold yet
    /// are filled in from `below`.
    ///
    /// # Errors
    /// The range does not lie on the disk; the image is read-only or has stopped; the host's
    /// error. What the range holds then is undefined.
    pub async fn write(&self, offset: u64, data: SgList, below: &dyn Below) -> IoResult<()> {
        self.data.write(offset, data, below).await
    }

    /// Writes `data` to those subclusters of the range that this layer does not hold yet, as zeros
    /// where it is all zeros; leaves the others as they are. What the disk shows stays the same.
    ///
    /// # Errors
    /// As [`Qcow2::write`].
    pub async fn write_if_unallocated(
        &self,
        offset: u64,
        data: SgList,
        below: &dyn Below,
    ) -> IoResult<()> {
        self.data.write_if_unallocated(offset, data, below).await
    }

    /// As [`Qcow2::write_if_unallocated`], for zeros.
    ///
    /// # Errors
    /// As [`Qcow2::write`].
    pub async fn zero_if_unallocated(
        &self,
        offset: u64,
        len: u64,
        below: &dyn Below,
    ) -> IoResult<()> {
        self.data.zero_if_unallocated(offset, len, below).await
    }

    /// Makes the range read as zeros, whatever lies below. With `unmap` host clusters are freed.
    ///
    /// # Errors
    /// As [`Qcow2::write`].
    pub async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        unmap: bool,
        below: &dyn Below,
    ) -> IoResult<()> {
        self.data.write_zeroes(offset, len, unmap, below).await
    }

    /// Gives up the content of whole subclusters in the range. They read as zeros afterwards, or as
    /// before; never as what lies below, unless they did before.
    ///
    /// # Errors
    /// As [`Qcow2::write`].
    pub async fn discard(&self, offset: u64, len: u64, below: &dyn Below) -> IoResult<()> {
        self.data.discard(offset, len, below).await
    }

    /// Compresses one cluster of the disk; `data` may be shorter, at the end of the disk. `None` if
    /// it does not get shorter.
    pub async fn pack(&self, data: &SgList) -> Option<Packed> {
        self.data.pack(data).await
    }

    /// Writes one whole cluster of the disk, compressed.
    ///
    /// # Errors
    /// As [`Qcow2::write`]; `offset` is not that of a cluster.
    pub async fn write_packed(&self, offset: u64, packed: Packed) -> IoResult<()> {
        self.data.write_packed(offset, packed).await
    }

    /// Makes everything durable that was acknowledged before the call.
    ///
    /// # Errors
    /// The host's error. After an error of metadata the image is not written any more (rule W6).
    pub async fn flush(&self) -> IoResult<()> {
        self.order.flush().await
    }

    /// Keeps clusters that are looked up from now on from being allocated again, until the guard
    /// is dropped: for a caller that reads the file where [`Qcow2::extent`] says.
    pub fn pin(&self) -> Operation {
        self.space.operation()
    }
}

/// What an image is.
impl Qcow2 {
    /// Bytes of the virtual disk.
    pub fn virtual_size(&self) -> u64 {
        self.data.size()
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
        self.file.area().backing()
    }

    /// Whether writes are refused: the image was opened so, and not prepared for writing since.
    pub fn is_read_only(&self) -> bool {
        self.file.is_read_only()
    }

    /// The file.
    pub fn file(&self) -> &Storage {
        self.file.storage()
    }

    /// The file that holds guest data, where [`Qcow2::extent`] says: the image's own, or an
    /// external data file.
    pub fn data_storage(&self) -> &Storage {
        self.file.data()
    }

    /// The external data file, open, if the image has one.
    pub fn external_data(&self) -> Option<&Storage> {
        self.geometry.external_data.then(|| self.file.data())
    }

    /// The external data file as the header names it, if the image has one.
    pub fn data_file(&self) -> Option<DataFile> {
        DataFile::in_header(&self.file.area())
    }

    /// The layer's bitmaps, which the caller keeps up to date: whatever changes a persistent one
    /// comes after [`Qcow2::begin_bitmap_change`].
    pub fn bitmaps(&self) -> &Rc<Bitmaps> {
        &self.bitmaps
    }

    /// Whether writing has stopped after a metadata write error (rule W6).
    pub fn is_stopped(&self) -> bool {
        self.file.is_stopped()
    }

    /// Whether the image was not closed cleanly, so that its refcounts may be stale.
    pub fn is_dirty(&self) -> bool {
        self.file.is_dirty()
    }
}

#[cfg(test)]
mod tests;
