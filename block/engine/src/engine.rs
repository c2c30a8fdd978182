//! [`Engine`]: everything of the block layer that lives on one device thread.

mod backends;
mod backing_file;
mod bitmaps;
mod blockdev;
mod chain;
mod commit;
mod describe;
mod exports;
mod find;
mod inflight;
mod internal;
mod media;
mod merge;
mod objects;
mod recorded;
mod resize;
mod shutdown;
mod snapshot;
mod stats;
mod stream;
mod throttling;
mod transaction;

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::RawFd,
    path::PathBuf,
    rc::Rc,
};

pub use backends::FailedRequests;
use bitmaps::BitmapCmd;
pub use describe::layer_info;
use exports::Exports;
pub use exports::{ExportSpec, Listening, VhostUserExport, VhostUserServer};
use objects::TlsCredentials;
/// What a [`DiskSpec`] is made of, for those who do not know the graph.
pub use strata_graph::{
    DetectZeroes, DiskOptions, ErrorPolicy, Format, Limit, Limits, OnRequestError, ThrottleLimits,
    Throttling, chain::ImageOptions,
};

use strata_exec::{Executor, Queue, Turn, sync::Lock};
use strata_graph::{
    Backend, Busy, EditError, ErrorAction, FailedRequest, GuestDisk, Name, NameError, Node,
    chain::Opener,
    disk::{Disk, Op},
};
use strata_storage::{
    error::{Error, IoError, Result},
    is_unnamed,
};

use crate::{
    api::{BitmapChange, Cmd, CmdError, ErrorClass, Event, EventSink, OnError, Reply},
    jobs::{Jobs, Store},
};

/// Called exactly once with a command's answer, on the device thread.
pub type ReplyTo = Box<dyn FnOnce(std::result::Result<Reply, CmdError>)>;

/// A disk to open.
#[derive(Debug, Clone, Default)]
pub struct DiskSpec {
    /// The top image.
    pub path: PathBuf,
    /// How it is opened.
    pub image: ImageOptions,
    /// The disk on top of it. `read_only`, `no_flush` and `direct` are those of the image.
    pub disk: DiskOptions,
}

/// The block layer of one device thread: its executor, disks and jobs.
///
/// ```
/// use std::{cell::Cell, rc::Rc};
/// use strata_block::{
///     api::{Cmd, Reply},
///     engine::{DiskSpec, Engine},
/// };
/// use strata_graph::{DiskOptions, Format, chain::ImageOptions};
///
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("disk.raw");
/// std::fs::File::create(&path)?.set_len(1 << 20)?;
/// let engine = Engine::new(|event| println!("{event:?}"))?;
/// let disk = engine.open_disk(DiskSpec {
///     path,
///     image: ImageOptions {
///         format: Some(Format::Raw),
///         ..ImageOptions::default()
///     },
///     disk: DiskOptions {
///         id: "disk0".to_owned(),
///         ..DiskOptions::default()
///     },
/// })?;
/// assert_eq!(disk.info().size, 1 << 20);
/// let disks = Rc::new(Cell::new(0));
/// let counted = disks.clone();
/// let reply = move |answer| match answer {
///     Ok(Reply::Block(disks)) => counted.set(disks.len()),
///     other => panic!("{other:?}"),
/// };
/// engine.execute(Cmd::QueryBlock, Box::new(reply));
/// while engine.poll().more_work_now {}
/// assert_eq!(disks.get(), 1);
/// assert!(engine.shut_down().is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `examples/embed.rs` takes a snapshot and merges it.
pub struct Engine {
    exec: Rc<Executor>,
    opener: Opener,
    disks: RefCell<Vec<Rc<GuestDisk>>>,
    /// What devices' requests pass on their way to the disks.
    backends: RefCell<Vec<Rc<Backend>>>,
    jobs: Rc<Jobs>,
    /// Where jobs are recorded, if they are.
    store: RefCell<Option<Rc<Store>>>,
    /// Everything comes to its end: nothing new begins.
    ending: Cell<bool>,
    /// Held while something is done to disks that are at rest for it.
    at_rest: Lock,
    exports: Exports,
    tls_creds: RefCell<Vec<TlsCredentials>>,
    events: EventSink,
}

