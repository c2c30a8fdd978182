//! The values that travel between the monitor and the device thread: commands, replies, events.
//!
//! They are plain data: no path into the graph leaves the device thread. Field names in the
//! serialised types are those of QEMU's QAPI schema (`qapi/block-core.json`, `qapi/job.json`).

mod bitmap;
mod chain;
mod command;
mod disk;
mod disk_name;
mod export;
mod inflight;
mod job;
mod medium;
mod number;
mod object;
mod progress;
mod socket;
mod stats;
mod throttle;
mod transaction;

use std::{cell::RefCell, rc::Rc, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::chain::ChainInfo;

pub use bitmap::{
    BitmapChange, BitmapInfo, BitmapRef, BlockDirtyBitmap, BlockDirtyBitmapAdd,
    BlockDirtyBitmapMerge,
};
pub use chain::QueryChain;
pub use command::Cmd;
pub use disk::{
    BlockCommit, BlockResize, BlockStream, BlockdevAdd, BlockdevDel, BlockdevSnapshot,
    BlockdevSnapshotDeleteInternal, BlockdevSnapshotInternal, BlockdevSnapshotSync,
    ChangeBackingFile, NewImageMode, QueryNamedBlockNodes,
};
pub use disk_name::DiskName;
pub use export::{
    BlockExportAdd, BlockExportDel, ExportInfo, ExportType, NbdServerAdd, NbdServerRemove,
    NbdServerStart, RemoveMode, VhostUserSpec, Writable,
};
pub use inflight::{DiskInflight, Inflight, LayerInflight, Queue, RangeInflight, TaskInfo};
pub use job::{BlockJobCancel, BlockJobRef, BlockJobSetSpeed, CommitDisk, JobRef};
pub use medium::{
    BlockdevChangeMedium, BlockdevInsertMedium, ChangeReadOnlyMode, DriveName, DriveRef, OpenTray,
};
pub use object::{Endpoint, ObjectAdd, ObjectDel, ObjectType, TlsCreds};
pub use progress::{JobPhase, JobProgress};
pub use socket::{
    InetSocketAddress, SocketAddress, SocketAddressLegacy, SocketAddressType, UnixSocketAddress,
};
pub use stats::{
    BlockDeviceStats, BlockLatencyHistogramSet, BlockStats, LatencyHistogram, QueryBlockstats,
};
pub use throttle::{BlockSetIoThrottle, ThrottleInfo};
pub use transaction::{
    CompletionMode, NoData, Transaction, TransactionAction, TransactionProperties,
};

/// What a command answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Done; nothing to say.
    Done,
    /// An overlay was made; the line that HMP prints of it (`Formatting '...', fmt=qcow2 ...`).
    Formatted(String),
    /// `blockdev-snapshot-delete-internal-sync`: what has been deleted.
    Snapshot(SnapshotInfo),
    /// `query-block`.
    Block(Vec<BlockInfo>),
    /// `query-blockstats`.
    Blockstats(Vec<BlockStats>),
    /// `query-named-block-nodes`.
    NamedBlockNodes(Vec<BlockDeviceInfo>),
    /// `query-block-jobs`.
    BlockJobs(Vec<BlockJobInfo>),
    /// `query-jobs`.
    Jobs(Vec<JobInfo>),
    /// `x-strata-query-chain`.
    Chain(Vec<ChainInfo>),
    /// `query-block-exports`.
    Exports(Vec<ExportInfo>),
    /// HMP's `info inflight`.
    Inflight(Inflight),
}

/// QMP's error classes (`QapiErrorClass`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ErrorClass {
    /// Almost everything.
    GenericError,
    /// No such command.
    CommandNotFound,
    /// No such block job.
    DeviceNotActive,
    /// No such disk (only where clients rely on it).
    DeviceNotFound,
}

/// A command that was refused; nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{desc}")]
pub struct CmdError {
    /// The class that clients switch on.
    pub class: ErrorClass,
    /// One line for people, in QEMU's words where QEMU has the same error.
    pub desc: String,
}

impl CmdError {
    /// An error of [`ErrorClass::GenericError`].
    pub fn generic(desc: impl Into<String>) -> Self {
        Self {
            class: ErrorClass::GenericError,
            desc: desc.into(),
        }
    }

    /// Nothing is called `name`, where clients rely on [`ErrorClass::DeviceNotFound`].
    pub fn device_not_found(name: impl std::fmt::Display) -> Self {
        Self {
            class: ErrorClass::DeviceNotFound,
            desc: format!("Device '{name}' not found"),
        }
    }
}

