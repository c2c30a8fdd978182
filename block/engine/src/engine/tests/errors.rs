//! What is done about requests that fail: reported, ignored, or held while the guest is stopped.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    rc::Rc,
};

use strata_exec::{Executor, mem::SgList};
use strata_format::qcow2::CreateOptions;
use strata_graph::{
    ErrorPolicy, Format, NewImage, OnRequestError,
    chain::Opener,
    create_image_in,
    disk::{Completion, Disk, Op, Request},
};
use strata_storage::{Faults, Files, SimDirectory, SimFile, error::IoError, lossy::LossyDevice};

use super::{Bench, live::snapshot};
use crate::{
    api::{BlockCommit, Cmd, Event, JobRef, JobStatus, OnError, Reply},
    engine::{DiskSpec, Engine, FailedRequests},
};

const SIZE: u64 = 2 << 20;

/// A qcow2 disk in a simulated file.
struct Simulated {
    engine: Rc<Engine>,
    directory: Rc<SimDirectory>,
    path: PathBuf,
    disk: Disk,
    events: Rc<RefCell<Vec<Event>>>,
}

/// A request that has been sent; what came of it.
type Sent = Rc<RefCell<Option<Completion>>>;

impl Simulated {
    fn new(on_read: OnRequestError, on_write: OnRequestError) -> Self {
        let exec = Executor::new().unwrap();
        let directory = SimDirectory::new(BTreeMap::new(), 1);
        let files = Files::Sim(directory.clone());
        let path = PathBuf::from("/simulated/A");
        let image = NewImage::Qcow2(CreateOptions {
            size: SIZE,
            ..CreateOptions::default()
        });
        let (inner, among, name) = (exec.clone(), files.clone(), path.clone());
        exec.block_on(async move {
            let made = create_image_in(&among, &inner, &name, image).await;
            made.unwrap();
        });
        let events = Rc::new(RefCell::new(Vec::new()));
        let sink = events.clone();
        let opener = Opener::among(files, 1 << 20, exec.clone());
        let engine = Engine::with_opener(exec, opener, move |event| sink.borrow_mut().push(event));
        let mut spec = DiskSpec {
            path: path.clone(),
            ..DiskSpec::default()
        };
        spec.image.format = Some(Format::Qcow2);
        spec.disk.id = "virtio0".to_owned();
        spec.disk.errors = ErrorPolicy { on_read, on_write };
        let disk = engine.open_disk(spec).unwrap();
        Self {
            engine,
            directory,
            path,
            disk,
            events,
        }
    }

    fn file(&self) -> Rc<SimFile> {
        self.directory.file(&self.path).unwrap()
    }

    /// Lets everything come as far as it can.
    fn settle(&self) {
        while self.engine.poll().more_work_now {}
    }

    fn send(&self, op: Op, offset: u64, data: SgList) -> Sent {
        let len = match op {
            Op::Discard | Op::WriteZeroes { .. } => 4096,
            _ => data.len() as u64,
        };
        let sent = Sent::default();
        let slot = sent.clone();
        let request = Request {
            op,
            offset,
            len,
            data,
        };
        self.disk
            .submit(request, move |result| *slot.borrow_mut() = Some(result));
        self.settle();
        sent
    }

    fn write(&self, offset: u64, byte: u8) -> Sent {
        let data = SgList::from_vec(vec![byte; 65536]);
        self.send(Op::Write { fua: false }, offset, data)
    }

    /// The errors that were reported to clients since the last time: action, and whether there was
    /// no room.
    fn reported(&self) -> Vec<(OnError, bool)> {
        let events = self.events.take().into_iter();
        let error = |event| match event {
            Event::IoError {
                action, nospace, ..
            } => Some((action, nospace)),
            _ => None,
        };
        events.filter_map(error).collect()
    }

    fn faults(&self, faults: Faults) {
        self.file().set_faults(faults);
    }

    fn command(&self, cmd: crate::api::Cmd) -> Reply {
        let answer = Rc::new(RefCell::new(None));
        let slot = answer.clone();
        let reply = move |result| *slot.borrow_mut() = Some(result);
        self.engine.execute(cmd, Box::new(reply));
        self.settle();
        answer.take().unwrap().unwrap()
    }
}