impl Engine {
    /// An engine without disks. `events` is called on this thread.
    ///
    /// # Errors
    /// The host's error if no eventfd can be had.
    pub fn new(events: impl FnMut(Event) + 'static) -> io::Result<Rc<Self>> {
        Ok(Self::on(Executor::new()?, events))
    }

    /// An engine on an executor of the caller's.
    pub fn on(exec: Rc<Executor>, events: impl FnMut(Event) + 'static) -> Rc<Self> {
        Self::with_opener(exec.clone(), Opener::new(exec), events)
    }

    /// The same with an opener of the caller's: simulations bring one among simulated files.
    pub fn with_opener(
        exec: Rc<Executor>,
        opener: Opener,
        events: impl FnMut(Event) + 'static,
    ) -> Rc<Self> {
        Rc::new(Self {
            opener,
            exec,
            disks: RefCell::default(),
            backends: RefCell::default(),
            jobs: Rc::default(),
            store: RefCell::default(),
            ending: Cell::new(false),
            at_rest: Lock::default(),
            exports: Exports::default(),
            tls_creds: RefCell::default(),
            events: Rc::new(RefCell::new(Box::new(events))),
        })
    }

    /// The executor that everything runs on.
    pub fn exec(&self) -> &Rc<Executor> {
        &self.exec
    }

    /// Readable when [`Engine::poll`] has something to do that came from another thread. It is open
    /// as long as the engine lives.
    pub fn event_fd(&self) -> RawFd {
        self.exec.event_fd()
    }

    /// Carries on with guest requests, and with one job step when they rest.
    pub fn poll(&self) -> Turn {
        self.exec.poll()
    }

    /// Opens a disk with all its layers. Blocks: for start-up.
    ///
    /// # Errors
    /// One line on what cannot be used and why; nothing has been changed.
    pub fn open_disk(self: &Rc<Self>, spec: DiskSpec) -> Result<Disk> {
        let (node, id) = self.reserve(&spec)?;
        let engine = self.clone();
        self.exec.block_on(async move {
            let root = engine.open_chain(node, &spec).await?;
            Ok(engine.attach(root, spec, id))
        })
    }

    /// Keeps the names of a disk's top layer and of the disk itself, if it has one, from others.
    fn reserve(&self, spec: &DiskSpec) -> Result<(Name, Option<Name>)> {
        let names = self.opener.names();
        let id = self.reserve_id(spec)?;
        let node = match &spec.image.node_name {
            None => names.made_up(),
            Some(name) => names.layer(name).map_err(|error| {
                let own = *name == spec.disk.id;
                let taken = || NameError::DiskLikeLayer(name.clone());
                name_refused(spec, if own { taken() } else { error })
            })?,
        };
        Ok((node, id))
    }

    /// Keeps the name of a disk from others, if it has one.
    fn reserve_id(&self, spec: &DiskSpec) -> Result<Option<Name>> {
        let reserved = self.opener.names().disk(&spec.disk.id);
        reserved.map_err(|error| name_refused(spec, error))
    }

    /// Opens the layers of a disk that a device can have.
    async fn open_chain(&self, node: Name, spec: &DiskSpec) -> Result<Rc<Node>> {
        let DiskSpec { path, image, disk } = spec;
        let root = match &disk.temporary {
            Some(directory) if !image.read_only => {
                let place = (directory.as_path(), disk.id.as_str());
                self.opener.open_temporary(node, path, image, place).await?
            }
            _ => {
                let root = self.opener.open_layer_as(node, path, image).await?;
                self.opener.open_below(&root, image).await?;
                root
            }
        };
        refuse_empty(&root)?;
        refuse_partial(&root, disk.block_size())?;
        Ok(root)
    }

