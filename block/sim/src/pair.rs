//! Two disks on simulated files, of which some things are done to both or to none: snapshots at one
//! moment, and merges that finish as one.

use std::{
    cell::{Cell, RefCell},
    path::{Path, PathBuf},
    rc::Rc,
};

use strata_block::{
    api::{
        BlockCommit, BlockJobInfo, BlockStream, BlockdevSnapshotSync, Cmd, CmdError,
        CompletionMode, JobRef, JobStatus, Reply, Transaction, TransactionAction,
        TransactionProperties,
    },
    engine::{DiskSpec, Engine},
};
use strata_exec::{Executor, Queue, mem::SgList, sync::promise, yield_now};
use strata_format::{qcow2, qed};
use strata_graph::{
    DiskOptions, Format, NewImage, Node,
    chain::{ImageOptions, Opener},
    create_image_in,
    disk::{Disk, Op, Request},
};
use strata_storage::{Faults, Files, SimDirectory};

use super::{
    guest::{Allowed, Guest, Load, Watch},
    model::{Model, SECTOR, pattern},
    oracle::{self, Chain, Contents},
    plan::Random,
};

const DIRECTORY: &str = "/simulated";
/// Where jobs are recorded.
const STATE: &str = "/simulated/state";
const DISKS: [&str; 2] = ["one", "two"];
/// Bytes that a job does before it notes that they are done.
const STRIDE: u64 = 16 << 10;
/// Bytes of tables in memory.
const CACHE: usize = 64 << 10;

pub struct Pair {
    files: Contents,
    sides: [Side; 2],
    random: Random,
    /// Number of the next layer.
    next_layer: Rc<Cell<usize>>,
    /// The last number that [`Pair::snapshot_under_load`] has written.
    last: u64,
    running: Option<Running>,
}

/// A disk when nothing runs, and what is known of it.
struct Side {
    chain: Chain,
    model: Rc<RefCell<Model>>,
    spots: Rc<Vec<u64>>,
}

/// What ends with a crash.
struct Running {
    exec: Rc<Executor>,
    directory: Rc<SimDirectory>,
    engine: Rc<Engine>,
    disks: [Disk; 2],
    allowed: Rc<Cell<Allowed>>,
}

impl Pair {
    /// Two disks of one layer each.
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let exec = Executor::new().unwrap();
        let directory = SimDirectory::new(Contents::new(), random.next());
        let sides = DISKS.map(|id| {
            let cluster_size = 4096 << random.below(5);
            let size = (128 << 10) + random.below(512) * SECTOR;
            let path = Path::new(DIRECTORY).join(id);
            let (files, inner) = (Files::Sim(directory.clone()), exec.clone());
            let format = random.pick(&[Format::Qcow2, Format::Qcow2, Format::Qed]);
            let image = match format {
                Format::Qed => NewImage::Qed(qed::CreateOptions {
                    size,
                    cluster_size,
                    ..qed::CreateOptions::default()
                }),
                _ => NewImage::Qcow2(qcow2::CreateOptions {
                    size,
                    cluster_size,
                    ..qcow2::CreateOptions::default()
                }),
            };
            let made = path.clone();
            exec.block_on(async move {
                let made = create_image_in(&files, &inner, &made, image).await;
                made.unwrap();
            });
            Side {
                chain: Chain(vec![(path, format)]),
                model: Rc::new(RefCell::new(Model::new(size))),
                spots: Rc::new((0..4).map(|_| random.below(size)).collect()),
            }
        });
        Self {
            files: directory.durable(),
            sides,
            random,
            next_layer: Rc::default(),
            last: 0,
            running: None,
        }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    fn start(&mut self) {
        let exec = Executor::seeded(self.random.next()).unwrap();
        let directory = SimDirectory::new(self.files.clone(), self.random.next());
        let files = Files::Sim(directory.clone());
        let opener = Opener::among(files, CACHE, exec.clone());
        let engine = Engine::with_opener(exec.clone(), opener, drop);
        let disks = [0, 1].map(|side| {
            let (path, format) = self.sides[side].chain.top().clone();
            let image = ImageOptions {
                format: Some(format),
                discard: true,
                ..ImageOptions::default()
            };
            let disk = DiskOptions {
                id: DISKS[side].to_owned(),
                discard: true,
                ..DiskOptions::default()
            };
            engine.open_disk(DiskSpec { path, image, disk }).unwrap()
        });
        self.running = Some(Running {
            exec,
            directory,
            engine,
            disks,
            allowed: Rc::new(Cell::new(Allowed::Nothing)),
        });
    }

