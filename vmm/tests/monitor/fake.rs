//! A machine with two disks and a simple idea of jobs, and a monitor in front of it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::json;
use strata_block::api::{
    BlockDeviceInfo, BlockInfo, BlockJobInfo, BlockStream, CacheInfo, Cmd, CmdError, DiskName,
    ErrorClass, Event, ExportInfo, ExportType, ImageInfo, JobEnd, JobInfo, JobStatus, JobType,
    Reply, ThrottleInfo,
};
use strata_vmm::monitor::{
    Action, Answer, Doors, Endpoint, Machine, Mailbox, Monitor, Notice, Notifier, Protocol,
    RunState, ShutdownCause,
};

/// What the machine and the test both look at.
pub struct State {
    pub run_state: RunState,
    pub jobs: Vec<BlockJobInfo>,
    /// Every action that came, in order.
    pub seen: Vec<Action>,
    /// Snapshots are not answered until this is taken.
    pub held: Option<Vec<Answer>>,
}

/// The machine.
struct Fake {
    state: Arc<Mutex<State>>,
    notifier: Notifier,
}

/// A monitor on two sockets in a directory of its own.
pub struct Bench {
    pub qmp: PathBuf,
    pub hmp: PathBuf,
    pub state: Arc<Mutex<State>>,
    pub notifier: Notifier,
    /// Dropped before the directory.
    pub monitor: Option<Monitor>,
    _directory: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let (qmp, hmp) = (directory.path().join("qmp"), directory.path().join("hmp"));
        let endpoints = [
            (Protocol::Qmp, Endpoint::Unix(qmp.clone())),
            (Protocol::Hmp, Endpoint::Unix(hmp.clone())),
        ];
        let mailbox = Mailbox::new().unwrap();
        let notifier = mailbox.notifier();
        let (state, machine) = machine(notifier.clone());
        let monitor = Monitor::start(Doors::open(&endpoints).unwrap(), machine, mailbox).unwrap();
        Bench {
            qmp,
            hmp,
            state,
            notifier,
            monitor: Some(monitor),
            _directory: directory,
        }
    }
}

/// A machine that is running.
pub fn machine(notifier: Notifier) -> (Arc<Mutex<State>>, Box<dyn Machine>) {
    let state = State {
        run_state: RunState::Running,
        jobs: Vec::new(),
        seen: Vec::new(),
        held: None,
    };
    let state = Arc::new(Mutex::new(state));
    (state.clone(), Box::new(Fake { state, notifier }))
}

impl Machine for Fake {
    fn run_state(&self) -> RunState {
        self.state.lock().unwrap().run_state
    }

    fn request(&self, action: Action, answer: Answer) {
        let mut state = self.state.lock().unwrap();
        state.seen.push(action.clone());
        let is_snapshot =
            matches!(&action, Action::Block(cmd) if matches!(**cmd, Cmd::BlockdevSnapshotSync(_)));
        match (&mut state.held, is_snapshot) {
            (Some(held), true) => held.push(answer),
            _ => answer.send(self.act(&mut state, action)),
        }
    }
}

impl Fake {
    fn act(&self, state: &mut State, action: Action) -> Result<Reply, CmdError> {
        let switch = |state: &mut State, to: RunState, notice: Notice| {
            if std::mem::replace(&mut state.run_state, to) != to {
                self.notifier.notify(notice);
            }
        };
        match action {
            Action::Block(cmd) => return self.block(state, *cmd),
            Action::Stop => switch(state, RunState::Paused, Notice::Stop),
            Action::Cont => switch(state, RunState::Running, Notice::Resume),
            Action::SystemReset => self.notifier.notify(Notice::Reset { guest: false }),
            Action::SystemPowerdown => self.notifier.notify(Notice::Powerdown),
            Action::SystemWakeup => {
                let desc = "Unable to wake up: guest is not in suspended state";
                return Err(generic(desc));
            }
            Action::Dump(_) => {}
            Action::DriveAdd(_) | Action::DriveDel(_) => {}
            Action::DeviceAdd(device) => {
                let desc = format!("'{}' is not a valid device model name", device.driver);
                return Err(generic(desc));
            }
            Action::DeviceDel(id) => {
                let path = format!("/machine/peripheral/{id}");
                let device = Some(id);
                self.notifier.notify(Notice::DeviceDeleted { device, path });
            }
            Action::Quit => self.notifier.notify(Notice::Shutdown(ShutdownCause::Quit)),
        }
        Ok(Reply::Done)
    }