    fn attach(&self, root: Rc<Node>, spec: DiskSpec, id: Option<Name>) -> Disk {
        let DiskSpec { image, disk, .. } = spec;
        let disk = self.new_disk(root, (disk, image), id);
        let throttling = disk.options().throttling.clone();
        let backend = Backend::new(self.exec.clone(), disk.clone());
        self.disks.borrow_mut().push(disk);
        self.throttle(&backend, &throttling);
        self.backends.borrow_mut().push(backend.clone());
        Disk::new(backend)
    }

    /// A disk on `root`, which nobody knows of yet.
    fn new_disk(
        &self,
        root: Rc<Node>,
        (options, image): (DiskOptions, ImageOptions),
        id: Option<Name>,
    ) -> Rc<GuestDisk> {
        let options = with_image_options(options, &image);
        let events = self.events.clone();
        let failures = Box::new(move |failed| (events.borrow_mut())(io_error(failed)));
        GuestDisk::new(self.exec.clone(), failures, root, (options, image), id)
    }

    /// Carries out a command. `reply` may be called before this returns, or much later.
    pub fn execute(self: &Rc<Self>, cmd: Cmd, reply: ReplyTo) {
        if let Err(error) = cmd.check() {
            return reply(Err(error));
        }
        if self.ending.get() && !cmd.only_asks() {
            return reply(Err(refused("The disks are being closed")));
        }
        let name = cmd.name();
        match cmd {
            Cmd::BlockdevSnapshotSync(cmd) => {
                self.spawn(name, reply, async move |engine| engine.snapshot(cmd).await);
            }
            Cmd::BlockdevSnapshot(cmd) => {
                self.spawn(name, reply, async move |engine| {
                    engine.snapshot_onto_node(cmd).await
                });
            }
            Cmd::BlockdevSnapshotInternalSync(cmd) => {
                self.spawn(name, reply, async move |engine| {
                    engine.snapshot_internal(cmd).await
                });
            }
            Cmd::BlockdevSnapshotDeleteInternalSync(cmd) => {
                self.spawn(name, reply, async move |engine| {
                    engine.delete_internal(cmd).await
                });
            }
            Cmd::ChangeBackingFile(cmd) => {
                self.spawn(name, reply, async move |engine| {
                    engine.change_backing_file(cmd).await
                });
            }
            Cmd::Transaction(cmd) => {
                self.spawn(name, reply, async move |engine| {
                    engine.transaction(cmd).await
                });
            }
            Cmd::Commit(cmd) => {
                self.spawn(name, reply, async move |engine| {
                    engine.commit(&cmd.device).await
                });
            }
            cmd @ (Cmd::BlockStream(_) | Cmd::BlockCommit(_)) => self.begin_job(cmd, reply),
            Cmd::BlockJobDismiss(job) => self.dismiss(name, &job.id, reply, |error| error),
            Cmd::JobDismiss(job) => self.dismiss(name, &job.id, reply, of_any_job),
            Cmd::BlockdevAdd(cmd) => {
                self.spawn(name, reply, async move |engine| {
                    engine.blockdev_add(cmd).await
                });
            }
            Cmd::BlockdevDel(cmd) => {
                self.spawn(name, reply, async move |engine| {
                    engine.blockdev_del(cmd).await
                });
            }
            Cmd::BlockResize(cmd) => {
                self.spawn(name, reply, async move |engine| engine.resize(cmd).await);
            }
            Cmd::Eject(cmd) => {
                self.spawn(name, reply, async move |engine| engine.eject(cmd).await);
            }
            Cmd::BlockdevRemoveMedium(cmd) => {
                self.spawn(name, reply, async move |engine| {
                    engine.remove_medium(cmd).await
                });
            }
            Cmd::BlockdevChangeMedium(cmd) => {
                self.spawn(name, reply, async move |engine| {
                    engine.change_medium(cmd).await
                });
            }
            Cmd::BlockDirtyBitmapAdd(cmd) => self.bitmap(name, cmd.into(), reply),
            Cmd::BlockDirtyBitmapRemove(bitmap) => {
                self.bitmap(name, BitmapCmd::new(bitmap, BitmapChange::Remove), reply);
            }
            Cmd::BlockDirtyBitmapClear(bitmap) => {
                self.bitmap(name, BitmapCmd::new(bitmap, BitmapChange::Clear), reply);
            }
            Cmd::BlockDirtyBitmapEnable(bitmap) => {
                self.bitmap(
                    name,
                    BitmapCmd::new(bitmap, BitmapChange::Record(true)),
                    reply,
                );
            }
            Cmd::BlockDirtyBitmapDisable(bitmap) => {
                self.bitmap(
                    name,
                    BitmapCmd::new(bitmap, BitmapChange::Record(false)),
                    reply,
                );
            }
            Cmd::BlockDirtyBitmapMerge(cmd) => self.bitmap(name, cmd.into(), reply),
            Cmd::NbdServerStart(cmd) => {
                self.spawn(name, reply, async move |engine| {
                    engine.nbd_server_start(cmd).await
                });
            }
            Cmd::NbdServerStop => {
                self.spawn(name, reply, async move |engine| {
                    engine.nbd_server_stop().await
                });
            }
            Cmd::NbdServerAdd(cmd) => {
                self.spawn(name, reply, async move |engine| engine.nbd_server_add(cmd));
            }
            Cmd::NbdServerRemove(cmd) => {
                self.spawn(name, reply, async move |engine| {
                    engine.nbd_server_remove(&cmd)
                });
            }
            Cmd::BlockExportAdd(cmd) => {
                self.spawn(name, reply, async move |engine| {
                    engine.block_export_add(*cmd)
                });
            }
            Cmd::BlockExportDel(cmd) => {
                self.spawn(name, reply, async move |engine| {
                    engine.block_export_del(&cmd)
                });
            }
            Cmd::QueryChain(cmd) => {
                self.spawn(name, reply, async move |engine| {
                    engine.query_chain(cmd).await
                });
            }
            Cmd::QueryBlockExports => {
                self.spawn(name, reply, async move |engine| {
                    Ok(Reply::Exports(engine.describe_exports()))
                });
            }
            cmd => reply(self.execute_now(cmd)),
        }
    }

