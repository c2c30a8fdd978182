//! [`GuestDisk`]: what stands between a device and the chain of layers below it.

mod mirrored;

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    rc::{Rc, Weak},
};

use strata_exec::{
    Executor, Queue, Spawner,
    mem::{SgList, to_usize},
    sync::Budget,
    yield_now,
};
use strata_storage::error::{IoError, IoResult};
use tracing::Instrument;

use super::{
    Accounting, ErrorPolicy, Format, Mirror, Name, Node, Throttling, chain::ImageOptions,
    inflight::Gate, named_request::NamedRequest, node::whole_sectors, survey::survey,
};
use crate::disk::{Completion, DiskInfo, Done, ExtentsDone, Op, Request, Submit};

/// What a user may choose for a disk beyond its image.
#[derive(Debug, Clone, Default)]
pub struct DiskOptions {
    /// The disk's id in the monitor.
    pub id: String,
    /// The device it is attached to, for `info block`; empty if none.
    pub device: String,
    /// Serial number that the guest sees.
    pub serial: String,
    /// Bytes in the sectors that the guest counts in, where it was said: 512 or 4096.
    pub logical_block_size: Option<u32>,
    /// Bytes in the sectors that the guest is asked to write as a whole, where it was said: a power
    /// of two, no less than in logical ones.
    pub physical_block_size: Option<u32>,
    /// The device is one for discs, for `info block`.
    pub removable: bool,
    /// Writes are refused.
    pub read_only: bool,
    /// Every write is durable before it completes (`cache=writethrough`).
    pub writethrough: bool,
    /// Flushes are ignored (`cache=unsafe`).
    pub no_flush: bool,
    /// Its layers go past the host's page cache (`cache=none`).
    pub direct: bool,
    /// Guest discards reach the image (`discard=unmap`).
    pub discard: bool,
    /// Writes of zeros become zero clusters.
    pub detect_zeroes: DetectZeroes,
    /// What is written goes to a file without a name in this directory, and is gone in the end; the
    /// image is only read (`snapshot=on`). Nothing to a disk that is `read_only`.
    pub temporary: Option<PathBuf>,
    /// What is done about errors of the guest's requests.
    pub errors: ErrorPolicy,
    /// What the guest's requests may do in a second; without limits where none is set.
    pub throttling: Throttling,
}

impl DiskOptions {
    /// Bytes in the sectors that the guest counts in.
    pub fn block_size(&self) -> u32 {
        self.logical_block_size.unwrap_or(512)
    }

    /// What a device learns of the disk that lies on `root`, or of a drive that has no medium.
    pub(super) fn describe(&self, root: Option<&Rc<Node>>) -> DiskInfo {
        let granularity = root.map_or(0, |root| {
            u32::try_from(root.granularity()).expect("a cluster at most: 64 MiB")
        });
        DiskInfo {
            id: self.id.clone(),
            size: root.map_or(0, |root| whole_size(root)),
            block_size: self.block_size(),
            physical_block_size: self
                .physical_block_size
                .unwrap_or_else(|| self.block_size()),
            read_only: self.read_only,
            discard: self.discard,
            discard_granularity: granularity.max(self.block_size()),
            serial: self.serial.clone(),
        }
    }
}

/// `detect-zeroes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DetectZeroes {
    /// Zeros are written like any other bytes.
    #[default]
    Off,
    /// Writes of zeros become zero clusters.
    On,
    /// The same, and the clusters may be freed.
    Unmap,
}

impl DetectZeroes {
    /// The name that QEMU's users know.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Unmap => "unmap",
        }
    }
}

/// A guest's request that failed.
#[derive(Debug, Clone)]
pub struct FailedRequest {
    /// The disk's id.
    pub disk: String,
    /// Name of the layer that was the top when the request came.
    pub node_name: String,
    /// What was asked for.
    pub op: Op,
    /// Why it failed.
    pub error: IoError,
    /// What came of that.
    pub action: ErrorAction,
}

/// What comes of a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorAction {
    /// The error is reported to the caller.
    Report,
    /// The caller is answered as if it had succeeded.
    Ignore,
    /// The request waits, and the guest is to be stopped.
    Stop,
}

/// Where a disk reports requests that failed.
pub type FailureSink = Box<dyn Fn(FailedRequest)>;