fn is_ok(sent: &Sent) -> bool {
    matches!(*sent.borrow(), Some(Ok(())))
}

fn is_waiting(sent: &Sent) -> bool {
    sent.borrow().is_none()
}

const READS_FAIL: Faults = Faults {
    read: 1000,
    write: 0,
    flush: 0,
    write_back: 0,
    other: 0,
};

const WRITES_FAIL: Faults = Faults {
    read: 0,
    write: 1000,
    flush: 0,
    write_back: 0,
    other: 0,
};

#[test]
fn a_write_without_room_waits_for_it() {
    let sim = Simulated::new(OnRequestError::Report, OnRequestError::Enospc);
    let before = sim.write(0, 1);
    assert!(is_ok(&before) && !sim.engine.has_requests());
    sim.file().set_room(Some(0));
    let held = [sim.write(65536, 2), sim.write(131_072, 3)];
    assert!(held.iter().all(is_waiting));
    assert_eq!(sim.reported(), [(OnError::Stop, true); 2]);
    assert!(sim.engine.holds_requests() && sim.engine.waits_for_room() && sim.engine.rests());
    // What needs no room goes on.
    assert!(is_ok(&sim.write(0, 4)));

    // A try that comes too early says nothing; one that a person has asked for does.
    sim.engine.retry_for_room();
    assert!(!sim.engine.rests());
    sim.settle();
    assert!(held.iter().all(is_waiting) && sim.engine.rests());
    assert_eq!(sim.reported(), []);
    sim.engine.retry();
    sim.settle();
    assert_eq!(sim.reported(), [(OnError::Stop, true); 2]);

    sim.file().set_room(None);
    sim.engine.retry_for_room();
    sim.settle();
    assert!(held.iter().all(is_ok) && !sim.engine.has_requests());
    assert_eq!(sim.reported(), []);
    let data = SgList::zeroed(131_072);
    assert!(is_ok(&sim.send(Op::Read, 65536, data.clone())));
    assert_eq!(data.to_vec(), [[2; 65536], [3; 65536]].concat());
}

#[test]
fn other_errors_are_reported_where_only_room_is_waited_for() {
    let sim = Simulated::new(OnRequestError::Report, OnRequestError::Enospc);
    sim.faults(WRITES_FAIL);
    let failed = sim.write(0, 1);
    assert!(matches!(*failed.borrow(), Some(Err(IoError::Host { .. }))));
    assert_eq!(sim.reported(), [(OnError::Report, false)]);
    sim.faults(READS_FAIL);
    let failed = sim.send(Op::Read, 0, SgList::zeroed(4096));
    sim.faults(Faults::default());
    assert!(!is_waiting(&failed));
    assert!(!sim.engine.has_requests());
}

#[test]
fn a_request_that_stops_the_guest_is_tried_again_when_it_goes_on() {
    let sim = Simulated::new(OnRequestError::Stop, OnRequestError::Stop);
    assert!(is_ok(&sim.write(0, 7)));
    sim.faults(READS_FAIL);
    let data = SgList::zeroed(65536);
    let held = sim.send(Op::Read, 0, data.clone());
    assert!(is_waiting(&held) && sim.engine.rests());
    assert_eq!(sim.reported(), [(OnError::Stop, false)]);
    // It does not go on by itself.
    assert!(!sim.engine.waits_for_room());
    sim.engine.retry_for_room();
    sim.settle();
    assert!(is_waiting(&held));
    // The second time it fails again, and says so.
    sim.engine.retry();
    sim.settle();
    assert!(is_waiting(&held));
    assert_eq!(sim.reported(), [(OnError::Stop, false)]);
    sim.faults(Faults::default());
    sim.engine.retry();
    sim.settle();
    assert!(is_ok(&held));
    assert_eq!(data.to_vec(), [7; 65536]);
}

#[test]
fn no_room_waits_for_a_person_where_every_error_does() {
    let sim = Simulated::new(OnRequestError::Report, OnRequestError::Stop);
    sim.file().set_room(Some(0));
    let held = sim.write(0, 1);
    assert!(is_waiting(&held) && !sim.engine.waits_for_room());
    sim.file().set_room(None);
    sim.engine.retry();
    sim.settle();
    assert!(is_ok(&held));
}