    /// Has `work` done for a person who waits for it: among the guests' requests.
    fn spawn(
        self: &Rc<Self>,
        name: &'static str,
        reply: ReplyTo,
        work: impl AsyncFnOnce(Rc<Self>) -> std::result::Result<Reply, CmdError> + 'static,
    ) {
        let engine = self.clone();
        let work = async move { reply(work(engine).await) };
        self.exec.spawn_named(Queue::Guest, name, work);
    }

    /// Carries out a command that waits for nothing.
    fn execute_now(self: &Rc<Self>, cmd: Cmd) -> std::result::Result<Reply, CmdError> {
        let jobs = &self.jobs;
        let done = match cmd {
            Cmd::BlockSetIoThrottle(cmd) => self.set_io_throttle(&cmd),
            Cmd::BlockdevOpenTray(cmd) => self.open_tray(&cmd),
            Cmd::BlockdevCloseTray(cmd) => self.close_tray(&cmd),
            Cmd::BlockdevInsertMedium(cmd) => self.insert_medium(&cmd),
            Cmd::BlockJobCancel(cmd) => jobs.cancel(&cmd.device, cmd.force.unwrap_or(false)),
            Cmd::BlockJobSetSpeed(cmd) => jobs.set_speed(&cmd.device, cmd.speed),
            Cmd::BlockJobPause(job) => jobs.pause(&job.device),
            Cmd::BlockJobResume(job) => jobs.resume(&job.device),
            Cmd::BlockJobComplete(job) => jobs.complete(&job.device),
            Cmd::BlockJobFinalize(job) => jobs.finalize(&job.id),
            Cmd::JobPause(job) => jobs.pause(&job.id).map_err(of_any_job),
            Cmd::JobResume(job) => jobs.resume(&job.id).map_err(of_any_job),
            Cmd::JobCancel(job) => jobs.cancel(&job.id, true).map_err(of_any_job),
            Cmd::JobComplete(job) => jobs.complete(&job.id).map_err(of_any_job),
            Cmd::JobFinalize(job) => jobs.finalize(&job.id).map_err(of_any_job),
            Cmd::ObjectAdd(cmd) => cmd
                .creds()
                .and_then(|creds| self.add_tls_creds(&cmd.id, &creds)),
            Cmd::ObjectDel(cmd) => self.delete_tls_creds(&cmd.id),
            Cmd::BlockLatencyHistogramSet(cmd) => self.set_latency_histograms(&cmd),
            Cmd::QueryBlockstats(_) => return Ok(Reply::Blockstats(self.query_blockstats())),
            Cmd::QueryBlock => return Ok(Reply::Block(self.query_block())),
            Cmd::QueryNamedBlockNodes(cmd) => {
                let nodes = self.query_named_block_nodes(cmd.flat.unwrap_or(false));
                return Ok(Reply::NamedBlockNodes(nodes));
            }
            Cmd::QueryBlockJobs => return Ok(Reply::BlockJobs(jobs.block_jobs())),
            Cmd::QueryInflight => return Ok(Reply::Inflight(self.inflight())),
            Cmd::QueryJobs => return Ok(Reply::Jobs(jobs.jobs())),
            cmd => unreachable!("{} waits for something", cmd.name()),
        };
        done.map(|()| Reply::Done)
    }
}

