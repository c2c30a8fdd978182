//! Drives whose medium is another one later.

use std::{
    cell::{Cell, RefCell},
    path::{Path, PathBuf},
    rc::Rc,
};

use serde_json::json;
use strata_exec::mem::SgList;
use strata_graph::{
    DiskOptions, Format, Limit, Limits, ThrottleLimits, Throttling,
    chain::ImageOptions,
    disk::{Disk, Op, Request, Tray},
};
use strata_storage::{error::IoError, nbd::wire::Address};

use super::{
    Bench,
    live::{snapshot, stream},
};
use crate::{
    api::{
        BlockInfo, BlockResize, BlockdevAdd, BlockdevChangeMedium, BlockdevDel,
        BlockdevInsertMedium, ChangeReadOnlyMode, Cmd, DriveRef, ErrorClass, Event, NbdServerAdd,
        NbdServerStart, OpenTray, Reply,
    },
    engine::DiskSpec,
};

const DEVICE: &str = "/machine/unattached/device[2]";

/// What the device would do.
#[derive(Default)]
struct FakeTray {
    open: Cell<bool>,
    locked: Cell<bool>,
    asked: RefCell<Vec<bool>>,
    size: Cell<Option<u64>>,
}

impl Tray for FakeTray {
    fn is_open(&self) -> bool {
        self.open.get()
    }

    fn is_locked(&self) -> bool {
        self.locked.get()
    }

    fn ask_to_eject(&self, force: bool) {
        self.asked.borrow_mut().push(force);
        self.locked.set(self.locked.get() && !force);
    }

    fn set_open(&self, open: bool) {
        assert_ne!(self.open.replace(open), open);
    }

    fn medium_changed(&self, size: u64) {
        assert!(self.open.get(), "through a closed tray");
        self.size.set(Some(size));
    }
}

fn cd_spec(path: &Path) -> DiskSpec {
    DiskSpec {
        path: path.to_owned(),
        image: ImageOptions {
            read_only: true,
            ..ImageOptions::default()
        },
        disk: DiskOptions {
            id: "cd0".to_owned(),
            device: DEVICE.to_owned(),
            removable: true,
            ..DiskOptions::default()
        },
    }
}

/// A drive with what `path` names in it, or with nothing.
fn drive(bench: &Bench, path: Option<&Path>) -> (Disk, Rc<FakeTray>) {
    let disk = match path {
        Some(path) => bench.engine.open_disk(cd_spec(path)),
        None => bench.engine.add_empty_drive(cd_spec(Path::new(""))),
    };
    let tray = Rc::new(FakeTray::default());
    bench.engine.set_tray("cd0", tray.clone());
    (disk.unwrap(), tray)
}

/// A file of so many sectors, all bytes the same.
fn disc(bench: &Bench, name: &str, byte: u8, sectors: usize) -> PathBuf {
    let path = bench.path(name);
    std::fs::write(&path, vec![byte; sectors * 512]).unwrap();
    path
}

fn open(force: bool) -> OpenTray {
    OpenTray {
        device: Some("cd0".to_owned()),
        force: force.then_some(true),
        ..OpenTray::default()
    }
}

fn eject() -> Cmd {
    Cmd::Eject(open(false))
}

fn by_device() -> DriveRef {
    DriveRef {
        device: Some("cd0".to_owned()),
        id: None,
    }
}

fn change(path: &Path) -> Cmd {
    Cmd::BlockdevChangeMedium(BlockdevChangeMedium {
        device: Some("cd0".to_owned()),
        filename: path.display().to_string(),
        ..BlockdevChangeMedium::default()
    })
}

fn insert(node: &str) -> Cmd {
    Cmd::BlockdevInsertMedium(BlockdevInsertMedium {
        id: Some(DEVICE.to_owned()),
        node_name: node.to_owned(),
        ..BlockdevInsertMedium::default()
    })
}

fn moved(open: bool) -> Event {
    Event::TrayMoved {
        device: "cd0".to_owned(),
        path: DEVICE.to_owned(),
        open,
    }
}

impl Bench {
    fn refused(&self, cmd: Cmd) -> String {
        self.command(cmd).unwrap_err().desc
    }

    fn drives(&self) -> Vec<BlockInfo> {
        match self.command(Cmd::QueryBlock).unwrap() {
            Reply::Block(drives) => drives,
            other => panic!("{other:?}"),
        }
    }

