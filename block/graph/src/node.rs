//! [`Node`]: one layer of a chain.

mod any_byte;
mod changing;
mod offload;
mod read;
mod resize;
mod snapshot;
mod writing;

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    path::Path,
    rc::Rc,
};

pub(super) use any_byte::whole_sectors;
use read::read_chain;

use strata_exec::{LocalBoxFuture, mem::SgList};
use strata_format::{
    below::Below,
    bitmap::{Bitmaps, Recorded},
    extent::{Extent, ExtentKind},
    qcow2::{Packed, Qcow2},
    qed::Qed,
};
use strata_storage::{
    Storage,
    error::{IoError, IoResult},
};

use super::{
    Format, Image, Name, hold,
    index::{self, RunOf},
    inflight::{InFlight, InFlightGuard, Mode},
    reading::Readers,
};

/// One layer of a chain, as requests and jobs see it: what it holds and what lies below. Who
/// administers its file asks its [`Image`].
///
/// All I/O that may meet other I/O goes through the layer's in-flight table. Readers of a layer
/// that takes no writes only count themselves ([`Reading`](super::Reading)).
pub struct Node {
    name: Name,
    image: Image,
    size: Cell<u64>,
    writable: Cell<bool>,
    backing: RefCell<Option<Rc<Node>>>,
    in_flight: InFlight,
    readers: Rc<Readers>,
    bitmaps: Rc<Bitmaps>,
    held: hold::Slot,
    /// The layers that take no writes from this one down, in the index.
    run: RunOf,
}

impl Node {
    /// A layer on `file`, whose name for people and monitors is `name`.
    pub(super) fn raw(name: Name, file: Storage) -> Self {
        let writable = !file.is_read_only();
        Self::new(name, writable, Image::raw(file))
    }

    pub(crate) fn qcow2(name: Name, path: &Path, writable: bool, image: Qcow2) -> Self {
        Self::new(name, writable, Image::qcow2(path, image))
    }

    pub(crate) fn qed(name: Name, path: &Path, writable: bool, image: Qed) -> Self {
        Self::new(name, writable, Image::qed(path, image))
    }

    fn new(name: Name, writable: bool, image: Image) -> Self {
        Self {
            name,
            size: Cell::new(image.size()),
            writable: Cell::new(writable),
            backing: RefCell::default(),
            in_flight: InFlight::default(),
            readers: Rc::default(),
            held: hold::Slot::default(),
            run: RunOf::default(),
            bitmaps: image.bitmaps(),
            image,
        }
    }

    /// What the layer stands for: a file in its format, to be checked, locked or closed.
    pub fn image(&self) -> &Image {
        &self.image
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
        self.image.path()
    }

    /// The layer's format.
    pub fn format(&self) -> Format {
        self.image.format()
    }

    /// Bytes that the layer shows.
    pub fn size(&self) -> u64 {
        self.size.get()
    }

    /// Bytes that are allocated as one: 1 sector for raw.
    pub fn cluster_size(&self) -> u64 {
        self.image.cluster_size()
    }

    /// Bytes that the layer may hold or not by themselves: 1 sector for raw.
    pub fn granularity(&self) -> u64 {
        self.image.granularity()
    }

    /// Whether zeros take no room in this layer: an entry of a table, however many they are.
    pub fn has_zero_clusters(&self) -> bool {
        self.image.has_zero_clusters()
    }

    /// Whether the layer takes writes.
    pub fn is_writable(&self) -> bool {
        self.writable.get()
    }

    /// From now on the layer is read only: a new one lies above it.
    pub fn set_read_only(&self) {
        self.set_writable(false);
    }

    fn set_writable(&self, writable: bool) {
        self.writable.set(writable);
        index::forget();
    }

    /// Looks again how many bytes the layer shows.
    fn update_size(&self) {
        self.size.set(self.image.size());
        index::forget();
    }

    /// Where the index notes which run this layer is the top of.
    pub(super) fn run_of(&self) -> &RunOf {
        &self.run
    }

    /// The layer's dirty bitmaps. Nothing but the node records in them.
    pub fn bitmaps(&self) -> &Bitmaps {
        &self.bitmaps
    }

