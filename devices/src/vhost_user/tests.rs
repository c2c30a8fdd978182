//! A front end of our own that talks to an export.

mod machine;

use std::{
    cell::{Cell, RefCell},
    io::{ErrorKind, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use strata_block::{
    disk::{Disk, DiskInfo, Done, Op, Request, Submit},
    engine::{Listening, VhostUserExport},
};
use strata_exec::{Executor, Queue, yield_now};
use tempfile::TempDir;

use self::machine::Machine;
use super::Export;

const DISK_LEN: u64 = 1 << 20;

/// A disk in memory that takes its time for each request.
#[derive(Default)]
struct SlowDisk {
    bytes: RefCell<Vec<u8>>,
    /// Bytes that have been added to its size.
    more: Cell<u64>,
    exec: RefCell<Option<Rc<Executor>>>,
    /// Requests under way.
    under_way: Arc<AtomicU32>,
}

impl SlowDisk {
    fn carry_out(&self, request: &Request) {
        let mut bytes = self.bytes.borrow_mut();
        let range = request.offset as usize..(request.offset + request.len) as usize;
        match request.op {
            Op::Read => request.data.copy_from(0, &bytes[range]),
            Op::Write { .. } => bytes[range].copy_from_slice(&request.data.to_vec()),
            Op::WriteZeroes { .. } => bytes[range].fill(0),
            Op::Flush | Op::Discard => {}
        }
    }
}

/// The disk as the export holds it.
struct Slowly(Rc<SlowDisk>);

impl Submit for Slowly {
    fn submit(&self, request: Request, done: Done) {
        let disk = self.0.clone();
        let exec = disk.exec.borrow().clone().unwrap();
        disk.under_way.fetch_add(1, Ordering::SeqCst);
        exec.spawn(Queue::Guest, async move {
            let end = Instant::now() + Duration::from_millis(5);
            while Instant::now() < end {
                yield_now().await;
            }
            disk.carry_out(&request);
            disk.under_way.fetch_sub(1, Ordering::SeqCst);
            done(Ok(()));
        });
    }

    fn info(&self) -> Rc<DiskInfo> {
        Rc::new(DiskInfo {
            id: "virtio0".into(),
            size: DISK_LEN + self.0.more.get(),
            block_size: 512,
            physical_block_size: 512,
            read_only: false,
            discard: true,
            discard_granularity: 512,
            serial: "serial-number".into(),
        })
    }
}

struct Site {
    exec: Rc<Executor>,
    disk: Rc<SlowDisk>,
    export: Export,
    path: PathBuf,
    _dir: TempDir,
}

impl Site {
    fn new(writable: bool) -> Self {
        let exec = Executor::new().unwrap();
        let disk = Rc::new(SlowDisk::default());
        *disk.bytes.borrow_mut() = (0..DISK_LEN).map(|n| (n / 512) as u8).collect();
        *disk.exec.borrow_mut() = Some(exec.clone());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listening = Listening {
            socket: UnixListener::bind(&path).unwrap(),
            file: None,
        };
        let seen = Disk::new(Rc::new(Slowly(disk.clone())));
        let export = Export::start(&exec, listening, seen, 2, writable).unwrap();
        Self {
            exec,
            disk,
            export,
            path,
            _dir: dir,
        }
    }

    /// Lets a front end do its work on a thread of its own, and serves it meanwhile.
    fn serve<T: Send + 'static>(&self, work: impl FnOnce(PathBuf) -> T + Send + 'static) -> T {
        let path = self.path.clone();
        let thread = thread::spawn(move || work(path));
        self.exec.block_on(async move {
            while !thread.is_finished() {
                yield_now().await;
            }
            thread.join().unwrap()
        })
    }

    fn stop(self) -> Rc<SlowDisk> {
        let Self {
            exec, disk, export, ..
        } = self;
        exec.block_on(async move { export.stop().await });
        let under_way = disk.under_way.load(Ordering::SeqCst);
        assert_eq!(under_way, 0, "the end waits for every request");
        disk
    }
}

#[test]
fn reads_and_writes() {
    let site = Site::new(true);
    site.serve(|path| {
        let mut machine = Machine::start(&path);
        assert_eq!(machine.read(0, 3), vec![3; 512]);
        machine.write(1, 5, &[0x77; 512]);
        assert_eq!(machine.read(1, 5), vec![0x77; 512]);
        assert_eq!(machine.capacity(), DISK_LEN / 512);
    });
    let disk = site.stop();
    assert_eq!(disk.bytes.borrow()[5 * 512..6 * 512], [0x77; 512]);
}

#[test]
fn a_ring_is_stopped_only_when_it_has_drained() {
    let site = Site::new(true);
    let under_way = site.disk.under_way.clone();
    site.serve(move |path| {
        let mut machine = Machine::start(&path);
        for sector in 0..10 {
            machine.send_read(0, sector);
        }
        while under_way.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        let fetched = machine.stop_ring(0);
        assert!(fetched > 0);
        assert_eq!(
            u32::from(machine.used(0)),
            fetched,
            "what was fetched is answered"
        );
        // And it goes on where it stopped.
        machine.start_ring(0, fetched as u16);
        assert_eq!(machine.read(0, 9), vec![9; 512]);
    });
    site.stop();
}

#[test]
fn a_read_only_export_refuses_writes() {
    let site = Site::new(false);
    site.serve(|path| {
        let mut machine = Machine::start(&path);
        assert_eq!(machine.try_write(0, 5, &[1; 512]), 1, "VIRTIO_BLK_S_IOERR");
        assert_eq!(machine.read(0, 5), vec![5; 512]);
    });
    site.stop();
}

#[test]
fn a_front_end_that_goes_in_the_middle_leaves_the_export_to_the_next() {
    let site = Site::new(true);
    for _ in 0..3 {
        site.serve(|path| {
            let mut machine = Machine::start(&path);
            for sector in 0..20 {
                machine.send_read(0, sector);
            }
        });
    }
    site.serve(|path| {
        let mut machine = Machine::start(&path);
        assert_eq!(machine.read(1, 7), vec![7; 512]);
    });
    site.stop();
}

#[test]
fn garbage_ends_the_connection_only() {
    let site = Site::new(true);
    site.serve(|path| {
        for garbage in [
            &b"\xff"[..],
            &[0; 12],
            &[0xff; 4096],
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            let mut socket = UnixStream::connect(&path).unwrap();
            // It may be gone before all is written.
            let _ = socket.write_all(garbage);
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = socket.read_to_end(&mut answer);
        }
        let mut machine = Machine::start(&path);
        assert_eq!(machine.read(0, 7), vec![7; 512]);
    });
    site.stop();
}

#[test]
fn an_export_ends_under_a_connected_front_end() {
    let site = Site::new(true);
    let machine = site.serve(|path| {
        let mut machine = Machine::start(&path);
        for sector in 0..20 {
            machine.send_read(0, sector);
        }
        machine
    });
    assert!(site.export.in_use());
    site.stop();
    drop(machine);
}

#[test]
fn a_front_end_with_a_channel_is_told_of_another_size() {
    let site = Site::new(true);
    let mut machine = site.serve(|path| Machine::start(&path));
    let (mut channel, theirs) = UnixStream::pair().unwrap();
    let mut machine = site.serve(move |_| {
        machine.give_channel(&theirs);
        machine
    });
    site.export.resized();
    channel.set_nonblocking(true).unwrap();
    let nothing = channel.read(&mut [0]).unwrap_err();
    assert_eq!(
        nothing.kind(),
        ErrorKind::WouldBlock,
        "it has the same size"
    );

    site.disk.more.set(1 << 20);
    site.export.resized();
    let mut message = [0; 13];
    assert_eq!(channel.read(&mut message).unwrap(), 12);
    let word = |n: usize| u32::from_ne_bytes(message[n * 4..][..4].try_into().unwrap());
    assert_eq!(word(0), 2, "VHOST_USER_BACKEND_CONFIG_CHANGE_MSG");
    assert_eq!(word(1), 1, "version 1, no reply wanted");
    assert_eq!(word(2), 0, "no body");
    let mut machine = site.serve(move |_| {
        assert_eq!(machine.capacity(), (DISK_LEN + (1 << 20)) / 512);
        machine
    });

    // It may not have listened: once more when it starts a ring, and then no more.
    let mut machine = site.serve(move |_| {
        for _ in 0..2 {
            let base = machine.stop_ring(0);
            machine.start_ring(0, base as u16);
        }
        machine.capacity();
        machine
    });
    assert_eq!(channel.read(&mut [0; 25]).unwrap(), 12);

    // One that does not read its notifications holds nobody up.
    for more in 1..10_000 {
        site.disk.more.set(more * 512);
        site.export.resized();
    }
    site.serve(move |_| assert_eq!(machine.read(0, 3), vec![3; 512]));
    site.stop();
}

#[test]
fn the_next_front_end_sees_the_size_that_the_last_one_was_not_told() {
    let site = Site::new(true);
    let machine = site.serve(|path| Machine::start(&path));
    site.disk.more.set(512);
    site.export.resized();
    site.serve(move |path| {
        drop(machine);
        assert_eq!(Machine::start(&path).capacity(), DISK_LEN / 512 + 1);
    });
    site.stop();
}

#[test]
fn answers_come_after_the_last_word_too() {
    let site = Site::new(true);
    site.serve(|path| {
        let mut socket = UnixStream::connect(&path).unwrap();
        // GET_FEATURES, in two pieces.
        let message = [1u32, 1, 0].map(u32::to_ne_bytes);
        let (first, second) = message.as_flattened().split_at(5);
        socket.write_all(first).unwrap();
        socket.write_all(second).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.len(), 20);
    });
    site.stop();
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn connections_leave_no_descriptors_behind() {
    let site = Site::new(true);
    let connect = |path: PathBuf| {
        for _ in 0..200 {
            let mut socket = UnixStream::connect(&path).unwrap();
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let _ = socket.read_to_end(&mut Vec::new());
        }
    };
    let before = descriptors();
    site.serve(connect);
    let left = descriptors().saturating_sub(before);
    // Tests on other threads open some, too.
    assert!(left < 100, "{left} more than before");
    site.stop();
}

#[test]
fn a_front_end_that_takes_its_memory_away_loses_its_connection_only() {
    let site = Site::new(true);
    for _ in 0..3 {
        site.serve(|path| Machine::start(&path).take_memory_away());
        // In the middle of requests, too.
        site.serve(|path| {
            let mut machine = Machine::start(&path);
            for sector in 0..20 {
                machine.send_read(0, sector);
            }
            machine.take_memory_away();
        });
    }
    site.serve(|path| {
        let mut machine = Machine::start(&path);
        assert_eq!(machine.read(1, 7), vec![7; 512]);
    });
    site.stop();
}

#[test]
fn a_front_end_that_says_nothing_loses_its_place() {
    let site = Site::new(true);
    site.serve(|path| {
        let silent = UnixStream::connect(&path).unwrap();
        let mut halting = UnixStream::connect(&path).unwrap();
        halting.write_all(&[1, 0]).unwrap();
        let mut machine = Machine::start(&path);
        // One that owns the device may be silent.
        thread::sleep(Duration::from_millis(1500));
        assert_eq!(machine.read(0, 7), vec![7; 512]);
        drop((silent, halting));
    });
    site.stop();
}