#[test]
fn ignored_errors_are_reported_to_clients_alone() {
    let sim = Simulated::new(OnRequestError::Ignore, OnRequestError::Ignore);
    sim.faults(WRITES_FAIL);
    assert!(is_ok(&sim.write(0, 1)));
    assert_eq!(sim.reported(), [(OnError::Ignore, false)]);
    let sim = Simulated::new(OnRequestError::Ignore, OnRequestError::Ignore);
    assert!(is_ok(&sim.write(0, 1)));
    sim.faults(READS_FAIL);
    assert!(is_ok(&sim.send(Op::Read, 0, SgList::zeroed(4096))));
    assert_eq!(sim.reported(), [(OnError::Ignore, false)]);
}

#[test]
fn a_flush_counts_as_a_write() {
    let sim = Simulated::new(OnRequestError::Report, OnRequestError::Stop);
    assert!(is_ok(&sim.write(0, 1)));
    sim.faults(Faults {
        flush: 1000,
        ..Faults::default()
    });
    let flush = sim.send(Op::Flush, 0, SgList::empty());
    assert!(is_waiting(&flush), "{:?}", flush.borrow());
    // A flush that has failed never succeeds again: only the guest's end helps.
    sim.faults(Faults::default());
    sim.engine.retry();
    sim.settle();
    assert!(is_waiting(&flush) && sim.engine.rests());
    sim.engine.begin_to_rest(FailedRequests::Ended);
    sim.settle();
    assert!(matches!(
        *flush.borrow(),
        Some(Err(IoError::Stopped { .. } | IoError::Lost { .. }))
    ));
}

#[test]
fn nothing_is_held_for_a_guest_that_has_gone() {
    let sim = Simulated::new(OnRequestError::Stop, OnRequestError::Enospc);
    sim.file().set_room(Some(0));
    let held = sim.write(0, 1);
    assert!(is_waiting(&held));
    sim.reported();
    sim.engine.begin_to_rest(FailedRequests::Ended);
    sim.settle();
    assert!(matches!(*held.borrow(), Some(Err(IoError::NoSpace { .. }))));
    assert_eq!(sim.reported(), [], "it has been reported before");
    // So ends what fails on the way down.
    let late = sim.write(0, 1);
    assert!(!is_waiting(&late) && !is_ok(&late) && !sim.engine.has_requests());
    assert_eq!(sim.reported(), [(OnError::Report, true)]);
    // Another guest is waited for again.
    sim.engine.end_rest();
    assert!(is_waiting(&sim.write(0, 1)));
    // Held requests keep no disk from being closed.
    sim.engine.begin_to_rest(FailedRequests::Ended);
    assert!(sim.engine.shut_down().is_empty());
}

#[test]
fn a_held_request_goes_to_the_layer_that_is_on_top_when_it_goes_on() {
    let sim = Simulated::new(OnRequestError::Report, OnRequestError::Enospc);
    sim.file().set_room(Some(0));
    let held = sim.write(65536, 5);
    assert!(is_waiting(&held));
    sim.command(snapshot("virtio0", &PathBuf::from("/simulated/B")));
    sim.engine.retry_for_room();
    sim.settle();
    assert!(is_ok(&held));
    let top = sim.engine.find_disk("virtio0").unwrap().root();
    assert_eq!(top.path(), PathBuf::from("/simulated/B"));
    let data = SgList::zeroed(65536);
    assert!(is_ok(&sim.send(Op::Read, 65536, data.clone())));
    assert_eq!(data.to_vec(), [5; 65536]);
}

/// Clients of an export get their own errors, and stop nobody.
#[test]
fn exports_do_not_stop_the_guest() {
    let sim = Simulated::new(OnRequestError::Stop, OnRequestError::Stop);
    sim.file().set_room(Some(0));
    let exported = Disk::new(sim.engine.find_disk("virtio0").unwrap());
    let sent = Sent::default();
    let slot = sent.clone();
    let request = Request {
        op: Op::Write { fua: false },
        offset: 0,
        len: 65536,
        data: SgList::zeroed(65536),
    };
    exported.submit(request, move |result| *slot.borrow_mut() = Some(result));
    sim.settle();
    assert!(matches!(*sent.borrow(), Some(Err(IoError::NoSpace { .. }))));
    assert_eq!(sim.reported(), [(OnError::Report, true)]);
    assert!(sim.engine.rests() && !sim.engine.holds_requests());
}