/// A disk: its options, its top layer, and the requests under way.
pub struct GuestDisk {
    options: DiskOptions,
    /// How its layers are opened.
    image: ImageOptions,
    /// Keeps its id from others, as long as it is one of the engine's disks.
    name: RefCell<Option<Name>>,
    info: RefCell<Rc<DiskInfo>>,
    root: RefCell<Rc<Node>>,
    gate: Gate,
    /// Where changes go besides, while a job copies the top into another layer.
    mirror: RefCell<Option<Rc<Mirror>>>,
    /// What its requests may work on at a time.
    work: Budget,
    io_status: Cell<IoStatus>,
    requests: Cell<u64>,
    accounting: Accounting,
    exec: Rc<Executor>,
    /// Makes the tasks of its requests.
    tasks: Spawner<(Rc<Self>, Rc<NamedRequest>, Done)>,
    failures: FailureSink,
    this: Weak<GuestDisk>,
}

/// `io-status`: how the last failed request failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IoStatus {
    /// No request has failed.
    #[default]
    Ok,
    /// A request failed.
    Failed,
    /// A request failed because the host is out of space.
    NoSpace,
}

impl IoStatus {
    /// The status that `error` leads to.
    pub fn of(error: &IoError) -> Self {
        match error {
            IoError::NoSpace { .. } => Self::NoSpace,
            _ => Self::Failed,
        }
    }

    /// `BlockDeviceIoStatus` in QAPI.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::NoSpace => "nospace",
        }
    }
}

impl GuestDisk {
    /// A disk on top of `root`.
    pub fn new(
        exec: Rc<Executor>,
        failures: FailureSink,
        root: Rc<Node>,
        (options, image): (DiskOptions, ImageOptions),
        name: Option<Name>,
    ) -> Rc<Self> {
        let info = Rc::new(options.describe(Some(&root)));
        Rc::new_cyclic(|this| Self {
            info: RefCell::new(info),
            options,
            image,
            name: RefCell::new(name),
            root: RefCell::new(root),
            gate: Gate::default(),
            mirror: RefCell::default(),
            work: Budget::new(WORK),
            io_status: Cell::default(),
            requests: Cell::default(),
            accounting: Accounting::default(),
            exec,
            tasks: Spawner::new(Queue::Guest, |(disk, request, done)| {
                Self::serve(disk, request, done)
            }),
            failures,
            this: this.clone(),
        })
    }

    /// What the user chose.
    pub fn options(&self) -> &DiskOptions {
        &self.options
    }

    /// How its layers are opened: so was the chain, and so it will be the next time.
    pub fn image_options(&self) -> &ImageOptions {
        &self.image
    }

    /// What keeps its id from others, if it has that still: dropped, the id is free.
    pub fn take_name(&self) -> Option<Name> {
        self.name.take()
    }

    /// From now on the disk keeps its id from others.
    pub(super) fn set_name(&self, name: Option<Name>) {
        *self.name.borrow_mut() = name;
    }

    /// The top layer.
    pub fn root(&self) -> Rc<Node> {
        self.root.borrow().clone()
    }

    /// Makes `node` the top layer. The disk is drained.
    pub(crate) fn set_root(&self, node: Rc<Node>) {
        assert_eq!(self.gate.inside(), 0, "the graph is edited under drain");
        *self.root.borrow_mut() = node;
    }

    /// Where requests go in; closed while the graph is edited.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What its requests may work on at a time.
    pub fn work(&self) -> &Budget {
        &self.work
    }

    /// The top layer has another size now. The disk is drained.
    pub fn size_changed(&self) {
        let mut info = DiskInfo::clone(&self.info());
        info.size = whole_size(&self.root());
        *self.info.borrow_mut() = Rc::new(info);
    }

    /// How requests have fared.
    pub fn io_status(&self) -> IoStatus {
        self.io_status.get()
    }

    /// Forgets how they have fared.
    pub fn reset_io_status(&self) {
        self.io_status.set(IoStatus::Ok);
    }

    /// What has come of its requests.
    pub fn accounting(&self) -> &Accounting {
        &self.accounting
    }

    /// Requests that have been sent so far.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Has the layers carry out `request`. A failure is not reported yet.
    pub(super) async fn carry_out(&self, request: &Request) -> Result<(), Failed> {
        let id = self.requests.get() + 1;
        self.requests.set(id);
        let span = tracing::trace_span!(
            "request",
            disk = self.options.id,
            id,
            op = ?request.op,
            offset = request.offset,
            length = request.len
        );
        self.admit(request).instrument(span).await
    }

    /// Waits until the request may be worked on, and has the layers do so.
    async fn admit(&self, request: &Request) -> Result<(), Failed> {
        let _pass = self.gate.enter().await;
        let _share = self.share(request).await;
        if request.offset + request.len > self.info().size {
            // The disk has shrunk while the request waited.
            return Err(Failed {
                error: IoError::OutOfRange,
                node_name: None,
            });
        }
        let root = self.root();
        let result = self.dispatch(&root, request).await;
        result.map_err(|error| Failed {
            error,
            node_name: Some(root.name().to_owned()),
        })
    }