    fn block(&self, state: &mut State, cmd: Cmd) -> Result<Reply, CmdError> {
        match cmd {
            Cmd::QueryBlock => Ok(Reply::Block(disks())),
            Cmd::QueryNamedBlockNodes(_) => {
                let tops = disks().into_iter().filter_map(|disk| disk.inserted);
                Ok(Reply::NamedBlockNodes(tops.collect()))
            }
            Cmd::QueryBlockJobs => Ok(Reply::BlockJobs(state.jobs.clone())),
            Cmd::QueryBlockExports => Ok(Reply::Exports(vec![ExportInfo {
                id: "exp0".to_owned(),
                kind: ExportType::Nbd,
                node_name: "#block123".to_owned(),
                shutting_down: false,
            }])),
            Cmd::BlockExportDel(export) => {
                self.block_event(Event::ExportDeleted { id: export.id });
                Ok(Reply::Done)
            }
            Cmd::QueryJobs => Ok(Reply::Jobs(state.jobs.iter().map(as_job).collect())),
            Cmd::BlockdevSnapshotSync(overlay) => snapshot(&overlay.disk(), &overlay.snapshot_file),
            Cmd::BlockResize(resize) => {
                find_disk(&resize.disk())?;
                if resize.size % 512 != 0 {
                    return Err(generic("The new size must be a multiple of 512".to_owned()));
                }
                Ok(Reply::Done)
            }
            Cmd::Eject(drive) if drive.force != Some(true) => Err(generic(format!(
                "Device '{}' is locked and force was not specified, wait for tray to open and try \
                 again",
                drive.device.unwrap_or_default()
            ))),
            Cmd::Eject(_) | Cmd::BlockdevChangeMedium(_) => {
                self.block_event(Event::TrayMoved {
                    device: "ide1-cd0".to_owned(),
                    path: "/machine/unattached/device[19]".to_owned(),
                    open: true,
                });
                Ok(Reply::Done)
            }
            Cmd::Commit(disk) if disk.device == "nosuch" => {
                Err(generic("Device 'nosuch' not found"))
            }
            Cmd::BlockSetIoThrottle(limits) if limits.iops > 0 && limits.iops_rd > 0 => {
                Err(generic(
                    "bps/iops/max total values and read/write values cannot be used at the same time",
                ))
            }
            Cmd::BlockStream(BlockStream {
                job_id,
                device,
                base,
                speed,
                auto_finalize,
                auto_dismiss,
                ..
            }) => {
                if !disks().iter().any(|disk| disk.device == device) {
                    let desc = format!("Cannot find device='{device}' nor node-name='{device}'");
                    return Err(generic(desc));
                }
                if let Some(base) = base.filter(|base| base != "A") {
                    return Err(generic(format!("Can't find '{base}' in the backing chain")));
                }
                let id = job_id.unwrap_or(device);
                self.status(&id, JobStatus::Created);
                self.status(&id, JobStatus::Running);
                let mut job = job(&id, speed.unwrap_or(0));
                job.auto_finalize = auto_finalize.unwrap_or(true);
                job.auto_dismiss = auto_dismiss.unwrap_or(true);
                state.jobs.push(job);
                Ok(Reply::Done)
            }
            Cmd::BlockJobCancel(cancel) => self.cancel(state, cancel.device),
            Cmd::BlockJobSetSpeed(cmd) => {
                find(state, &cmd.device)?.speed = cmd.speed;
                Ok(Reply::Done)
            }
            Cmd::BlockJobPause(job) => pause(find(state, &job.device)?),
            Cmd::BlockJobResume(job) => resume(find(state, &job.device)?),
            Cmd::BlockJobFinalize(job) => wrong_verb(find(state, &job.id)?, "finalize"),
            Cmd::BlockJobDismiss(job) => wrong_verb(find(state, &job.id)?, "dismiss"),
            Cmd::JobCancel(job) => {
                find_any(state, &job.id)?;
                self.cancel(state, job.id)
            }
            Cmd::JobPause(job) => pause(find_any(state, &job.id)?),
            Cmd::JobResume(job) => resume(find_any(state, &job.id)?),
            Cmd::BlockJobComplete(job) => wrong_verb(find(state, &job.device)?, "complete"),
            Cmd::JobComplete(job) => wrong_verb(find_any(state, &job.id)?, "complete"),
            Cmd::JobFinalize(job) => wrong_verb(find_any(state, &job.id)?, "finalize"),
            Cmd::JobDismiss(job) => wrong_verb(find_any(state, &job.id)?, "dismiss"),
            _ => Ok(Reply::Done),
        }
    }