    /// Records a change of the range when it has been made, or has failed half-way: until then the
    /// guard is held. Before, the file says that its bitmaps are in use. What a stream copies up
    /// goes by here: the disk shows the same.
    ///
    /// # Errors
    /// The image has stopped, or its file cannot be written.
    pub(super) async fn recorded(&self, offset: u64, len: u64) -> IoResult<Recorded<'_>> {
        self.image.begin_bitmap_change().await?;
        Ok(self.bitmaps.record(offset, len))
    }

    /// Has the file say that its bitmaps are in use: what is in memory counts.
    ///
    /// # Errors
    /// The image is read-only, has stopped, or its file cannot be written.
    pub async fn begin_bitmap_change(&self) -> IoResult<()> {
        self.image.begin_bitmap_change().await
    }

    /// Records all of the layer as changed: its bitmaps will miss changes.
    ///
    /// # Errors
    /// As of a change.
    pub async fn record_all(&self) -> IoResult<()> {
        drop(self.recorded(0, self.size()).await?);
        Ok(())
    }

    /// The layer below.
    pub fn backing(&self) -> Option<Rc<Node>> {
        self.backing.borrow().clone()
    }

    /// Puts the layer on top of another one, in memory.
    pub(crate) fn set_backing_node(&self, backing: Option<Rc<Node>>) {
        *self.backing.borrow_mut() = backing;
        index::forget();
    }

    /// This layer and those below it, from the top down.
    pub fn chain(self: &Rc<Self>) -> impl Iterator<Item = Rc<Node>> {
        std::iter::successors(Some(self.clone()), |node| node.backing())
    }

    /// The same down to `base`, which is not among them; all, without one.
    pub fn chain_above(self: &Rc<Self>, base: Option<&Rc<Self>>) -> impl Iterator<Item = Rc<Self>> {
        let is_base = move |node: &Rc<Self>| base.is_some_and(|base| Rc::ptr_eq(base, node));
        self.chain().take_while(move |node| !is_base(node))
    }

    /// What this layer alone says of a range, as jobs and maps see it: holes of raw files count as
    /// zeros, and so does everything beyond the layer's end (a longer layer below stays hidden).
    ///
    /// # Errors
    /// An I/O error on the layer's tables, or that they are corrupt.
    pub async fn extent(&self, offset: u64, len: u64) -> IoResult<Extent> {
        self.look(offset, len, false).await
    }

    /// As [`Node::extent`]; with `holes_are_data` raw files are one piece of data, without asking
    /// the host.
    pub(super) async fn look(
        &self,
        offset: u64,
        len: u64,
        holes_are_data: bool,
    ) -> IoResult<Extent> {
        if offset >= self.size() {
            let kind = ExtentKind::Zero;
            return Ok(Extent { len, kind });
        }
        let len = len.min(self.size() - offset);
        self.image.extent(offset, len, holes_are_data).await
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
        let _changing = self.changing()?;
        let _entry = self.enter(offset, data.len() as u64, Mode::Shared).await?;
        self.write_entered(offset, data).await
    }

    /// As [`Node::write`], for who has entered the range.
    async fn write_entered(&self, offset: u64, data: SgList) -> IoResult<()> {
        let _recorded = self.recorded(offset, data.len() as u64).await?;
        self.image.write(offset, data, self).await
    }

    /// Writes one whole cluster compressed, which [`Image::pack`] of this layer has made.
    ///
    /// # Errors
    /// As [`Node::write`]; `offset` is not that of a cluster.
    pub async fn write_packed(&self, offset: u64, packed: Packed) -> IoResult<()> {
        let _changing = self.changing()?;
        let _entry = self
            .enter(offset, self.cluster_size(), Mode::Shared)
            .await?;
        let _recorded = self.recorded(offset, self.cluster_size()).await?;
        self.image.write_packed(offset, packed).await
    }

    /// Makes the range read as zeros.
    ///
    /// # Errors
    /// As [`Node::write`].
    pub async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> IoResult<()> {
        let _changing = self.changing()?;
        let _entry = self.enter_exclusive(offset, len).await?;
        let _recorded = self.recorded(offset, len).await?;
        self.image.write_zeroes(offset, len, unmap, self).await
    }

    /// As [`Node::write_zeroes`], and says so also where that seems needless because nothing lies
    /// below: something is about to.
    ///
    /// # Errors
    /// As [`Node::write`].
    pub(crate) async fn hide_with_zeroes(&self, offset: u64, len: u64) -> IoResult<()> {
        let _changing = self.changing()?;
        let _entry = self.enter_exclusive(offset, len).await?;
        let _recorded = self.recorded(offset, len).await?;
        let below = NotEmpty(self);
        self.image.write_zeroes(offset, len, true, &below).await
    }

    /// Gives up the range's content: it reads as zeros, or as before, afterwards.
    ///
    /// # Errors
    /// As [`Node::write`].
    pub async fn discard(&self, offset: u64, len: u64) -> IoResult<()> {
        let _changing = self.changing()?;
        let _entry = self.enter_exclusive(offset, len).await?;
        let _recorded = self.recorded(offset, len).await?;
        self.image.discard(offset, len, self).await
    }

    /// Writes `data` where this layer holds nothing yet, and nothing elsewhere. The caller holds
    /// the cluster-aligned range exclusively ([`Node::enter_exclusive`]).
    ///
    /// # Errors
    /// As [`Node::write`]; a raw layer holds everything and never gets here.
    pub async fn write_if_unallocated(&self, offset: u64, data: SgList) -> IoResult<()> {
        let _changing = self.changing()?;
        self.image.write_if_unallocated(offset, data, self).await
    }

    /// As [`Node::write_if_unallocated`], for zeros.
    ///
    /// # Errors
    /// As [`Node::write`].
    pub async fn zero_if_unallocated(&self, offset: u64, len: u64) -> IoResult<()> {
        let _changing = self.changing()?;
        self.image.zero_if_unallocated(offset, len, self).await
    }

    /// Makes everything that has been written durable.
    ///
    /// # Errors
    /// An I/O error; what was written since the last flush may be lost then.
    pub async fn flush(&self) -> IoResult<()> {
        self.image.flush().await
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

    /// Enters the in-flight table for work on the whole layer.
    ///
    /// # Errors
    /// None.
    pub async fn enter_whole(&self) -> IoResult<InFlightGuard> {
        self.enter(0, u64::MAX, Mode::Exclusive).await
    }

    /// Enters the in-flight table for a range of bytes.
    pub(super) async fn enter(&self, offset: u64, len: u64, mode: Mode) -> IoResult<InFlightGuard> {
        Ok(self.in_flight.enter(range(offset, len)?, mode).await)
    }

    /// Those who read the layer without an entry, since it takes no writes.
    pub(super) fn readers(&self) -> &Rc<Readers> {
        &self.readers
    }

    /// What is under way, and what waits for it.
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// Those who read the layer without being entered there, since it takes no writes.
    pub fn reader_count(&self) -> usize {
        self.readers.len()
    }

    /// Requests that wait for others in the in-flight table.
    pub fn waiting(&self) -> usize {
        self.in_flight.waiting()
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