/// `BlockdevOnError`: what an I/O error does to a job; `IoErrorAction`, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The job fails.
    Report,
    /// The job goes on and fails at its end.
    Ignore,
    /// The job pauses when the host is out of space, fails otherwise.
    Enospc,
    /// The job pauses.
    Stop,
    /// As `Enospc`.
    Auto,
}

/// `JobStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// Made, not started.
    Created,
    /// Working.
    Running,
    /// Paused.
    Paused,
    /// Working on what the guest writes; can be completed.
    Ready,
    /// Ready, and paused.
    Standby,
    /// Waiting for others of its transaction.
    Waiting,
    /// Waiting for `job-finalize`.
    Pending,
    /// Undoing.
    Aborting,
    /// Over; waits for `job-dismiss`.
    Concluded,
    /// Gone.
    Null,
}

/// `JobType`, as far as it exists here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobType {
    /// `block-stream`.
    Stream,
    /// `block-commit`.
    Commit,
}

/// One entry of `query-block-jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockJobInfo {
    /// Kind of job.
    #[serde(rename = "type")]
    pub kind: JobType,
    /// The job's id.
    pub device: String,
    /// Bytes to look at.
    pub len: u64,
    /// Bytes looked at so far.
    pub offset: u64,
    /// A step is under way.
    pub busy: bool,
    /// Paused by the user or by an error.
    pub paused: bool,
    /// Bytes a second, 0 for no limit.
    pub speed: u64,
    /// `ok`, `failed` or `nospace`.
    pub io_status: String,
    /// Ready for `job-complete` (never, for a stream).
    pub ready: bool,
    /// State of the job.
    pub status: JobStatus,
    /// As given when it was started.
    pub auto_finalize: bool,
    /// As given when it was started.
    pub auto_dismiss: bool,
    /// The group that it ends with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether what the job makes shows what the disk shows, and every write reaches both; only of
    /// jobs that come to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actively_synced: Option<bool>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How much it has copied.
    #[serde(flatten)]
    pub progress: Option<JobProgress>,
}

/// One entry of `query-jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobInfo {
    /// The job's id.
    pub id: String,
    /// Kind of job.
    #[serde(rename = "type")]
    pub kind: JobType,
    /// State of the job.
    pub status: JobStatus,
    /// The group that it ends with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Bytes looked at so far.
    pub current_progress: u64,
    /// Bytes to look at.
    pub total_progress: u64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How much it has copied.
    #[serde(flatten)]
    pub progress: Option<JobProgress>,
}

impl From<&BlockJobInfo> for JobInfo {
    fn from(job: &BlockJobInfo) -> Self {
        Self {
            id: job.device.clone(),
            kind: job.kind,
            status: job.status,
            group: job.group.clone(),
            current_progress: job.offset,
            total_progress: job.len,
            error: job.error.clone(),
            progress: job.progress.clone(),
        }
    }
}

/// One entry of `query-block`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockInfo {
    /// The disk's id.
    pub device: String,
    /// Where it is attached: the path of the device, as QEMU names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qdev: Option<String>,
    /// Always `"unknown"`, as QEMU says it.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its medium can be another one.
    pub removable: bool,
    /// The guest wants its tray to stay closed.
    pub locked: bool,
    /// Whether its tray is open, where it has one.
    #[serde(rename = "tray_open", skip_serializing_if = "Option::is_none")]
    pub tray_open: Option<bool>,
    /// `ok`, `failed` or `nospace`.
    #[serde(rename = "io-status", skip_serializing_if = "Option::is_none")]
    pub io_status: Option<String>,
    /// The disk's top layer; `None` for a drive without a medium.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inserted: Option<BlockDeviceInfo>,
}

/// `BlockDeviceInfo`: a layer, such as the top of a disk.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlockDeviceInfo {
    /// The image's file name.
    pub file: String,
    /// The node's name.
    #[serde(rename = "node-name")]
    pub node_name: String,
    /// Read-only.
    pub ro: bool,
    /// Format.
    pub drv: String,
    /// The backing file's name as opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// Number of layers below.
    pub backing_file_depth: u32,
    /// Encryption: no.
    pub encrypted: bool,
    /// `off`, `on` or `unmap`.
    pub detect_zeroes: String,
    /// Host cache behaviour.
    pub cache: CacheInfo,
    /// What the guest may ask of it in a second.
    #[serde(flatten)]
    pub throttle: ThrottleInfo,
    /// Its dirty bitmaps.
    #[serde(rename = "dirty-bitmaps", skip_serializing_if = "Vec::is_empty")]
    pub dirty_bitmaps: Vec<BitmapInfo>,
    /// The image and, nested, those below.
    pub image: ImageInfo,
}