    fn cancel(&self, state: &mut State, id: String) -> Result<Reply, CmdError> {
        let job = find(state, &id)?.clone();
        state.jobs.retain(|job| job.device != id);
        self.status(&id, JobStatus::Aborting);
        self.block_event(Event::JobCancelled(end(&job)));
        self.status(&id, JobStatus::Concluded);
        self.status(&id, JobStatus::Null);
        Ok(Reply::Done)
    }

    fn status(&self, id: &str, status: JobStatus) {
        self.block_event(Event::JobStatusChange {
            id: id.to_owned(),
            status,
        });
    }

    fn block_event(&self, event: Event) {
        self.notifier.notify(Notice::Block(event));
    }
}

fn find<'a>(state: &'a mut State, id: &str) -> Result<&'a mut BlockJobInfo, CmdError> {
    let found = state.jobs.iter_mut().find(|job| job.device == id);
    found.ok_or_else(|| CmdError {
        class: ErrorClass::DeviceNotActive,
        desc: format!("Block job '{id}' not found"),
    })
}

/// As the commands for jobs of all kinds say it.
fn find_any<'a>(state: &'a mut State, id: &str) -> Result<&'a mut BlockJobInfo, CmdError> {
    find(state, id).map_err(|_| generic("Job not found"))
}

fn pause(job: &mut BlockJobInfo) -> Result<Reply, CmdError> {
    if std::mem::replace(&mut job.paused, true) {
        Err(generic("Job is already paused"))
    } else {
        Ok(Reply::Done)
    }
}

fn resume(job: &mut BlockJobInfo) -> Result<Reply, CmdError> {
    if std::mem::replace(&mut job.paused, false) {
        Ok(Reply::Done)
    } else {
        Err(generic("Can't resume a job that was not paused"))
    }
}

fn wrong_verb(job: &BlockJobInfo, verb: &str) -> Result<Reply, CmdError> {
    let id = &job.device;
    Err(generic(format!(
        "Job '{id}' in state 'running' cannot accept command verb '{verb}'"
    )))
}

fn find_disk(name: &DiskName) -> Result<(), CmdError> {
    let is_it = |disk: &BlockInfo| name.names().any(|name| name == disk.device);
    if disks().iter().any(is_it) {
        Ok(())
    } else {
        Err(generic(format!("Cannot find {name}")))
    }
}

fn snapshot(device: &DiskName, file: &str) -> Result<Reply, CmdError> {
    find_disk(device)?;
    if file.starts_with("/nosuch/") {
        return Err(generic(format!(
            "Could not create '{file}': No such file or directory"
        )));
    }
    Ok(Reply::Formatted(format!(
        "Formatting '{file}', fmt=qcow2 cluster_size=65536"
    )))
}