    /// Waits for the request's part of the work.
    async fn share(&self, request: &Request) -> Share<'_> {
        let cost = match request.op {
            Op::Read | Op::Write { .. } => request.len.clamp(SHORT, LONG),
            Op::Discard | Op::WriteZeroes { .. } => 4 * LONG,
            Op::Flush => SHORT,
        };
        Share {
            of: &self.work,
            amount: self.work.take(cost).await,
        }
    }

    /// Has `root` carry out a request. What takes long anyway has memory of its own, so that the
    /// tasks of reads and writes stay small.
    async fn dispatch(&self, root: &Rc<Node>, request: &Request) -> IoResult<()> {
        let (op, data) = (request.op, &request.data);
        match op {
            Op::Read => return root.read(request.offset, data.clone()).await,
            Op::Flush => return Box::pin(root.flush()).await,
            // A hint that the user does not want followed.
            Op::Discard if !self.options.discard => return Ok(()),
            _ if self.writes_through() => Box::pin(self.change_both(root, request)).await?,
            Op::Write { .. } if !self.detects_zeroes() => {
                let result = write(root, request.offset, data).await;
                self.note_change(request);
                result?;
            }
            _ => {
                let result = Box::pin(self.dispatch_zeroes(root, request)).await;
                self.note_change(request);
                result?;
            }
        }
        if self.options.writethrough || op == (Op::Write { fua: true }) {
            Box::pin(root.flush()).await?;
        }
        Ok(())
    }

    /// What is about zeros, or may be.
    async fn dispatch_zeroes(&self, root: &Rc<Node>, request: &Request) -> IoResult<()> {
        let &Request {
            op,
            offset,
            len,
            ref data,
        } = request;
        let unmap = self.options.discard;
        match op {
            Op::Write { .. } if is_zero(data).await => {
                // The guest may have changed its memory since the look: then it asked for either.
                let unmap = unmap && self.options.detect_zeroes == DetectZeroes::Unmap;
                self.write_zeroes(root, offset, len, unmap).await?;
            }
            Op::Write { .. } => write(root, offset, data).await?,
            Op::Discard => {
                let (start, end) = whole_sectors(offset, len);
                let len = end.saturating_sub(start);
                for (offset, len) in pieces(start, len, zeroing_step(root)) {
                    root.discard(offset, len).await?;
                    yield_now().await;
                }
            }
            Op::WriteZeroes { unmap: may } => {
                self.write_zeroes(root, offset, len, may && unmap).await?;
            }
            Op::Read | Op::Flush => unreachable!("they are not about zeros"),
        }
        Ok(())
    }

    async fn write_zeroes(
        &self,
        root: &Rc<Node>,
        offset: u64,
        len: u64,
        unmap: bool,
    ) -> IoResult<()> {
        let end = offset + len;
        let (mut start, mut stop) = whole_sectors(offset, len);
        if start >= stop {
            // Within a sector, or on both sides of where two meet.
            (start, stop) = (end, end);
        }
        // Less than two sectors before and less than one behind.
        for (at, len) in [(offset, start - offset), (stop, end - stop)] {
            if len > 0 {
                root.write_bytes(at, SgList::zeroed(to_usize(len))).await?;
            }
        }
        for (offset, len) in pieces(start, stop - start, zeroing_step(root)) {
            root.write_zeroes(offset, len, unmap).await?;
            yield_now().await;
        }
        Ok(())
    }

    fn detects_zeroes(&self) -> bool {
        self.options.detect_zeroes != DetectZeroes::Off
    }

    /// Reports a request that the layers have failed to carry out, and what comes of that.
    pub(super) fn report(&self, op: Op, failed: &Failed, action: ErrorAction) {
        let Failed { error, node_name } = failed;
        let Some(node_name) = node_name else {
            return;
        };
        self.io_status.set(IoStatus::of(error));
        tracing::warn!(disk = %self.options.id, ?op, %error, ?action, "a guest's request failed");
        (self.failures)(FailedRequest {
            disk: self.options.id.clone(),
            node_name: node_name.clone(),
            op,
            error: error.clone(),
            action,
        });
    }

    async fn serve(this: Rc<Self>, request: Rc<NamedRequest>, done: Done) {
        let result = this.carry_out_and_report(&request.request).await;
        this.account(&request, &result);
        done(result);
    }

    /// Counts a request of the device or of an export that has ended.
    pub(super) fn account(&self, named: &NamedRequest, result: &Completion) {
        let request = &named.request;
        let range = (request.offset, request.len);
        self.accounting
            .ended(request.op, range, named.since, result);
    }

    /// Carries out `request` for a caller that wants to know of a failure.
    async fn carry_out_and_report(&self, request: &Request) -> Completion {
        let result = self.carry_out(request).await;
        result.map_err(|failed| {
            self.report(request.op, &failed, ErrorAction::Report);
            failed.error
        })
    }
}