    /// The same, with jobs that are recorded, and go on if they were.
    fn start_recorded(&mut self) {
        self.start();
        let resume = self.random.one_in(2);
        let kept = self
            .running()
            .engine
            .keep_jobs_by_the_way(Path::new(STATE), resume, STRIDE);
        assert_eq!(kept.unwrap(), [""; 0]);
    }

    fn roots(&self) -> [Rc<Node>; 2] {
        let engine = &self.running().engine;
        DISKS.map(|id| engine.find_disk(id).unwrap().root())
    }

    fn depths(&self) -> [usize; 2] {
        self.roots().map(|root| root.chain().count())
    }

    /// Lets all guests come to their end, and everything after that.
    fn settle(&self) {
        while self.running().exec.task_count() > 0 {
            self.running().exec.poll();
        }
    }

    fn note_chains(&mut self) {
        let roots = self.roots();
        for (side, root) in self.sides.iter_mut().zip(roots) {
            side.chain = Chain::of(&root);
        }
    }

    fn stop(&mut self) {
        self.note_chains();
        let running = self.running.take().unwrap();
        let errors = running.engine.shut_down();
        assert!(errors.is_empty(), "{errors:?}");
        self.files = running.directory.durable();
        running.exec.drop_tasks();
        for side in &self.sides {
            let now = side.model.borrow_mut().now();
            side.model.borrow_mut().flushed(now);
            oracle::check(&self.files, &side.chain);
        }
    }

    /// Cuts the power, and looks at the images that are left.
    fn crash(&mut self) {
        self.note_chains();
        let running = self.running.take().unwrap();
        self.files = running.directory.after_crash(self.random.next());
        running.exec.drop_tasks();
        drop(running);
        for side in &self.sides {
            side.model.borrow_mut().crashed();
            oracle::check(&self.files, &side.chain);
        }
    }

    /// Compares both disks with their models.
    fn verify(&self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for (side, root) in self.sides.iter().zip(self.roots()) {
            let before = side.model.borrow_mut().before_read(0, root.size());
            let found = self
                .running()
                .exec
                .block_on(read(root.clone(), 0, root.size()));
            side.model.borrow().check(&before, &found);
            all.push(found);
        }
        all
    }

    fn spawn_guests(&mut self, requests: u64) {
        let running = self.running.as_ref().unwrap();
        for (side, disk) in self.sides.iter().zip(&running.disks) {
            let load = Rc::new(Load {
                disk: disk.clone(),
                watch: Watch::Nobody,
                model: side.model.clone(),
                allowed: running.allowed.clone(),
                marks: Rc::default(),
                spots: side.spots.clone(),
                longest: 6,
                left: Cell::new(requests),
            });
            for _ in 0..1 + self.random.below(3) {
                let guest = Guest {
                    load: load.clone(),
                    random: Cell::new(self.random.next()),
                };
                Rc::new(guest).next();
            }
        }
    }

    /// So many steps, or until there is nothing to do; after each of them `look`.
    fn step(&mut self, polls: u64, look: impl Fn(&Self)) {
        for _ in 0..polls {
            let job = self.random.one_in(3);
            let queue = if job { Queue::Job } else { Queue::Guest };
            if !self.running().exec.step(queue) {
                return;
            }
            look(self);
        }
    }

