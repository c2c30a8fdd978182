//! A disk on simulated files, its guests and its operator, and the model that knows better.

mod bitmaps;
mod commit;
mod offline;
mod run;
mod snapshots;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    path::{Path, PathBuf},
    rc::Rc,
};

use bitmaps::Tracked;
use snapshots::Kept;

use strata_block::{
    api::{Event, JobStatus},
    engine::{DiskSpec, Engine},
};
use strata_exec::{Executor, mem::SgList};
use strata_graph::{
    DiskOptions, Format, GuestDisk, Node,
    chain::{ImageOptions, Opener},
    create_image_in,
    disk::Disk,
};
use strata_storage::{Files, SimDirectory};

use super::{
    guest::Allowed,
    model::{Kind, Model, pattern},
    operator::{DISK, LiveSnapshots, OldTop, Operator},
    oracle::{self, Chain, Contents},
    plan::{Layer, Open, Plan, Random},
};

/// Where the simulated files are; nothing is there on the host.
const DIRECTORY: &str = "/simulated";

pub struct World {
    files: Contents,
    /// The layers, as they are when nothing runs.
    chain: Chain,
    /// Internal snapshots that were made while guests were at work, until they are looked at.
    live: LiveSnapshots,
    /// The internal snapshots of images.
    snapshots: BTreeMap<PathBuf, Vec<Kept>>,
    /// The dirty bitmaps of images.
    bitmaps: BTreeMap<PathBuf, Tracked>,
    /// Images below which a commit has written since their bitmaps were looked at.
    changed_below: Rc<RefCell<Vec<PathBuf>>>,
    /// The top that the disk had before it was committed.
    old_top: OldTop,
    /// There has been no room in this run: bitmaps may not have been stored.
    short_of_room: bool,
    /// Nobody has closed a layer since the world was started.
    only_guests: bool,
    /// Leaked clusters that the last crash has left.
    leaks: BTreeMap<PathBuf, u64>,
    model: Rc<RefCell<Model>>,
    random: Random,
    open: Open,
    spots: Rc<Vec<u64>>,
    longest: u64,
    next_layer: Rc<Cell<usize>>,
    with_qemu: bool,
    running: Option<Running>,
}

/// What ends with a crash.
struct Running {
    exec: Rc<Executor>,
    directory: Rc<SimDirectory>,
    engine: Rc<Engine>,
    disk: Disk,
    operator: Rc<Operator>,
    allowed: Rc<Cell<Allowed>>,
    marks: Rc<Cell<u64>>,
    /// The state that the job has come to.
    last_status: Rc<Cell<Option<JobStatus>>>,
}

impl World {
    /// A chain whose layers all hold something. With `with_qemu` its tools look at every crash.
    pub fn new(seed: u64, with_qemu: bool) -> Self {
        let mut random = Random(seed);
        let plan = Plan::new(Path::new(DIRECTORY), &mut random, with_qemu);
        let size = plan.layers.last().unwrap().size;
        let spots = (0..4).map(|_| random.below(size)).collect();
        let mut world = Self {
            files: Contents::new(),
            chain: Chain(Vec::new()),
            live: Rc::default(),
            snapshots: BTreeMap::new(),
            bitmaps: BTreeMap::new(),
            changed_below: Rc::default(),
            old_top: OldTop::default(),
            short_of_room: false,
            only_guests: false,
            leaks: BTreeMap::new(),
            model: Rc::new(RefCell::new(Model::new(0))),
            open: plan.open,
            spots: Rc::new(spots),
            longest: if plan.cluster_size > 32 << 10 { 9 } else { 7 },
            next_layer: Rc::new(Cell::new(plan.layers.len())),
            with_qemu,
            running: None,
            random,
        };
        let layers = plan.layers.len();
        for (number, layer) in plan.layers.into_iter().enumerate() {
            world.add_layer(layer, number + 1 == layers);
        }
        world
    }

    /// Puts a new layer on top, and gives it some data of its own unless it is the last.
    fn add_layer(&mut self, layer: Layer, last: bool) {
        self.model.borrow_mut().resized(layer.size);
        let exec = Executor::new().unwrap();
        let directory = SimDirectory::new(std::mem::take(&mut self.files), self.random.next());
        let (files, path) = (Files::Sim(directory.clone()), layer.path.clone());
        let inner = exec.clone();
        exec.block_on(async move {
            match layer.image {
                Some(image) => create_image_in(&files, &inner, &layer.path, image)
                    .await
                    .unwrap(),
                None => {
                    let file = files.create(&inner, &layer.path).unwrap();
                    file.set_len(layer.size).await.unwrap();
                    file.flush().await.unwrap();
                    files.sync_name(&inner, &layer.path).await.unwrap();
                }
            }
        });
        self.files = directory.durable();
        self.chain.0.insert(0, (path, layer.format));
        if last {
            return;
        }
        self.start();
        self.spawn_guests(6);
        self.settle();
        let has_data_file = self.root().image().data_storage().path() != self.root().path();
        if layer.format == Format::Qcow2 && !has_data_file && self.random.one_in(2) {
            self.write_compressed();
        }
        self.stop();
    }