    /// The image in the drive, whether the tray is open, and whether it is locked.
    fn shown(&self) -> (Option<String>, Option<bool>, bool) {
        let [drive] = self.drives().try_into().unwrap();
        assert!(drive.removable);
        assert_eq!(
            (drive.device.as_str(), drive.qdev.unwrap().as_str()),
            ("cd0", DEVICE)
        );
        let file = drive.inserted.map(|top| {
            assert!(top.ro);
            top.file
        });
        (file, drive.tray_open, drive.locked)
    }

    /// Whether somebody holds a lock on the image.
    fn is_open(&self, path: &Path) -> bool {
        let other = Bench::new();
        let opened = other.open("disk", path, Some(Format::Raw));
        opened.is_err()
    }
}

#[test]
fn another_medium_takes_the_place_of_the_first() {
    let bench = Bench::new();
    let (a, b) = (disc(&bench, "a", 1, 8), disc(&bench, "b", 2, 24));
    let (disk, tray) = drive(&bench, Some(&a));
    assert_eq!(bench.read(&disk, 0, 512), [1; 512]);
    bench.command(change(&b)).unwrap();
    assert_eq!(bench.events(), [moved(true), moved(false)]);
    assert_eq!(
        bench.shown(),
        (Some(b.display().to_string()), Some(false), false)
    );
    assert_eq!(
        (tray.size.get(), disk.info().size),
        (Some(24 * 512), 24 * 512)
    );
    assert_eq!(bench.read(&disk, 23 * 512, 512), [2; 512]);
    assert!(!bench.is_open(&a));
    assert!(bench.is_open(&b));
    // The id is the drive's, whatever is in it.
    let mut second = cd_spec(&a);
    second.disk.device = String::new();
    let error = bench.engine.open_disk(second).err().unwrap().to_string();
    assert!(error.contains("'cd0' already exists"), "{error}");
    assert!(bench.engine.shut_down().is_empty());
    assert!(!bench.is_open(&b));
}

#[test]
fn an_ejected_medium_is_closed_and_the_drive_stays() {
    let bench = Bench::new();
    let a = disc(&bench, "a", 1, 8);
    let (disk, tray) = drive(&bench, Some(&a));
    for expected in [vec![moved(true)], vec![]] {
        bench.command(eject()).unwrap();
        assert_eq!(bench.events(), expected);
        assert_eq!(bench.shown(), (None, Some(true), false));
    }
    assert_eq!((tray.size.get(), disk.info().size), (Some(0), 0));
    assert!(!bench.is_open(&a));
    let read = bench.run(&disk, Op::Read, 0, 512, SgList::zeroed(512));
    assert!(matches!(read, Err(IoError::OutOfRange)));
    let other = bench.engine.add_empty_drive(cd_spec(Path::new("")));
    assert!(
        other
            .err()
            .unwrap()
            .to_string()
            .contains("'cd0' already exists")
    );
    let resize = Cmd::BlockResize(BlockResize {
        device: Some("cd0".to_owned()),
        node_name: None,
        size: 512,
    });
    let Cmd::BlockStream(mut cmd) = stream(None, 1) else {
        panic!();
    };
    cmd.device = "cd0".to_owned();
    for cmd in [resize, Cmd::BlockStream(cmd)] {
        assert_eq!(bench.refused(cmd), "Device 'cd0' has no medium");
    }
    bench.command(Cmd::BlockdevCloseTray(by_device())).unwrap();
    assert_eq!(bench.events(), [moved(false)]);
    assert_eq!(bench.shown(), (None, Some(false), false));
    bench.command(change(&a)).unwrap();
    assert_eq!(bench.read(&disk, 0, 512), [1; 512]);
}

#[test]
fn a_drive_may_begin_empty() {
    let bench = Bench::new();
    let (disk, _) = drive(&bench, None);
    assert_eq!(bench.shown(), (None, Some(false), false));
    assert_eq!(disk.info().size, 0);
    assert!(disk.info().read_only);
    let a = disc(&bench, "a", 1, 8);
    bench.command(change(&a)).unwrap();
    assert_eq!(
        bench.shown(),
        (Some(a.display().to_string()), Some(false), false)
    );
    assert_eq!(bench.read(&disk, 0, 4096), [1; 4096]);
    assert!(bench.engine.shut_down().is_empty());
}