    /// Snapshots of both disks while one writer writes a number to the first, and then to the
    /// second, again and again; and a power cut. In what lies below the overlays the second never
    /// has a number that the first has not.
    pub fn snapshot_under_load(&mut self) {
        self.start();
        let written = Rc::new(Written::new(self.last));
        let (disks, first) = (self.running().disks.clone(), written.clone());
        self.running()
            .exec
            .block_on(async move { first.write_both(&disks, true).await });
        let (disks, writer) = (self.running().disks.clone(), written.clone());
        let mut random = Random(self.random.next());
        self.running().exec.spawn(Queue::Guest, async move {
            for _ in 0..40 {
                writer.write_both(&disks, random.one_in(3)).await;
            }
        });
        let (engine, names) = (self.running().engine.clone(), self.next_layer.clone());
        let mut random = Random(self.random.next());
        self.running().exec.spawn(Queue::Guest, async move {
            for _ in 0..random.below(4) {
                for _ in 0..random.below(60) {
                    yield_now().await;
                }
                snapshot_both(&engine, &names).await.unwrap();
                let frozen = DISKS.map(|id| engine.find_disk(id).unwrap().root());
                check_order(frozen.map(|root| root.backing().unwrap())).await;
            }
        });
        let polls = self.random.below(4000);
        self.step(polls, |pair| {
            let [one, two] = pair.depths();
            assert_eq!(one, two, "one disk has an overlay that the other has not");
        });
        self.crash();
        self.start();
        let [one, two] = self.depths();
        assert_eq!(one, two);
        let roots = self.roots();
        let (flushed, last) = (written.flushed.get(), written.last.get());
        for root in roots.clone() {
            let found = self.running().exec.block_on(number_in(root));
            assert!(
                (flushed..=last).contains(&found),
                "{found}: {flushed}..{last}"
            );
        }
        let [one, two] = roots.map(|root| root.chain().skip(1).collect::<Vec<_>>());
        for below in one.into_iter().zip(two) {
            self.running().exec.block_on(check_order(below.into()));
        }
        self.last = last;
        self.stop();
    }

    /// Two more layers on both disks, with something in each.
    pub fn grow(&mut self) {
        self.start();
        for _ in 0..2 {
            self.spawn_guests(8);
            self.settle();
            let (engine, names) = (self.running().engine.clone(), self.next_layer.clone());
            self.running()
                .exec
                .block_on(async move { snapshot_both(&engine, &names).await.unwrap() });
        }
        self.spawn_guests(8);
        self.settle();
        self.verify();
        self.stop();
    }

    /// Merges layers of both disks as one while guests are at work, and cuts the power. What is
    /// left is gone on with, and then both are merged or none is. With `trouble` files fail
    /// meanwhile: then no more is said than that nothing is lost.
    pub fn merge_as_one(&mut self, trouble: bool) {
        self.start_recorded();
        let before = self.depths();
        self.spawn_guests(30);
        let actions = DISKS.map(|id| self.merge_of(id)).to_vec();
        let engine = self.running().engine.clone();
        if trouble {
            self.running().allowed.set(Allowed::Anything);
            let faults = self.random.faults();
            for file in self.running().directory.files() {
                file.set_faults(faults);
            }
            if self.random.one_in(2) {
                self.running().directory.set_full(true);
            }
        }
        self.running().exec.spawn(Queue::Guest, async move {
            // With trouble it may be refused.
            let started = together(&engine, actions).await;
            assert!(trouble || started.is_ok(), "{started:?}");
        });
        let polls = self.random.below(6000);
        self.step(polls, |_| ());
        for file in self.running().directory.files() {
            file.set_faults(Faults::default());
        }
        self.crash();
        self.start_recorded();
        let found = self.verify();
        for (side, found) in self.sides.iter().zip(&found) {
            side.model.borrow_mut().found(found);
        }
        self.spawn_guests(10);
        self.finish_jobs();
        self.settle();
        self.verify();
        let after = self.depths();
        let shorter = [0, 1].map(|side| after[side] < before[side]);
        assert!(
            trouble || shorter[0] == shorter[1],
            "one disk has been merged: {before:?}, {after:?}"
        );
        self.stop();
    }

    /// A merge of a disk's layers, of whichever kind.
    fn merge_of(&mut self, id: &str) -> TransactionAction {
        let root = self.running().engine.find_disk(id).unwrap().root();
        let layers: Vec<_> = root.chain().collect();
        let last = layers.last().unwrap().name().to_owned();
        let kind = self.random.below(3);
        if kind == 0 {
            return TransactionAction::BlockCommit(Box::new(BlockCommit {
                device: id.to_owned(),
                top_node: Some(layers[1].name().to_owned()),
                base_node: Some(last),
                ..BlockCommit::default()
            }));
        }
        TransactionAction::BlockStream(BlockStream {
            device: id.to_owned(),
            base_node: (kind == 1).then_some(last),
            ..BlockStream::default()
        })
    }

