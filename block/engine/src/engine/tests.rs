use std::{
    cell::{Cell, RefCell},
    path::Path,
    rc::Rc,
};

mod active_commit;
mod at_once;
mod bad_input;
mod bases;
mod bitmaps;
mod blockdev;
mod commit;
mod describe;
mod direct;
mod ends;
mod errors;
mod exported_layers;
mod exports;
mod fair;
mod groups;
mod headers;
mod inflight;
mod internal;
mod live;
mod locks;
mod lossy;
mod media;
mod names;
mod node_names;
mod onto_node;
mod pieces;
mod progress;
mod qed;
mod recorded;
mod reopen;
mod resize;
mod sectors;
mod stats;
mod stream_middle;
mod temporary;
mod throttling;
mod transaction;
mod zeroes;

use strata_exec::mem::SgList;
use strata_format::qcow2::CreateOptions;
use strata_graph::{
    DiskOptions, Format,
    chain::ImageOptions,
    create_image,
    disk::{Disk, Op, Request},
};
use strata_storage::error::{IoError, IoResult};

use super::{DiskSpec, Engine};
use crate::api::{BlockJobRef, BlockdevSnapshotSync, Cmd, CmdError, Event, Reply};

/// An engine, and the events that it has sent.
struct Bench {
    engine: Rc<Engine>,
    events: Rc<RefCell<Vec<Event>>>,
    directory: tempfile::TempDir,
}

/// The disk `id` on the image `path`.
fn spec(id: &str, path: &Path, format: Option<Format>) -> DiskSpec {
    DiskSpec {
        path: path.to_owned(),
        image: ImageOptions {
            format,
            ..Default::default()
        },
        disk: DiskOptions {
            id: id.to_owned(),
            ..Default::default()
        },
    }
}

/// The same, with a qcow2 layer that is called `node_name` if that says anything.
fn named_spec(id: &str, path: &Path, node_name: &str) -> DiskSpec {
    let mut spec = spec(id, path, Some(Format::Qcow2));
    spec.image.node_name = (!node_name.is_empty()).then(|| node_name.to_owned());
    spec
}

impl Bench {
    fn new() -> Self {
        let events = Rc::new(RefCell::new(Vec::new()));
        let sink = events.clone();
        let engine = Engine::new(move |event| sink.borrow_mut().push(event)).unwrap();
        Self {
            engine,
            events,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn open(
        &self,
        id: &str,
        path: &Path,
        format: Option<Format>,
    ) -> strata_storage::error::Result<Disk> {
        self.engine.open_disk(spec(id, path, format))
    }

    /// Makes a qcow2 image of 4 MiB.
    fn create(&self, name: &str) -> std::path::PathBuf {
        let (path, exec) = (self.path(name), self.engine.exec().clone());
        let image = path.clone();
        let options = CreateOptions {
            size: 4 << 20,
            ..CreateOptions::default()
        };
        let made = exec.clone();
        exec.block_on(async move { create_image(&made, &image, options).await.unwrap() });
        path
    }

    /// Takes the events that have come so far.
    fn events(&self) -> Vec<Event> {
        self.events.take()
    }

    /// Lets everything run until `done`.
    fn until(&self, done: impl Fn(&[Event]) -> bool) {
        while !done(&self.events.borrow()) {
            self.engine.poll();
        }
    }

    fn run(&self, disk: &Disk, op: Op, offset: u64, len: u64, data: SgList) -> IoResult<()> {
        let result = Rc::new(Cell::new(None));
        let slot = result.clone();
        disk.submit(
            Request {
                op,
                offset,
                len,
                data,
            },
            move |done| slot.set(Some(done)),
        );
        loop {
            if let Some(done) = result.take() {
                return done;
            }
            self.engine.poll();
        }
    }

    fn write(&self, disk: &Disk, offset: u64, bytes: Vec<u8>) -> IoResult<()> {
        let len = bytes.len() as u64;
        self.run(
            disk,
            Op::Write { fua: false },
            offset,
            len,
            SgList::from_vec(bytes),
        )
    }

    fn read(&self, disk: &Disk, offset: u64, len: usize) -> Vec<u8> {
        let data = SgList::zeroed(len);
        self.run(disk, Op::Read, offset, len as u64, data.clone())
            .unwrap();
        data.to_vec()
    }

    fn command(&self, cmd: Cmd) -> Result<Reply, CmdError> {
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        self.engine
            .execute(cmd, Box::new(move |reply| *slot.borrow_mut() = Some(reply)));
        loop {
            if let Some(reply) = result.borrow_mut().take() {
                return reply;
            }
            self.engine.poll();
        }
    }
}

#[test]
fn a_raw_disk_keeps_what_it_is_given() {
    let bench = Bench::new();
    let path = bench.path("disk.raw");
    std::fs::write(&path, [5; 4096]).unwrap();
    let disk = bench.open("virtio0", &path, Some(Format::Raw)).unwrap();
    bench.write(&disk, 512, vec![6; 1024]).unwrap();
    bench
        .run(
            &disk,
            Op::WriteZeroes { unmap: false },
            2048,
            512,
            SgList::empty(),
        )
        .unwrap();
    bench.run(&disk, Op::Flush, 0, 0, SgList::empty()).unwrap();
    let bytes = bench.read(&disk, 0, 4096);
    assert_eq!(
        (bytes[0], bytes[512], bytes[1536], bytes[2048]),
        (5, 6, 5, 0)
    );
    assert!(bench.engine.shut_down().is_empty());
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn requests_outside_the_disk_are_refused() {
    let bench = Bench::new();
    let path = bench.path("disk.raw");
    std::fs::write(&path, [5; 4096]).unwrap();
    let disk = bench.open("virtio0", &path, Some(Format::Raw)).unwrap();
    for (offset, len) in [
        (4096, 512),
        (3584, 1024),
        (u64::MAX - 511, 512),
        (100, 512),
        (0, 100),
    ] {
        let data = SgList::zeroed(usize::try_from(len).unwrap());
        let result = bench.run(&disk, Op::Read, offset, len, data);
        assert!(matches!(result, Err(IoError::OutOfRange)), "{offset}+{len}");
    }
}

#[test]
fn a_writable_disk_without_a_format_is_refused_with_what_it_looks_like() {
    let bench = Bench::new();
    let path = bench.path("disk.raw");
    std::fs::write(&path, [5; 4096]).unwrap();
    let error = bench
        .open("virtio0", &path, None)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("looks like raw") && error.contains("format=raw"),
        "{error}"
    );
    std::fs::write(&path, "").unwrap();
    let error = bench
        .open("virtio0", &path, Some(Format::Raw))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("is empty"), "{error}");
}

#[test]
fn unknown_disks_and_jobs_are_named_in_qemus_words() {
    let bench = Bench::new();
    let snapshot = Cmd::BlockdevSnapshotSync(BlockdevSnapshotSync {
        device: Some("nosuch".to_owned()),
        snapshot_file: "x".to_owned(),
        ..BlockdevSnapshotSync::default()
    });
    let error = bench.command(snapshot).unwrap_err().desc;
    assert_eq!(error, "Cannot find device='nosuch' nor node-name=''");
    let error = bench
        .command(Cmd::BlockJobPause(BlockJobRef {
            device: "nosuch".to_owned(),
        }))
        .unwrap_err()
        .desc;
    assert_eq!(error, "Block job 'nosuch' not found");
    assert!(bench.events.borrow().is_empty());
}