#[test]
fn a_guest_that_has_locked_its_tray_is_asked_first() {
    let bench = Bench::new();
    let (a, b) = (disc(&bench, "a", 1, 8), disc(&bench, "b", 2, 8));
    let (disk, tray) = drive(&bench, Some(&a));
    tray.locked.set(true);
    assert_eq!(
        bench.shown(),
        (Some(a.display().to_string()), Some(false), true)
    );
    let locked = "Device 'cd0' is locked and force was not specified, wait for tray to open and \
                  try again";
    let open_tray = Cmd::BlockdevOpenTray(open(false));
    for cmd in [eject(), change(&b), open_tray] {
        assert_eq!(bench.refused(cmd), locked);
    }
    assert_eq!(tray.asked.take(), [false; 3]);
    assert_eq!(bench.events(), []);
    assert_eq!(bench.read(&disk, 0, 512), [1; 512]);
    assert!(!bench.is_open(&b), "what was not put in is closed again");
    bench.command(Cmd::Eject(open(true))).unwrap();
    assert_eq!(tray.asked.take(), [true]);
    assert_eq!(bench.shown(), (None, Some(true), false));
}

#[test]
fn what_cannot_be_opened_changes_nothing() {
    let bench = Bench::new();
    let a = disc(&bench, "a", 1, 8);
    let (disk, _) = drive(&bench, Some(&a));
    let missing = bench.refused(change(&bench.path("missing")));
    assert!(missing.contains("missing"), "{missing}");
    let with = |format: Option<&str>, read_only_mode| {
        Cmd::BlockdevChangeMedium(BlockdevChangeMedium {
            device: Some("cd0".to_owned()),
            filename: a.display().to_string(),
            format: format.map(str::to_owned),
            read_only_mode,
            ..BlockdevChangeMedium::default()
        })
    };
    assert_eq!(
        bench.refused(with(Some("vmdk"), None)),
        "Unknown driver 'vmdk'"
    );
    let error = bench.refused(with(Some("qcow2"), None));
    assert!(error.contains("qcow2"), "{error}");
    let error = bench.refused(with(None, Some(ChangeReadOnlyMode::ReadWrite)));
    assert_eq!(
        error,
        "Device 'cd0' only reads: its media are opened read-only"
    );
    assert_eq!(bench.events(), []);
    assert_eq!(
        bench.shown(),
        (Some(a.display().to_string()), Some(false), false)
    );
    assert_eq!(bench.read(&disk, 0, 512), [1; 512]);
    bench
        .command(with(Some("raw"), Some(ChangeReadOnlyMode::ReadOnly)))
        .unwrap();
}

#[test]
fn only_drives_with_a_tray_take_other_media() {
    let bench = Bench::new();
    let a = disc(&bench, "a", 1, 8);
    bench.open("virtio0", &a, Some(Format::Raw)).unwrap();
    let named = |device: &str| {
        Cmd::Eject(OpenTray {
            device: Some(device.to_owned()),
            ..OpenTray::default()
        })
    };
    assert_eq!(
        bench.refused(named("virtio0")),
        "Device 'virtio0' is not removable"
    );
    let error = bench.command(named("nosuch")).unwrap_err();
    assert_eq!(error.desc, "Device 'nosuch' not found");
    assert_eq!(error.class, ErrorClass::DeviceNotFound);
    let none = bench.refused(Cmd::Eject(OpenTray::default()));
    assert_eq!(none, "Need exactly one of 'device' and 'id'");
}

#[test]
fn what_uses_a_medium_keeps_it_in_the_drive() {
    let bench = Bench::new();
    let (a, b) = (disc(&bench, "a", 1, 8), disc(&bench, "b", 2, 8));
    let (_disk, tray) = drive(&bench, Some(&a));
    let at = Address::Unix(bench.path("nbd.sock"));
    bench
        .command(Cmd::NbdServerStart(NbdServerStart::at(at)))
        .unwrap();
    bench
        .command(Cmd::NbdServerAdd(NbdServerAdd {
            device: "cd0".to_owned(),
            ..NbdServerAdd::default()
        }))
        .unwrap();
    let busy = "Node 'cd0' is busy: it is exported as 'cd0': delete that export first";
    assert_eq!(bench.refused(eject()), busy);
    assert_eq!(bench.refused(change(&b)), busy);
    // As with QEMU the tray is open then.
    assert!(tray.open.get());
    bench.command(Cmd::NbdServerStop).unwrap();
    bench.command(change(&b)).unwrap();
    assert!(!bench.is_open(&a));
}

fn add(bench: &Bench, name: &str, path: &Path) {
    let options = json!({
        "driver": "qcow2",
        "node-name": name,
        "file": {"driver": "file", "filename": path},
    });
    let options = options.as_object().unwrap().clone();
    bench
        .command(Cmd::BlockdevAdd(BlockdevAdd(options)))
        .unwrap();
}

