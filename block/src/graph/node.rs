//! [`Node`]: one layer of a chain.

mod amend;
mod any_byte;
mod offload;
mod read;
mod resize;
mod writing;

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    path::{Path, PathBuf},
    rc::Rc,
};

pub(super) use any_byte::whole_sectors;
use read::read_chain;

use super::{
    Format, Name, hold,
    inflight::{InFlight, InFlightGuard, Mode},
    reading::Readers,
};
use crate::{
    backing::Backing,
    below::Below,
    bitmap::{Bitmaps, Recorded},
    check::{CheckReport, Repair},
    error::{IoError, IoResult, Result},
    exec::LocalBoxFuture,
    extent::{Extent, ExtentKind},
    mem::SgList,
    qcow2::{Packed, Qcow2},
    qed::Qed,
    storage::{Access, Storage},
};

/// How a layer's bytes are laid out in its file.
enum Driver {
    Raw(Storage),
    Qcow2(Box<Qcow2>),
    Qed(Box<Qed>),
}

/// One layer of a chain: a file, its format, and what lies below.
///
/// All I/O that may meet other I/O goes through the layer's in-flight table. Readers of a layer that
/// takes no writes only count themselves ([`Reading`](super::Reading)).
pub struct Node {
    name: Name,
    path: PathBuf,
    driver: Driver,
    size: Cell<u64>,
    writable: Cell<bool>,
    backing: RefCell<Option<Rc<Node>>>,
    in_flight: InFlight,
    readers: Rc<Readers>,
    bitmaps: Rc<Bitmaps>,
    held: hold::Slot,
}

impl Node {
    /// A layer on `file`, whose name for people and monitors is `name`.
    pub(super) fn raw(name: Name, file: Storage) -> Self {
        // QEMU shows a last, partial sector to the guest as a whole one.
        let size = file.len().next_multiple_of(512);
        Self::new(
            name,
            file.path().to_owned(),
            size,
            !file.is_read_only(),
            Driver::Raw(file),
        )
    }

    pub(crate) fn qcow2(name: Name, path: &Path, writable: bool, image: Qcow2) -> Self {
        let size = image.virtual_size();
        Self::new(
            name,
            path.to_owned(),
            size,
            writable,
            Driver::Qcow2(Box::new(image)),
        )
    }

    pub(crate) fn qed(name: Name, path: &Path, writable: bool, image: Qed) -> Self {
        let size = image.virtual_size();
        Self::new(
            name,
            path.to_owned(),
            size,
            writable,
            Driver::Qed(Box::new(image)),
        )
    }

    fn new(name: Name, path: PathBuf, size: u64, writable: bool, driver: Driver) -> Self {
        let bitmaps = match &driver {
            Driver::Qcow2(image) => image.bitmaps().clone(),
            Driver::Raw(_) | Driver::Qed(_) => Rc::default(),
        };
        Self {
            name,
            path,
            driver,
            size: Cell::new(size),
            writable: Cell::new(writable),
            backing: RefCell::default(),
            in_flight: InFlight::default(),
            readers: Rc::default(),
            bitmaps,
            held: hold::Slot::default(),
        }
    }

    /// The node's name in the monitor.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Where it is noted what the layer is held for.
    pub(super) fn hold_slot(&self) -> &hold::Slot {
        &self.held
    }

    /// The file's name as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The layer's format.
    pub fn format(&self) -> Format {
        match self.driver {
            Driver::Raw(_) => Format::Raw,
            Driver::Qcow2(_) => Format::Qcow2,
            Driver::Qed(_) => Format::Qed,
        }
    }

    /// Bytes that the layer shows.
    pub fn size(&self) -> u64 {
        self.size.get()
    }

    /// Bytes that are allocated as one: 1 sector for raw.
    pub fn cluster_size(&self) -> u64 {
        match &self.driver {
            Driver::Raw(_) => 512,
            Driver::Qcow2(image) => image.cluster_size(),
            Driver::Qed(image) => image.cluster_size(),
        }
    }