    /// Lets jobs that an earlier process has left come to their end. One that waits for another
    /// which nobody has started is cancelled.
    fn finish_jobs(&self) {
        let engine = self.running().engine.clone();
        self.running().exec.block_on(async move {
            for _ in 0..20_000 {
                let jobs = jobs(&engine).await;
                if jobs.is_empty() {
                    return;
                }
                let alone = jobs.len() == 1;
                for job in jobs {
                    let id = job.device.clone();
                    let cmd = if job.paused {
                        Cmd::JobResume(JobRef { id })
                    } else if alone && job.status == JobStatus::Waiting {
                        Cmd::JobCancel(JobRef { id })
                    } else {
                        continue;
                    };
                    // It may have come further meanwhile.
                    let _ = execute(&engine, cmd).await;
                }
                yield_now().await;
            }
            panic!("jobs do not end: {:?}", jobs(&engine).await);
        });
    }
}

/// Numbers that are written to both disks, one after the other.
struct Written {
    /// The last that a write was sent of.
    last: Cell<u64>,
    /// The last that is durable on both.
    flushed: Cell<u64>,
}

impl Written {
    fn new(last: u64) -> Self {
        Self {
            last: Cell::new(last),
            flushed: Cell::new(0),
        }
    }

    async fn write_both(&self, disks: &[Disk; 2], flush: bool) {
        let number = self.last.get() + 1;
        self.last.set(number);
        for disk in disks {
            let data = SgList::from_vec(pattern(number, SECTOR));
            submit(disk, Op::Write { fua: false }, data).await;
        }
        if flush {
            for disk in disks {
                submit(disk, Op::Flush, SgList::empty()).await;
            }
            self.flushed.set(number);
        }
    }
}

async fn submit(disk: &Disk, op: Op, data: SgList) {
    let (done, ended) = promise();
    let len = data.len() as u64;
    let request = Request {
        op,
        offset: 0,
        len,
        data,
    };
    disk.submit(request, done);
    ended.await.unwrap();
}

async fn read(node: Rc<Node>, offset: u64, len: u64) -> Vec<u8> {
    let data = SgList::zeroed(usize::try_from(len).unwrap());
    node.read(offset, data.clone()).await.unwrap();
    data.to_vec()
}

/// The number that a layer shows.
async fn number_in(node: Rc<Node>) -> u64 {
    let sector = read(node, 0, SECTOR).await;
    u64::from_le_bytes(sector[..8].try_into().unwrap())
}

/// What was frozen at one moment.
async fn check_order([one, two]: [Rc<Node>; 2]) {
    let (one, two) = (number_in(one).await, number_in(two).await);
    let at_one_moment = one == two || one == two + 1;
    assert!(at_one_moment, "frozen with {one} and {two}");
}

async fn execute(engine: &Rc<Engine>, cmd: Cmd) -> Result<Reply, CmdError> {
    let (done, ended) = promise();
    engine.execute(cmd, Box::new(done));
    ended.await
}

async fn jobs(engine: &Rc<Engine>) -> Vec<BlockJobInfo> {
    match execute(engine, Cmd::QueryBlockJobs).await {
        Ok(Reply::BlockJobs(jobs)) => jobs,
        other => panic!("{other:?}"),
    }
}

async fn together(engine: &Rc<Engine>, actions: Vec<TransactionAction>) -> Result<Reply, CmdError> {
    let completion_mode = Some(CompletionMode::Grouped);
    let properties = Some(TransactionProperties { completion_mode });
    let transaction = Transaction {
        actions,
        properties,
    };
    execute(engine, Cmd::Transaction(transaction)).await
}

async fn snapshot_both(engine: &Rc<Engine>, next: &Cell<usize>) -> Result<Reply, CmdError> {
    let actions = DISKS.map(|id| {
        let number = next.replace(next.get() + 1);
        let file: PathBuf = Path::new(DIRECTORY).join(number.to_string());
        TransactionAction::BlockdevSnapshotSync(BlockdevSnapshotSync {
            device: Some(id.to_owned()),
            snapshot_file: file.display().to_string(),
            ..BlockdevSnapshotSync::default()
        })
    });
    together(engine, actions.to_vec()).await
}