#[test]
fn an_image_that_was_added_is_put_in_and_taken_out() {
    let bench = Bench::new();
    let image = bench.create("image");
    let written = bench.open("disk", &image, Some(Format::Qcow2)).unwrap();
    bench.write(&written, 0, vec![7; 65536]).unwrap();
    assert!(bench.engine.shut_down().is_empty());

    let bench_path = image;
    let bench = Bench::new();
    add(&bench, "n0", &bench_path);
    let (disk, _) = drive(&bench, None);
    assert_eq!(
        bench.refused(insert("n0")),
        format!("Tray of device '{DEVICE}' is not open")
    );
    bench.command(Cmd::BlockdevOpenTray(open(false))).unwrap();
    assert_eq!(bench.refused(insert("nosuch")), "Node 'nosuch' not found");
    bench.command(insert("n0")).unwrap();
    let full = format!("There already is a medium in device '{DEVICE}'");
    assert_eq!(bench.refused(insert("n0")), full);
    bench.command(Cmd::BlockdevCloseTray(by_device())).unwrap();
    assert_eq!(bench.read(&disk, 0, 65536), [7; 65536]);
    assert_eq!(disk.info().size, 4 << 20);
    let delete = || {
        Cmd::BlockdevDel(BlockdevDel {
            node_name: "n0".to_owned(),
        })
    };
    assert!(bench.command(delete()).is_err(), "it is in use");
    let closed = "Tray of device 'cd0' is not open";
    let remove = || Cmd::BlockdevRemoveMedium(by_device());
    assert_eq!(bench.refused(remove()), closed);
    bench.command(Cmd::BlockdevOpenTray(open(false))).unwrap();
    bench.command(remove()).unwrap();
    bench.command(remove()).unwrap();
    assert_eq!(bench.shown(), (None, Some(true), false));
    // It is there as it was before.
    bench.command(insert("n0")).unwrap();
    bench.command(eject()).unwrap();
    bench.command(delete()).unwrap();
    assert!(bench.engine.find_disk("n0").is_none());
}

#[test]
fn a_job_keeps_a_medium_in_the_drive() {
    let bench = Bench::new();
    let base = bench.create("base");
    let disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
    bench.write(&disk, 0, vec![1; 1 << 20]).unwrap();
    let top = bench.path("top");
    bench.command(snapshot("virtio0", &top)).unwrap();
    assert!(bench.engine.shut_down().is_empty());
    add(&bench, "n0", &top);
    let (_disk, tray) = drive(&bench, None);
    tray.open.set(true);
    bench.command(insert("n0")).unwrap();
    let Cmd::BlockStream(mut cmd) = stream(None, 1) else {
        panic!();
    };
    (cmd.device, cmd.job_id) = ("n0".to_owned(), Some("job".to_owned()));
    bench.command(Cmd::BlockStream(cmd)).unwrap();
    let busy = "Node 'cd0' is busy: block device is in use by block job: stream 'job'";
    assert_eq!(bench.refused(eject()), busy);
    assert!(bench.engine.shut_down().is_empty());
}

#[test]
fn requests_that_wait_are_not_for_the_next_medium() {
    let bench = Bench::new();
    let (a, b) = (disc(&bench, "a", 1, 8), disc(&bench, "b", 2, 8));
    let mut spec = cd_spec(&a);
    // One request in a hundred seconds.
    spec.disk.throttling = Throttling {
        limits: ThrottleLimits {
            requests: Limits {
                total: Limit {
                    average: 1,
                    burst_seconds: 1,
                    ..Limit::default()
                },
                ..Limits::default()
            },
            request_size: 1,
            ..ThrottleLimits::default()
        },
        group: None,
    };
    let disk = bench.engine.open_disk(spec).unwrap();
    let tray = Rc::new(FakeTray::default());
    bench.engine.set_tray("cd0", tray);
    let ended = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..2 {
        let (data, slot) = (SgList::zeroed(512), ended.clone());
        let request = Request {
            op: Op::Read,
            offset: 0,
            len: 512,
            data: data.clone(),
        };
        disk.submit(request, move |result| {
            slot.borrow_mut().push((result, data.to_vec()))
        });
    }
    while ended.borrow().is_empty() {
        bench.engine.poll();
    }
    bench.command(change(&b)).unwrap();
    bench
        .engine
        .begin_to_rest(crate::engine::FailedRequests::Held);
    while ended.borrow().len() < 2 {
        bench.engine.poll();
    }
    let ended = ended.take();
    assert!(ended[0].0.is_ok() && ended[0].1 == [1; 512]);
    assert!(matches!(ended[1].0, Err(IoError::OutOfRange)) && ended[1].1 == [0; 512]);
    // The limits are the drive's.
    let limits = bench.drives()[0]
        .inserted
        .as_ref()
        .unwrap()
        .throttle
        .clone();
    assert_eq!(limits.iops, 1);
}