    /// Bytes that the layer may hold or not by themselves: 1 sector for raw.
    pub fn granularity(&self) -> u64 {
        match &self.driver {
            Driver::Qcow2(image) => image.subcluster_size(),
            Driver::Raw(_) | Driver::Qed(_) => self.cluster_size(),
        }
    }

    /// Whether the layer takes writes.
    pub fn is_writable(&self) -> bool {
        self.writable.get()
    }

    /// From now on the layer is read only: a new one lies above it.
    pub(crate) fn set_read_only(&self) {
        self.writable.set(false);
    }

    /// The qcow2 image, if the layer is one.
    pub fn as_qcow2(&self) -> Option<&Qcow2> {
        match &self.driver {
            Driver::Qcow2(image) => Some(image),
            Driver::Raw(_) | Driver::Qed(_) => None,
        }
    }

    /// Whether the image was not closed cleanly.
    pub fn is_dirty(&self) -> bool {
        match &self.driver {
            Driver::Raw(_) => false,
            Driver::Qcow2(image) => image.is_dirty(),
            Driver::Qed(image) => image.is_dirty(),
        }
    }

    /// Checks the layer's metadata in its file, which nothing may be writing to; `None` if the format
    /// has none. With `repair` what is found is put right, and the layer has to be opened again: it
    /// has been opened for that ([`super::chain::ImageOptions::repair`]).
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub async fn check(&self, repair: Option<Repair>) -> IoResult<Option<CheckReport>> {
        Ok(match (&self.driver, repair) {
            (Driver::Raw(_), _) => None,
            (Driver::Qcow2(image), None) => Some(image.check().await?),
            (Driver::Qcow2(image), Some(what)) => Some(image.repair(what).await?),
            (Driver::Qed(image), None) => Some(image.check().await?),
            (Driver::Qed(image), Some(what)) => Some(image.repair(what).await?),
        })
    }

    /// Whether the layer has stopped writing after a metadata write error (rule W6).
    pub fn is_stopped(&self) -> bool {
        match &self.driver {
            Driver::Raw(_) => false,
            Driver::Qcow2(image) => image.is_stopped(),
            Driver::Qed(image) => image.is_stopped(),
        }
    }

    /// The layer's file.
    pub fn storage(&self) -> &Storage {
        match &self.driver {
            Driver::Raw(file) => file,
            Driver::Qcow2(image) => image.file(),
            Driver::Qed(image) => image.file(),
        }
    }

    /// The file that holds the layer's data, where [`Node::extent`] says: with qcow2 that can be an
    /// external data file.
    pub fn data_storage(&self) -> &Storage {
        match &self.driver {
            Driver::Raw(file) => file,
            Driver::Qcow2(image) => image.data_storage(),
            Driver::Qed(image) => image.file(),
        }
    }

    /// The layer's dirty bitmaps. Before a persistent one is changed, the image has to know of it
    /// ([`Qcow2::begin_bitmap_change`]).
    pub fn bitmaps(&self) -> &Bitmaps {
        &self.bitmaps
    }