/// What the commands for jobs of all kinds say where those for block jobs say that there is no such
/// block job.
fn of_any_job(error: CmdError) -> CmdError {
    match error.class {
        ErrorClass::DeviceNotActive => refused("Job not found"),
        _ => error,
    }
}

/// A file without bytes is an image of a disk that no device can have.
fn refuse_empty(root: &Rc<Node>) -> Result<()> {
    // A temporary overlay is none of the user's images.
    let below = root.backing().filter(|_| is_unnamed(root.path()));
    let root = below.as_ref().unwrap_or(root);
    if root.format() == Format::Raw && root.size() == 0 {
        return Err(Error::Image {
            file: root.path().to_owned(),
            why: "is empty; a disk has at least one sector of 512 bytes".to_owned(),
        });
    }
    Ok(())
}

/// A disk is whole sectors. (What is missing to one of 512 bytes is cut off.)
fn refuse_partial(root: &Rc<Node>, block_size: u32) -> Result<()> {
    let size = root.size();
    if block_size > 512 && !size.is_multiple_of(block_size.into()) {
        return Err(Error::Image {
            file: root.path().to_owned(),
            why: format!(
                "is of {size} bytes, which is no multiple of logical-block-size={block_size}"
            ),
        });
    }
    Ok(())
}

/// `BLOCK_IO_ERROR`.
/// A disk's options with those that are its image's.
fn with_image_options(disk: DiskOptions, image: &ImageOptions) -> DiskOptions {
    DiskOptions {
        read_only: image.read_only,
        no_flush: image.no_flush,
        direct: image.direct,
        ..disk
    }
}

/// A name that a disk cannot have.
fn name_refused(spec: &DiskSpec, error: NameError) -> Error {
    Error::Image {
        file: spec.path.clone(),
        why: error.to_string(),
    }
}

fn io_error(failed: FailedRequest) -> Event {
    Event::IoError {
        device: failed.disk,
        node_name: failed.node_name,
        operation: if failed.op == Op::Read {
            "read"
        } else {
            "write"
        }
        .to_owned(),
        action: match failed.action {
            ErrorAction::Report => OnError::Report,
            ErrorAction::Ignore => OnError::Ignore,
            ErrorAction::Stop => OnError::Stop,
        },
        nospace: matches!(failed.error, IoError::NoSpace { .. }),
        reason: failed.error.to_string(),
    }
}

fn refused(desc: impl Into<String>) -> CmdError {
    CmdError::generic(desc)
}

impl From<Busy> for CmdError {
    fn from(busy: Busy) -> Self {
        refused(busy.to_string())
    }
}

impl From<NameError> for CmdError {
    fn from(error: NameError) -> Self {
        refused(error.to_string())
    }
}

impl From<EditError> for CmdError {
    fn from(error: EditError) -> Self {
        refused(error.to_string())
    }
}

#[cfg(test)]
mod tests;
