//! [`Disk`]: the only handle that a device or an export holds. No path, no file descriptor.

use std::rc::Rc;

use strata_exec::{mem::SgList, sync::promise};
use strata_format::extent::DiskExtent;
use strata_storage::error::{IoError, IoResult};

/// What a request does. Offsets and lengths are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Fill the scatter list from the disk.
    Read,
    /// Write the scatter list to the disk; with `fua` it is durable before it completes.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Everything acknowledged before this request was submitted is durable when it completes.
    Flush,
    /// The range's content is no longer needed. Reads as zero or as before afterwards, never as
    /// what a layer below holds.
    Discard,
    /// The range reads as zero afterwards.
    WriteZeroes {
        /// Clusters may be freed.
        unmap: bool,
    },
}

/// One request for a disk.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// Byte offset on the disk; a multiple of [`Disk::block_size`].
    pub offset: u64,
    /// Bytes; a multiple of [`Disk::block_size`]. For reads and writes equal to `data.len()`, for a
    /// flush 0.
    pub len: u64,
    /// Where the bytes go to or come from; empty for everything but reads and writes.
    pub data: SgList,
}

/// How a request ended.
pub type Completion = IoResult<()>;

/// What a device needs to know of a disk to describe it to its guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskInfo {
    /// The disk's id in the monitor, such as `virtio0`.
    pub id: String,
    /// Bytes, a multiple of the logical block size.
    pub size: u64,
    /// Logical block size in bytes: 512 or 4096.
    pub block_size: u32,
    /// Bytes that are written at once without anything being read first, as the user says: a power
    /// of two, no less than `block_size`.
    pub physical_block_size: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Discard requests are worth sending.
    pub discard: bool,
    /// Bytes, a multiple of the logical block size: an aligned piece of this size is the least that
    /// a discard frees. It is that of the layer that was on top when the device was made.
    pub discard_granularity: u32,
    /// Serial number as given by the user (at most 20 bytes are shown to the guest).
    pub serial: String,
}

/// Called on the device thread, exactly once, when the request has ended.
pub type Done = Box<dyn FnOnce(Completion)>;

/// Called on the device thread, exactly once, with what a range holds.
pub type ExtentsDone = Box<dyn FnOnce(IoResult<Vec<DiskExtent>>)>;

/// Carries requests out. The image stack implements it; tests of devices have doubles.
pub trait Submit {
    /// Starts `request`. `done` may be called before this returns. Only what is behind a
    /// [`Disk::by_bytes`] gets requests that are no multiples of the block size.
    fn submit(&self, request: Request, done: Done);
    /// The disk as it is now; a resize changes it.
    fn info(&self) -> Rc<DiskInfo>;
    /// Starts a look at what the range holds; see [`Disk::extents`]. A backend that cannot say
    /// says that all of it is data.
    fn extents(&self, _offset: u64, len: u64, _max: usize, done: ExtentsDone) {
        done(Ok(vec![DiskExtent {
            len,
            zero: false,
            depth: 1,
        }]));
    }
}

/// The tray of a drive whose medium can be another one, as the block layer sees it. The device
/// implements it; a medium in an open tray is none to its guest.
pub trait Tray {
    /// Whether it is open.
    fn is_open(&self) -> bool;
    /// Whether the guest wants it to stay closed.
    fn is_locked(&self) -> bool;
    /// Somebody outside wants the medium: the guest learns of it when it asks the next time. With
    /// `force` it has no say in it any more.
    fn ask_to_eject(&self, force: bool);
    /// Opens or closes it, from outside.
    fn set_open(&self, open: bool);
    /// There is another medium, of so many bytes, or none, of 0. The tray is open.
    fn medium_changed(&self, size: u64);
}