    /// Gives the top some compressed clusters.
    fn write_compressed(&mut self) {
        let top = self.root();
        let cluster = top.cluster_size();
        for _ in 0..self.random.below(6) {
            let offset = self.random.below(top.size()) / cluster * cluster;
            let len = cluster.min(top.size() - offset);
            let sent = self.model.borrow_mut().send(Kind::Filled, offset, len);
            let (node, data) = (top.clone(), SgList::from_vec(pattern(sent.number, len)));
            self.running().exec.block_on(async move {
                let image = node.image().as_qcow2().unwrap();
                match image.pack(&data).await {
                    Some(packed) => image.write_packed(offset, packed).await.unwrap(),
                    None => node.write(offset, data).await.unwrap(),
                }
            });
            self.model.borrow_mut().complete(sent);
        }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    fn guest_disk(&self) -> Rc<GuestDisk> {
        self.running().engine.find_disk(DISK).unwrap()
    }

    fn root(&self) -> Rc<Node> {
        self.guest_disk().root()
    }

    /// The layers, if the disk is opened as before.
    fn chain_to_open(&self) -> Chain {
        let mut chain = Chain::of(&self.root());
        if let Some(top) = self.old_top.of(&self.guest_disk()) {
            chain.0.insert(0, top);
        }
        chain
    }

    fn start(&mut self) {
        let exec = Executor::seeded(self.random.next()).unwrap();
        let directory = SimDirectory::new(self.files.clone(), self.random.next());
        let opener = Opener::among(
            Files::Sim(directory.clone()),
            self.open.cache_bytes,
            exec.clone(),
        );
        let allowed = Rc::new(Cell::new(Allowed::Nothing));
        let marks = Rc::new(Cell::new(0));
        let (may_fail, count) = (allowed.clone(), marks.clone());
        let last_status = Rc::new(Cell::new(None));
        let reached = last_status.clone();
        let engine = Engine::with_opener(exec.clone(), opener, move |event| match event {
            Event::JobStatusChange { status, .. } => {
                reached.set(Some(status));
                count.set(count.get() + u64::from(status == JobStatus::Waiting));
            }
            Event::JobCompleted(_, Some(error)) if may_fail.get() == Allowed::Nothing => {
                panic!("a job failed: {error}")
            }
            _ => {}
        });
        let (path, format) = self.chain.top().clone();
        let image = ImageOptions {
            format: Some(format),
            discard: self.open.discard,
            ..ImageOptions::default()
        };
        let disk = DiskOptions {
            id: DISK.to_owned(),
            discard: self.open.discard,
            detect_zeroes: self.open.detect_zeroes,
            ..DiskOptions::default()
        };
        let disk = engine.open_disk(DiskSpec { path, image, disk }).unwrap();
        let operator = Rc::new(Operator {
            engine: engine.clone(),
            random: RefCell::new(Random(self.random.next())),
            directory: PathBuf::from(DIRECTORY),
            simulated: Some(directory.clone()),
            next_layer: self.next_layer.clone(),
            allowed: allowed.clone(),
            marks: marks.clone(),
            model: self.model.clone(),
            writes_journal: false,
            changed_below: self.changed_below.clone(),
            old_top: self.old_top.clone(),
            live: self.live.clone(),
            stop: Rc::default(),
        });
        self.running = Some(Running {
            exec,
            directory,
            engine,
            disk,
            operator,
            allowed,
            marks,
            last_status,
        });
    }

    /// An orderly end: everything is durable, and nothing leaks that did not before.
    pub fn stop(&mut self) {
        self.chain = self.chain_to_open();
        let running = self.running.take().unwrap();
        let errors = running.engine.shut_down();
        assert!(errors.is_empty(), "{errors:?}");
        self.files = running.directory.durable();
        running.exec.drop_tasks();
        let now = self.model.borrow_mut().now();
        self.model.borrow_mut().flushed(now);
        self.check_at_rest();
    }

    /// What an orderly end leaves.
    fn check_at_rest(&mut self) {
        for (path, leaks) in oracle::check(&self.files, &self.chain) {
            let before = self.leaks.get(&path).copied().unwrap_or(0);
            assert!(
                leaks <= before,
                "{}: {leaks} leaks, {before} before",
                path.display()
            );
        }
        self.check_snapshots();
        self.check_bitmaps(false);
    }

    /// Ends in one way or the other.
    pub fn stop_or_crash(&mut self) {
        if self.random.one_in(2) {
            return self.crash();
        }
        self.settle();
        self.stop();
    }

    /// Cuts the power and opens what is left.
    pub fn crash(&mut self) {
        self.chain = self.chain_to_open();
        let running = self.running.take().unwrap();
        let left = running.directory.after_crash(self.random.next());
        if std::mem::take(&mut self.only_guests) {
            oracle::check_mark(&self.files, &left, self.chain.top());
        }
        self.files = left;
        running.exec.drop_tasks();
        drop(running);
        self.examine();
    }

    /// Opens what a crash has left.
    fn examine(&mut self) {
        self.model.borrow_mut().crashed();
        self.leaks = oracle::check(&self.files, &self.chain);
        self.check_snapshots();
        self.start();
        self.model.borrow_mut().found_size(self.root().size());
        let found = self.verify();
        if self.with_qemu {
            oracle::check_with_qemu(&self.files, &self.chain, &found);
        }
        self.model.borrow_mut().found(&found);
        self.check_bitmaps(true);
        self.stop();
    }

    /// Compares every sector with the model, and returns them.
    pub fn verify(&self) -> Vec<u8> {
        let root = self.root();
        let before = self.model.borrow_mut().before_read(0, root.size());
        let found = self.running().exec.block_on(read_all(root));
        self.model.borrow().check(&before, &found);
        found
    }
}

/// All that a layer shows.
async fn read_all(node: Rc<Node>) -> Vec<u8> {
    let data = SgList::zeroed(usize::try_from(node.size()).unwrap());
    node.read(0, data.clone()).await.unwrap();
    data.to_vec()
}