    /// Records a change of the range when it has been made, or has failed half-way: until then the
    /// guard is held. Before, the file says that its bitmaps are in use. What a stream copies up goes
    /// by here: the disk shows the same.
    ///
    /// # Errors
    /// The image has stopped, or its file cannot be written.
    pub(super) async fn recorded(&self, offset: u64, len: u64) -> IoResult<Recorded<'_>> {
        if let Driver::Qcow2(image) = &self.driver {
            image.begin_bitmap_change().await?;
        }
        Ok(self.bitmaps.record(offset, len))
    }

    /// The layer below.
    pub fn backing(&self) -> Option<Rc<Node>> {
        self.backing.borrow().clone()
    }

    /// Puts the layer on top of another one, in memory.
    pub(crate) fn set_backing_node(&self, backing: Option<Rc<Node>>) {
        *self.backing.borrow_mut() = backing;
    }

    /// The backing file as the layer's header names it.
    pub fn backing_name(&self) -> Option<Backing> {
        match &self.driver {
            Driver::Raw(_) => None,
            Driver::Qcow2(image) => image.backing(),
            Driver::Qed(image) => image.backing(),
        }
    }

    /// This layer and those below it, from the top down.
    pub fn chain(self: &Rc<Self>) -> impl Iterator<Item = Rc<Node>> {
        std::iter::successors(Some(self.clone()), |node| node.backing())
    }

    /// What this layer alone says of a range, as jobs and maps see it: holes of raw files count as
    /// zeros, and so does everything beyond the layer's end (a longer layer below stays hidden).
    ///
    /// # Errors
    /// An I/O error on the layer's tables, or that they are corrupt.
    pub async fn extent(&self, offset: u64, len: u64) -> IoResult<Extent> {
        if let Driver::Raw(file) = &self.driver
            && offset < self.size()
        {
            let part = file.extent(offset, len.min(self.size() - offset)).await;
            let kind = if part.data {
                ExtentKind::Data {
                    host_offset: offset,
                }
            } else {
                ExtentKind::Zero
            };
            return Ok(Extent {
                len: part.len,
                kind,
            });
        }
        self.lookup(offset, len).await
    }

    /// As [`Node::extent`], for reading: raw files are one piece of data, without asking the host.
    pub(super) async fn lookup(&self, offset: u64, len: u64) -> IoResult<Extent> {
        if offset >= self.size() {
            return Ok(Extent {
                len,
                kind: ExtentKind::Zero,
            });
        }
        let len = len.min(self.size() - offset);
        match &self.driver {
            Driver::Raw(_) => Ok(Extent {
                len,
                kind: ExtentKind::Data {
                    host_offset: offset,
                },
            }),
            Driver::Qcow2(image) => image.extent(offset, len).await,
            Driver::Qed(image) => image.extent(offset, len).await,
        }
    }

    /// Reads what the guest sees at `offset`.
    ///
    /// # Errors
    /// An I/O error, or corrupt tables, of any layer that the range touches.
    pub async fn read(self: &Rc<Self>, offset: u64, data: SgList) -> IoResult<()> {
        let _reading = self.reading(offset, data.len() as u64).await?;
        read_chain(self.walk().with_top_held(), offset, data).await
    }

    /// Reads what lies below this layer at `offset`.
    ///
    /// # Errors
    /// As [`Node::read`].
    pub async fn read_backing(&self, offset: u64, data: SgList) -> IoResult<()> {
        read_chain(self.walk_below(), offset, data).await
    }

    /// Writes the guest's bytes at `offset`.
    ///
    /// # Errors
    /// An I/O error; the range's content is undefined then, everything else is as it was.
    pub async fn write(&self, offset: u64, data: SgList) -> IoResult<()> {
        self.check_writable()?;
        let _entry = self.enter(offset, data.len() as u64, Mode::Shared).await?;
        self.write_entered(offset, data).await
    }

    /// As [`Node::write`], for who has entered the range.
    async fn write_entered(&self, offset: u64, data: SgList) -> IoResult<()> {
        let _recorded = self.recorded(offset, data.len() as u64).await?;
        match &self.driver {
            Driver::Raw(file) => file.write(offset, data).await,
            Driver::Qcow2(image) => image.write(offset, data, self).await,
            Driver::Qed(image) => image.write(offset, data, self).await,
        }
    }

    /// Compresses one cluster for [`Node::write_packed`]; `None` if it does not get shorter, or the
    /// format has no compressed clusters.
    pub async fn pack(&self, data: &SgList) -> Option<Packed> {
        match &self.driver {
            Driver::Raw(_) | Driver::Qed(_) => None,
            Driver::Qcow2(image) => image.pack(data).await,
        }
    }

    /// Writes one whole cluster compressed, which [`Node::pack`] of this layer has made.
    ///
    /// # Errors
    /// As [`Node::write`]; `offset` is not that of a cluster.
    pub async fn write_packed(&self, offset: u64, packed: Packed) -> IoResult<()> {
        self.check_writable()?;
        let _entry = self
            .enter(offset, self.cluster_size(), Mode::Shared)
            .await?;
        let _recorded = self.recorded(offset, self.cluster_size()).await?;
        match &self.driver {
            Driver::Raw(_) | Driver::Qed(_) => Err(IoError::Unsupported {
                file: self.path.clone(),
                what: format!("compression in {} images", self.format()),
            }),
            Driver::Qcow2(image) => image.write_packed(offset, packed).await,
        }
    }

    /// Makes the range read as zeros.
    ///
    /// # Errors
    /// As [`Node::write`].
    pub async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> IoResult<()> {
        self.check_writable()?;
        let _entry = self.enter_exclusive(offset, len).await?;
        let _recorded = self.recorded(offset, len).await?;
        match &self.driver {
            Driver::Raw(file) => file.write_zeroes(offset, len, unmap).await,
            Driver::Qcow2(image) => image.write_zeroes(offset, len, unmap, self).await,
            Driver::Qed(image) => image.write_zeroes(offset, len, unmap, self).await,
        }
    }

    /// As [`Node::write_zeroes`], and says so also where that seems needless because nothing lies
    /// below: something is about to.
    ///
    /// # Errors
    /// As [`Node::write`].
    pub(crate) async fn hide_with_zeroes(&self, offset: u64, len: u64) -> IoResult<()> {
        self.check_writable()?;
        let _entry = self.enter_exclusive(offset, len).await?;
        let _recorded = self.recorded(offset, len).await?;
        let below = NotEmpty(self);
        match &self.driver {
            Driver::Raw(file) => file.write_zeroes(offset, len, true).await,
            Driver::Qcow2(image) => image.write_zeroes(offset, len, true, &below).await,
            Driver::Qed(image) => image.write_zeroes(offset, len, true, &below).await,
        }
    }

    /// Gives up everything that this layer holds, so that it shows what lies below. Nothing else
    /// uses the layer meanwhile.
    ///
    /// # Errors
    /// An I/O error, or corrupt tables; a raw layer holds everything for ever.
    pub(crate) async fn make_empty(&self) -> IoResult<()> {
        self.check_writable()?;
        match &self.driver {
            Driver::Raw(file) => Err(IoError::Unsupported {
                file: file.path().to_owned(),
                what: "emptying a raw image".to_owned(),
            }),
            Driver::Qcow2(image) => image.make_empty().await,
            Driver::Qed(image) => image.make_empty().await,
        }
    }

    /// Gives up the range's content: it reads as zeros, or as before, afterwards.
    ///
    /// # Errors
    /// As [`Node::write`].
    pub async fn discard(&self, offset: u64, len: u64) -> IoResult<()> {
        self.check_writable()?;
        let _entry = self.enter_exclusive(offset, len).await?;
        let _recorded = self.recorded(offset, len).await?;
        match &self.driver {
            Driver::Raw(file) => file.punch_hole(offset, len).await,
            Driver::Qcow2(image) => image.discard(offset, len, self).await,
            Driver::Qed(image) => image.discard(offset, len).await,
        }
    }

    /// Writes `data` where this layer holds nothing yet, and nothing elsewhere. The caller holds
    /// the cluster-aligned range exclusively ([`Node::enter_exclusive`]).
    ///
    /// # Errors
    /// As [`Node::write`]; a raw layer holds everything and never gets here.
    pub async fn write_if_unallocated(&self, offset: u64, data: SgList) -> IoResult<()> {
        self.check_writable()?;
        match &self.driver {
            Driver::Raw(_) => Ok(()),
            Driver::Qcow2(image) => image.write_if_unallocated(offset, data, self).await,
            Driver::Qed(image) => image.write_if_unallocated(offset, data, self).await,
        }
    }

    /// Whether zeros take no room in this layer, however many: an entry of a table for each cluster.
    pub(crate) fn has_zero_clusters(&self) -> bool {
        match &self.driver {
            Driver::Raw(_) => false,
            Driver::Qcow2(image) => image.version() > 2,
            Driver::Qed(_) => true,
        }
    }

    /// As [`Node::write_if_unallocated`], for zeros.
    ///
    /// # Errors
    /// As [`Node::write`].
    pub(crate) async fn zero_if_unallocated(&self, offset: u64, len: u64) -> IoResult<()> {
        self.check_writable()?;
        match &self.driver {
            Driver::Raw(_) => Ok(()),
            Driver::Qcow2(image) => image.zero_if_unallocated(offset, len, self).await,
            Driver::Qed(image) => image.zero_if_unallocated(offset, len, self).await,
        }
    }

    /// Makes everything that has been written durable.
    ///
    /// # Errors
    /// An I/O error; what was written since the last flush may be lost then.
    pub async fn flush(&self) -> IoResult<()> {
        match &self.driver {
            Driver::Raw(file) => file.flush().await,
            Driver::Qcow2(image) => image.flush().await,
            Driver::Qed(image) => image.flush().await,
        }
    }

    /// Changes the backing file that the header names, after everything that it stands for has
    /// become durable. The graph in memory stays as it is.
    ///
    /// # Errors
    /// An I/O error, or that the name does not fit; the header is as it was then.
    pub(crate) async fn write_backing_name(&self, backing: Option<Backing>) -> Result<()> {
        match &self.driver {
            Driver::Raw(_) => unreachable!("a raw layer has nothing below it"),
            Driver::Qcow2(image) => image.set_backing(backing).await,
            Driver::Qed(image) => image.set_backing(backing).await,
        }
    }

    /// Locks the layer's files for another use than so far, as [`Storage::lock`] does.
    ///
    /// # Errors
    /// Others use a file in a way that does not go together with `access`.
    pub(crate) fn lock(&self, access: Access) -> Result<()> {
        self.data_storage().lock(access)?;
        self.storage().lock(access)
    }

    /// Makes everything durable, and writes what the format has put off.
    ///
    /// # Errors
    /// An I/O error, as of [`Node::flush`].
    pub(crate) async fn settle(&self) -> Result<()> {
        match &self.driver {
            Driver::Raw(file) => Ok(file.flush().await?),
            Driver::Qcow2(image) => image.close().await,
            Driver::Qed(image) => image.close().await,
        }
    }

    /// As [`Node::settle`]; then others may have the file.
    ///
    /// # Errors
    /// As [`Node::settle`]; the file is not kept from others then either.
    pub async fn close(&self) -> Result<()> {
        let result = self.settle().await;
        self.lock(Access::None)?;
        result
    }

    /// Enters the in-flight table for work that may free or switch the clusters of the range.
    ///
    /// # Errors
    /// That the range wraps.
    pub async fn enter_exclusive(&self, offset: u64, len: u64) -> IoResult<InFlightGuard> {
        let (range, cluster) = (range(offset, len)?, self.cluster_size());
        let start = range.start - range.start % cluster;
        let end = range
            .end
            .checked_next_multiple_of(cluster)
            .ok_or(IoError::OutOfRange)?;
        Ok(self.in_flight.enter(start..end, Mode::Exclusive).await)
    }

    /// Enters the in-flight table for a range of bytes.
    pub(super) async fn enter(&self, offset: u64, len: u64, mode: Mode) -> IoResult<InFlightGuard> {
        Ok(self.in_flight.enter(range(offset, len)?, mode).await)
    }

    /// Those who read the layer without an entry, since it takes no writes.
    pub(super) fn readers(&self) -> &Rc<Readers> {
        &self.readers
    }

    /// Requests that wait for others in the in-flight table.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.in_flight.waiting()
    }

    fn check_writable(&self) -> IoResult<()> {
        if self.writable.get() {
            Ok(())
        } else {
            Err(IoError::ReadOnly)
        }
    }
}

/// A layer under which something is about to lie.
struct NotEmpty<'a>(&'a Node);

impl Below for NotEmpty<'_> {
    fn read_below(&self, offset: u64, data: SgList) -> LocalBoxFuture<'_, IoResult<()>> {
        self.0.read_below(offset, data)
    }
}

fn range(offset: u64, len: u64) -> IoResult<Range<u64>> {
    Ok(offset..offset.checked_add(len).ok_or(IoError::OutOfRange)?)
}