/// Real errors of a real device: the guest's write waits until it is mended.
#[test]
fn a_device_is_mended_under_a_stopped_guest() {
    let Some(device) = LossyDevice::new(16, 8..10) else {
        return;
    };
    let bench = Bench::new();
    let mut spec = DiskSpec {
        path: device.path().to_owned(),
        ..DiskSpec::default()
    };
    spec.image.format = Some(Format::Raw);
    spec.image.direct = true;
    spec.disk.id = "virtio0".to_owned();
    spec.disk.errors.on_write = OnRequestError::Stop;
    let disk = bench.engine.open_disk(spec).unwrap();
    bench.write(&disk, 0, vec![1; 1 << 20]).unwrap();
    let sent = Sent::default();
    let slot = sent.clone();
    let request = Request {
        op: Op::Write { fua: false },
        offset: 8 << 20,
        len: 1 << 20,
        data: SgList::from_vec(vec![2; 1 << 20]),
    };
    disk.submit(request, move |result| *slot.borrow_mut() = Some(result));
    let stops = |events: &[Event]| events.iter().any(Event::stops_guest);
    while !stops(&bench.events.borrow()) {
        assert!(is_waiting(&sent), "{:?}", sent.borrow());
        bench.engine.poll();
    }
    assert!(bench.engine.rests());
    device.mend();
    bench.engine.retry();
    while is_waiting(&sent) {
        bench.engine.poll();
    }
    assert!(is_ok(&sent), "{:?}", sent.borrow());
    bench.run(&disk, Op::Flush, 0, 0, SgList::empty()).unwrap();
    assert_eq!(bench.read(&disk, 8 << 20, 1 << 20), vec![2; 1 << 20]);
}

/// As with QEMU: what it left out would be of no use to anybody.
#[test]
fn a_commit_that_ignores_errors_tries_again() {
    let sim = Simulated::new(OnRequestError::Report, OnRequestError::Report);
    sim.command(snapshot("virtio0", Path::new("/simulated/B")));
    assert!(is_ok(&sim.write(0, 1)) && is_ok(&sim.write(1 << 20, 2)));
    sim.file().set_room(Some(0));
    sim.command(Cmd::BlockCommit(Box::new(BlockCommit {
        device: "virtio0".to_owned(),
        on_error: Some(OnError::Ignore),
        ..BlockCommit::default()
    })));
    let ignored = |events: &[Event]| {
        let is_one =
            |event: &&Event| matches!(event, Event::JobError { action, .. } if action == "ignore");
        events.iter().filter(is_one).count()
    };
    while ignored(&sim.events.borrow()) < 5 {
        sim.engine.poll();
    }
    let jobs = sim.command(Cmd::QueryBlockJobs);
    let Reply::BlockJobs(jobs) = jobs else {
        panic!("{jobs:?}");
    };
    assert_eq!(
        (jobs[0].status, &jobs[0].error),
        (JobStatus::Running, &None)
    );
    sim.file().set_room(None);
    let is_ready = |event: &Event| matches!(event, Event::JobReady(_));
    while !sim.events.borrow().iter().any(is_ready) {
        sim.engine.poll();
    }
    sim.command(Cmd::JobComplete(JobRef {
        id: "virtio0".to_owned(),
    }));
    let is_end = |event: &Event| matches!(event, Event::JobCompleted(_, None));
    while !sim.events.borrow().iter().any(is_end) {
        sim.engine.poll();
    }
    let root = sim.engine.find_disk("virtio0").unwrap().root();
    assert_eq!(root.path(), sim.path);
    let data = SgList::zeroed(65536);
    assert!(is_ok(&sim.send(Op::Read, 1 << 20, data.clone())));
    assert_eq!(data.to_vec(), [2; 65536]);
}