pub fn generic(desc: impl Into<String>) -> CmdError {
    CmdError {
        class: ErrorClass::GenericError,
        desc: desc.into(),
    }
}

pub fn job(id: &str, speed: u64) -> BlockJobInfo {
    BlockJobInfo {
        kind: JobType::Stream,
        device: id.to_owned(),
        len: 67_108_864,
        offset: 1_048_576,
        busy: false,
        paused: false,
        speed,
        io_status: "ok".to_owned(),
        ready: false,
        status: JobStatus::Running,
        auto_finalize: true,
        auto_dismiss: true,
        group: None,
        actively_synced: None,
        error: None,
        progress: None,
    }
}

fn as_job(job: &BlockJobInfo) -> JobInfo {
    JobInfo {
        group: None,
        id: job.device.clone(),
        kind: job.kind,
        status: job.status,
        current_progress: job.offset,
        total_progress: job.len,
        error: None,
        progress: None,
    }
}

pub fn end(job: &BlockJobInfo) -> JobEnd {
    JobEnd {
        kind: job.kind,
        device: job.device.clone(),
        len: job.len,
        offset: job.offset,
        speed: job.speed,
    }
}

fn raw_image() -> ImageInfo {
    ImageInfo {
        virtual_size: 1 << 20,
        filename: "a.raw".to_owned(),
        cluster_size: None,
        format: "raw".to_owned(),
        actual_size: Some(4096),
        snapshots: Vec::new(),
        encrypted: false,
        format_specific: None,
        full_backing_filename: None,
        backing_filename: None,
        backing_filename_format: None,
        dirty_flag: false,
        backing_image: None,
    }
}

fn qcow2_image() -> ImageInfo {
    ImageInfo {
        filename: "b.qcow2".to_owned(),
        cluster_size: Some(65536),
        format: "qcow2".to_owned(),
        actual_size: Some(200_704),
        snapshots: Vec::new(),
        encrypted: false,
        format_specific: Some(json!({"type": "qcow2", "data": {
            "compat": "1.1", "compression-type": "zlib", "lazy-refcounts": false,
            "refcount-bits": 16, "corrupt": false, "extended-l2": false,
        }})),
        full_backing_filename: Some("a.raw".to_owned()),
        backing_filename: Some("a.raw".to_owned()),
        backing_filename_format: Some("raw".to_owned()),
        backing_image: Some(Arc::new(raw_image())),
        ..raw_image()
    }
}

/// The disks that QEMU had when the transcripts were taken from it.
pub fn disks() -> Vec<BlockInfo> {
    let disk = |device: &str, qdev: &str, image: ImageInfo| BlockInfo {
        device: device.to_owned(),
        qdev: Some(qdev.to_owned()),
        kind: "unknown".to_owned(),
        removable: false,
        locked: false,
        tray_open: None,
        io_status: Some("ok".to_owned()),
        inserted: Some(BlockDeviceInfo {
            file: image.filename.clone(),
            node_name: format!("#block{}", if image.format == "raw" { 538 } else { 166 }),
            ro: false,
            drv: image.format.clone(),
            backing_file: image.backing_filename.clone(),
            backing_file_depth: image.backing_image.is_some().into(),
            encrypted: false,
            detect_zeroes: "off".to_owned(),
            cache: CacheInfo {
                writeback: true,
                direct: false,
                no_flush: false,
            },
            throttle: ThrottleInfo::default(),
            dirty_bitmaps: Vec::new(),
            image,
        }),
    };
    let empty = BlockInfo {
        removable: true,
        locked: true,
        tray_open: Some(true),
        inserted: None,
        ..disk("ide1-cd0", "/machine/unattached/device[19]", raw_image())
    };
    vec![
        disk(
            "virtio0",
            "/machine/peripheral-anon/device[0]/virtio-backend",
            qcow2_image(),
        ),
        disk("ide0-hd0", "/machine/unattached/device[18]", raw_image()),
        empty,
    ]
}