/// A disk as devices see it. Cheap to clone; lives on the device thread.
///
/// Those of the image stack come from an engine. This one is all zeros:
///
/// ```
/// use std::rc::Rc;
/// use strata_exec::{Executor, mem::SgList};
/// use strata_graph::disk::{Disk, DiskInfo, Done, Op, Request, Submit};
/// use strata_storage::error::IoError;
///
/// struct Zeros(Rc<DiskInfo>);
///
/// impl Submit for Zeros {
///     fn submit(&self, request: Request, done: Done) {
///         // Only what lies on the disk gets here.
///         request.data.copy_from(0, &vec![0; request.data.len()]);
///         done(Ok(()));
///     }
///
///     fn info(&self) -> Rc<DiskInfo> {
///         self.0.clone()
///     }
/// }
///
/// let disk = Disk::new(Rc::new(Zeros(Rc::new(DiskInfo {
///     size: 1 << 20,
///     block_size: 512,
///     ..DiskInfo::default()
/// }))));
/// let read = |offset, data: SgList| Request {
///     op: Op::Read,
///     offset,
///     len: data.len() as u64,
///     data,
/// };
/// let exec = Executor::new()?;
/// let data = SgList::from_vec(vec![7; 4096]);
/// let request = read(0, data.clone());
/// let reader = disk.clone();
/// exec.block_on(async move { reader.run(request).await })?;
/// assert_eq!(data.to_vec(), vec![0; 4096]);
/// let behind = read(1 << 20, data);
/// let refused = exec.block_on(async move { disk.run(behind).await });
/// assert!(matches!(refused, Err(IoError::OutOfRange)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Disk {
    backend: Rc<dyn Submit>,
    /// Requests may begin and end at any byte.
    any_byte: bool,
}

impl Disk {
    /// A disk whose requests `backend` carries out.
    pub fn new(backend: Rc<dyn Submit>) -> Self {
        Self {
            backend,
            any_byte: false,
        }
    }

    /// The same disk for a front end that counts in bytes: requests may begin and end anywhere.
    /// The backend has to take those.
    pub fn by_bytes(self) -> Self {
        Self {
            any_byte: true,
            ..self
        }
    }

    /// Offsets and lengths of requests are multiples of so many bytes: [`DiskInfo::block_size`] for
    /// devices, 1 for who counts in bytes.
    pub fn block_size(&self) -> u32 {
        if self.any_byte {
            1
        } else {
            self.info().block_size
        }
    }

    /// Starts `request` after checking it against the disk's size, block size and read-only
    /// state, so that nothing below has to. `done` is called exactly once, on this thread, perhaps
    /// before this returns; its error is what the guest should get.
    pub fn submit(&self, request: Request, done: impl FnOnce(Completion) + 'static) {
        match self.info().admit(&request, self.block_size()) {
            Ok(()) => self.backend.submit(request, Box::new(done)),
            Err(error) => done(Err(error)),
        }
    }

    /// As [`Disk::submit`], for tasks. The request runs to its end also if the future is dropped.
    ///
    /// # Errors
    /// The error that a client should get.
    pub async fn run(&self, request: Request) -> Completion {
        let (done, ended) = promise();
        self.submit(request, done);
        ended.await
    }

    /// Says what the `len` bytes from `offset` on hold: consecutive extents from `offset` on, at
    /// least one, at most `max`. They may end before the range does: then ask on from there.
    /// `done` is called exactly once, on this thread, perhaps before this returns.
    ///
    /// What is said was true at some time between the call and its answer. The range is not empty
    /// and lies within the disk, or `done` gets [`IoError::OutOfRange`].
    pub fn extents(
        &self,
        offset: u64,
        len: u64,
        max: usize,
        done: impl FnOnce(IoResult<Vec<DiskExtent>>) + 'static,
    ) {
        match offset.checked_add(len) {
            Some(end) if len > 0 && end <= self.info().size => {
                self.backend
                    .extents(offset, len, max.max(1), Box::new(done));
            }
            _ => done(Err(IoError::OutOfRange)),
        }
    }

    /// The disk as it is now.
    pub fn info(&self) -> Rc<DiskInfo> {
        self.backend.info()
    }
}

impl DiskInfo {
    /// Whether `request` may be carried out at all. `block_size` is the front end's.
    fn admit(&self, request: &Request, block_size: u32) -> Completion {
        let block = u64::from(block_size);
        let end = request
            .offset
            .checked_add(request.len)
            .ok_or(IoError::OutOfRange)?;
        let data_len = match request.op {
            Op::Read | Op::Write { .. } => request.len,
            Op::Flush | Op::Discard | Op::WriteZeroes { .. } => 0,
        };
        if end > self.size
            || !request.offset.is_multiple_of(block)
            || !request.len.is_multiple_of(block)
            || request.data.len() as u64 != data_len
        {
            return Err(IoError::OutOfRange);
        }
        match request.op {
            Op::Read | Op::Flush => Ok(()),
            _ if self.read_only => Err(IoError::ReadOnly),
            _ => Ok(()),
        }
    }
}