/// Host cache behaviour of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CacheInfo {
    /// The guest sees a write cache (it has to flush).
    pub writeback: bool,
    /// O_DIRECT.
    pub direct: bool,
    /// Flushes are ignored.
    pub no_flush: bool,
}

/// `ImageInfo`: what `qemu-img info --output=json` says of an image.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// Bytes that the guest sees.
    pub virtual_size: u64,
    /// File name.
    pub filename: String,
    /// Bytes in a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// Format.
    pub format: String,
    /// Bytes that the file takes on the host's disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    /// Internal snapshots, where the caller has had them read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotInfo>,
    /// The data is encrypted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
    /// Details of the format (`{"type": "qcow2", "data": {...}}`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<serde_json::Value>,
    /// The backing file's name resolved against the image's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// The backing file's name as written in the header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// The backing file's format as written in the header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// The refcounts may be stale, or the image was not closed cleanly.
    pub dirty_flag: bool,
    /// The layer below; shared where several layers above it are described.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_image: Option<Arc<ImageInfo>>,
}

/// `SnapshotInfo`: an internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotInfo {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Bytes of machine state.
    pub vm_state_size: u64,
    /// When it was made: seconds since 1970.
    pub date_sec: u32,
    /// And nanoseconds.
    pub date_nsec: u32,
    /// How long the machine had run: seconds.
    pub vm_clock_sec: u64,
    /// And nanoseconds.
    pub vm_clock_nsec: u64,
    /// Instructions that the machine had run, where they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icount: Option<u64>,
}

/// Something that happened; it is reported to QMP clients. The monitor adds the time stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `JOB_STATUS_CHANGE`.
    JobStatusChange {
        /// The job.
        id: String,
        /// Its new state.
        status: JobStatus,
    },
    /// `BLOCK_JOB_COMPLETED`: data, tables and header are durable.
    JobCompleted(JobEnd, Option<String>),
    /// `BLOCK_JOB_CANCELLED`.
    JobCancelled(JobEnd),
    /// `BLOCK_JOB_READY`: the job can be completed.
    JobReady(JobEnd),
    /// `BLOCK_JOB_PENDING`.
    JobPending {
        /// Kind of job.
        kind: JobType,
        /// The job.
        id: String,
    },
    /// `BLOCK_JOB_ERROR`.
    JobError {
        /// The job.
        device: String,
        /// `read` or `write`.
        operation: String,
        /// `ignore`, `report` or `stop`.
        action: String,
    },
    /// `BLOCK_EXPORT_DELETED`: the export is gone, and so are its clients.
    ExportDeleted {
        /// The export.
        id: String,
    },
    /// `DEVICE_TRAY_MOVED`: a drive's tray has been opened or closed, by the guest or by a command.
    TrayMoved {
        /// The drive.
        device: String,
        /// The path of the device.
        path: String,
        /// It is open now.
        open: bool,
    },
    /// `BLOCK_IO_ERROR`: a guest's request failed.
    IoError {
        /// The disk.
        device: String,
        /// The node.
        node_name: String,
        /// `read` or `write`.
        operation: String,
        /// What came of it: the error is reported to the guest (`report`), the request is completed
        /// as if it had succeeded (`ignore`), or the guest is to be stopped while the request waits
        /// (`stop`).
        action: OnError,
        /// The host is out of space.
        nospace: bool,
        /// One line for people.
        reason: String,
    },
}

impl Event {
    /// Whether it says that a request is held, and that the guest is to be stopped.
    pub fn stops_guest(&self) -> bool {
        matches!(self, Self::IoError { action, .. } if *action == OnError::Stop)
    }
}

/// Where events go: to the monitor's clients.
pub(crate) type EventSink = Rc<RefCell<Box<dyn FnMut(Event)>>>;

/// How far a block job has come: payload of the events that it is ready or has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobEnd {
    /// Kind of job.
    #[serde(rename = "type")]
    pub kind: JobType,
    /// The job's id.
    pub device: String,
    /// Bytes to look at.
    pub len: u64,
    /// Bytes looked at.
    pub offset: u64,
    /// Bytes a second, 0 for no limit.
    pub speed: u64,
}
