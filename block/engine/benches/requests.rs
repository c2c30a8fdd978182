//! What requests cost on the way from a device to a file, and what the parts of the way cost:
//! `cargo bench -p strata-block`. Divan also counts what is allocated.
#![allow(clippy::unwrap_used)] // A bench that cannot be set up ends.

use std::{
    cell::Cell,
    fs::File,
    future::Future,
    os::unix::fs::FileExt,
    path::Path,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use divan::{AllocProfiler, Bencher, black_box};
use strata_block::engine::{DiskSpec, Engine};
use strata_exec::{Executor, Queue, mem::SgList, yield_now};
use strata_format::{backing::Backing, qcow2::CreateOptions};
use strata_graph::{
    DiskOptions, Format, Node,
    chain::ImageOptions,
    create_image,
    disk::{Disk, Op, Request},
};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

/// Bytes of the disks. All of them are in the host's cache.
const SIZE: u64 = 64 << 20;
const CLUSTER: u64 = 64 << 10;
const LEN: usize = 4096;

fn main() {
    divan::main();
}

/// A disk, and who sends it requests one by one.
struct Rig {
    engine: Rc<Engine>,
    disk: Disk,
    data: SgList,
    next: Cell<u64>,
    directory: tempfile::TempDir,
}

impl Rig {
    /// On a qcow2 image, which lies on a raw one.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [top, base] = ["top.qcow2", "base.raw"].map(|name| directory.path().join(name));
        std::fs::write(&base, vec![1; usize::try_from(SIZE).unwrap()]).unwrap();
        let engine = Engine::new(|_| {}).unwrap();
        create(engine.exec(), &top, &base);
        let disk = engine.open_disk(DiskSpec {
            path: top,
            image: ImageOptions {
                format: Some(Format::Qcow2),
                ..ImageOptions::default()
            },
            disk: DiskOptions {
                id: "disk0".to_owned(),
                ..DiskOptions::default()
            },
        });
        Self {
            disk: disk.unwrap(),
            engine,
            data: SgList::from_vec(vec![2; LEN]),
            next: Cell::new(0),
            directory,
        }
    }

    /// The same, and the top layer holds all of the disk.
    fn written() -> Self {
        let rig = Self::new();
        for _ in 0..SIZE / CLUSTER {
            let offset = rig.next_offset();
            rig.run(Op::Write { fua: false }, offset);
        }
        rig.run(Op::Flush, 0);
        rig
    }

    /// In another cluster than the last time.
    fn next_offset(&self) -> u64 {
        let offset = self.next.get();
        self.next.set((offset + CLUSTER) % SIZE);
        offset
    }

    fn run(&self, op: Op, offset: u64) {
        let data = match op {
            Op::Read | Op::Write { .. } => self.data.clone(),
            _ => SgList::empty(),
        };
        let request = Request {
            op,
            offset,
            len: data.len() as u64,
            data,
        };
        let ended = Rc::new(Cell::new(false));
        let done = ended.clone();
        self.disk.submit(request, move |result| {
            result.unwrap();
            done.set(true);
        });
        while !ended.get() {
            self.engine.poll();
        }
    }

    fn top(&self) -> Rc<Node> {
        self.engine.find_disk("disk0").unwrap().root()
    }
}

fn create(exec: &Rc<Executor>, top: &Path, base: &Path) {
    let options = CreateOptions {
        size: SIZE,
        backing: Some(Backing {
            name: base.to_str().unwrap().into(),
            format: Some("raw".into()),
        }),
        ..CreateOptions::default()
    };
    let (make, top) = (exec.clone(), top.to_owned());
    exec.block_on(async move { create_image(&make, &top, options).await })
        .unwrap();
}

/// The result of a future that waits for nothing.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("it waits"),
    }
}

/// The system call alone, with its copy.
#[divan::bench]
fn read_of_the_host(bencher: Bencher<'_, '_>) {
    let rig = Rig::new();
    let file = File::open(rig.directory.path().join("base.raw")).unwrap();
    let mut bytes = vec![0; LEN];
    bencher.bench_local(|| file.read_exact_at(black_box(&mut bytes), rig.next_offset()));
}

/// Of the layer, without a device: what `strata-img bench` does.
#[divan::bench]
fn read_of_a_layer(bencher: Bencher<'_, '_>) {
    let rig = Rig::written();
    let top = rig.top();
    bencher.bench_local(|| at_once(top.read(rig.next_offset(), rig.data.clone())).unwrap());
}

/// As a device has it done.
#[divan::bench]
fn read(bencher: Bencher<'_, '_>) {
    let rig = Rig::written();
    bencher.bench_local(|| rig.run(Op::Read, rig.next_offset()));
}

#[divan::bench]
fn write_in_place(bencher: Bencher<'_, '_>) {
    let rig = Rig::written();
    bencher.bench_local(|| rig.run(Op::Write { fua: false }, rig.next_offset()));
}

/// Into clusters that the top layer does not hold yet: the rest of each comes from below.
#[divan::bench(sample_count = 10, sample_size = 100)]
fn write_that_copies(bencher: Bencher<'_, '_>) {
    let rig = Rig::new();
    bencher.bench_local(|| rig.run(Op::Write { fua: false }, rig.next_offset()));
}

/// Which layer holds a range.
#[divan::bench]
fn look_up(bencher: Bencher<'_, '_>) {
    let rig = Rig::written();
    let walk = rig.top().walk();
    bencher.bench_local(|| {
        at_once(walk.find(rig.next_offset(), LEN as u64))
            .unwrap()
            .len
    });
}

/// A task that waits once.
#[divan::bench]
fn turn_of_the_executor(bencher: Bencher<'_, '_>) {
    let exec = Executor::new().unwrap();
    bencher.bench_local(|| {
        exec.spawn(Queue::Guest, yield_now());
        while exec.poll().more_work_now {}
    });
}