/// Why a request failed.
pub(super) struct Failed {
    pub error: IoError,
    /// The name of the layer that was the top when the request came; `None` if it never got there.
    pub node_name: Option<String>,
}

/// Bytes of the disk that lies on `root`: whole sectors. (A header may say otherwise; QEMU cuts the
/// rest off, too.)
pub(super) fn whole_size(root: &Node) -> u64 {
    root.size() - root.size() % 512
}

/// Bytes that a disk's requests work on at a time at most, each counted for the piece that it works
/// on. Other disks' requests, which may have come later, wait no longer than that takes.
pub(super) const WORK: u64 = 16 << 20;

/// What a short request counts for.
pub(super) const SHORT: u64 = 32 << 10;

/// What a long one counts for: it takes its turn piece by piece.
pub(super) const LONG: u64 = 1 << 20;

/// A request's part of the work that its disk may do.
struct Share<'a> {
    of: &'a Budget,
    amount: u64,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.of.give_back(self.amount);
    }
}

/// Clusters that one step of a change covers, and bytes at most: a guest may ask for a whole disk
/// at once.
const CLUSTERS: u64 = 512;
const ZEROING_STEP: u64 = 64 << 20;
const WRITING_STEP: u64 = 1 << 20;

/// Bytes of one step on this layer. (In a raw one they are given up in one call, elsewhere.)
fn zeroing_step(node: &Node) -> u64 {
    match node.format() {
        Format::Raw => ZEROING_STEP,
        Format::Qcow2 | Format::Qed => ZEROING_STEP.min(CLUSTERS * node.granularity()),
    }
}

/// Writes step by step. Clusters are not cut.
async fn write(root: &Rc<Node>, offset: u64, data: &SgList) -> IoResult<()> {
    let cluster = root.granularity();
    let step = match root.format() {
        Format::Raw => WRITING_STEP,
        Format::Qcow2 | Format::Qed => WRITING_STEP.min(CLUSTERS * cluster).max(cluster),
    };
    for (at, len) in pieces(offset, data.len() as u64, step) {
        if at > offset {
            yield_now().await;
        }
        let piece = data.slice(to_usize(at - offset), to_usize(len));
        root.write_bytes(at, piece).await?;
    }
    Ok(())
}

/// Bytes that are looked at for zeros in one go.
const LOOK_STEP: usize = 1 << 20;

/// Whether all of it is zeros. Others get their turn meanwhile.
async fn is_zero(data: &SgList) -> bool {
    let mut done = 0;
    while done < data.len() {
        let len = LOOK_STEP.min(data.len() - done);
        if !data.is_zero_at(done, len) {
            return false;
        }
        done += len;
        if done < data.len() {
            yield_now().await;
        }
    }
    true
}

/// A range cut into steps, at multiples of the step.
fn pieces(offset: u64, len: u64, step: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset.saturating_add(len);
    let next = move |&(start, len): &(u64, u64)| {
        let start = start + len;
        let stop = (start / step + 1).saturating_mul(step).min(end);
        (start < end).then(|| (start, stop - start))
    };
    std::iter::successors(next(&(offset, 0)), next)
}

impl Submit for GuestDisk {
    fn submit(&self, request: Request, done: Done) {
        let Some(this) = self.this.upgrade() else {
            return done(Err(IoError::Cancelled));
        };
        let request = NamedRequest::new(self.info(), request);
        let name = request.clone();
        self.tasks.spawn(&self.exec, name, (this, request, done));
    }

    fn info(&self) -> Rc<DiskInfo> {
        self.info.borrow().clone()
    }

    fn extents(&self, offset: u64, len: u64, max: usize, done: ExtentsDone) {
        let Some(this) = self.this.upgrade() else {
            return done(Err(IoError::Cancelled));
        };
        self.exec
            .spawn_named(Queue::Guest, "block status of a disk", async move {
                // Inside the gate the chain does not change.
                let pass = this.gate.enter().await;
                let left = this.info().size.saturating_sub(offset);
                if left == 0 {
                    return done(Err(IoError::OutOfRange));
                }
                let len = len.min(left);
                let result = survey(&this.root(), offset, len, max).await;
                drop(pass);
                done(result);
            });
    }
}
