//! A disk on simulated files, its guests and its operator, and the model that knows better.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    path::{Path, PathBuf},
    rc::Rc,
};

use super::{
    guest::{Allowed, Guest, Load, Watch},
    model::{Kind, Model, SECTOR, pattern},
    operator::{DISK, Operator},
    oracle::{self, Chain, Contents},
    plan::{Layer, Open, Plan, Random},
};
use crate::{
    api::{Event, JobStatus},
    disk::Disk,
    engine::{DiskSpec, Engine, create_image_in},
    error::IoError,
    exec::{Executor, Queue},
    graph::{
        DiskOptions, Format, GuestDisk, Node,
        chain::{ImageOptions, Opener},
    },
    mem::SgList,
    storage::{Faults, Files, SimFile, SimFolder},
};

/// Where the simulated files are; nothing is there on the host.
const FOLDER: &str = "/simulated";

/// Requests that guests send in one run.
const REQUESTS: u64 = 40;

pub struct World {
    files: Contents,
    /// The layers, as they are when nothing runs.
    chain: Chain,
    /// Leaked clusters that the last crash has left.
    leaks: BTreeMap<PathBuf, u64>,
    model: Rc<RefCell<Model>>,
    random: Random,
    open: Open,
    size: u64,
    spots: Rc<Vec<u64>>,
    longest: u64,
    next_layer: Rc<Cell<usize>>,
    with_qemu: bool,
    running: Option<Running>,
}

/// What ends with a crash.
struct Running {
    exec: Rc<Executor>,
    folder: Rc<SimFolder>,
    engine: Rc<Engine>,
    disk: Disk,
    operator: Rc<Operator>,
    allowed: Rc<Cell<Allowed>>,
    marks: Rc<Cell<u64>>,
}

impl World {
    /// A chain whose layers all hold something. With `with_qemu` its tools look at every crash.
    pub fn new(seed: u64, with_qemu: bool) -> Self {
        let mut random = Random(seed);
        let plan = Plan::new(Path::new(FOLDER), &mut random, with_qemu);
        let size = plan.layers.last().unwrap().size;
        let largest = plan.layers.iter().map(|layer| layer.size).max().unwrap();
        let spots = (0..4).map(|_| random.below(size)).collect();
        let mut world = Self {
            files: Contents::new(),
            chain: Chain(Vec::new()),
            leaks: BTreeMap::new(),
            model: Rc::new(RefCell::new(Model::new(largest))),
            open: plan.open,
            size,
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
        self.model.borrow_mut().cut(layer.size);
        self.size = layer.size;
        let exec = Executor::new().unwrap();
        let folder = SimFolder::new(std::mem::take(&mut self.files), self.random.next());
        let (files, path) = (Files::Sim(folder.clone()), layer.path.clone());
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
        self.files = folder.durable();
        self.chain.0.insert(0, (path, layer.format));
        if last {
            return;
        }
        self.start();
        self.spawn_guests(6);
        self.settle();
        if layer.format == Format::Qcow2 && self.random.one_in(2) {
            self.write_compressed();
        }
        self.stop();
    }

    /// Gives the top some compressed clusters.
    fn write_compressed(&mut self) {
        let top = self.root();
        let cluster = top.cluster_size();
        for _ in 0..self.random.below(6) {
            let offset = self.random.below(self.size) / cluster * cluster;
            let len = cluster.min(self.size - offset);
            let sent = self.model.borrow_mut().send(Kind::Filled, offset, len);
            let (node, data) = (top.clone(), SgList::from_vec(pattern(sent.number, len)));
            self.running().exec.block_on(async move {
                let image = node.as_qcow2().unwrap();
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

    fn start(&mut self) {
        let exec = Executor::seeded(self.random.next()).unwrap();
        let folder = SimFolder::new(self.files.clone(), self.random.next());
        let opener = Opener::among(
            Files::Sim(folder.clone()),
            self.open.cache_bytes,
            exec.clone(),
        );
        let allowed = Rc::new(Cell::new(Allowed::Nothing));
        let marks = Rc::new(Cell::new(0));
        let (may_fail, count) = (allowed.clone(), marks.clone());
        let engine = Engine::with_opener(exec.clone(), opener, move |event| match event {
            Event::JobStatusChange {
                status: JobStatus::Waiting,
                ..
            } => count.set(count.get() + 1),
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
            folder: PathBuf::from(FOLDER),
            next_layer: self.next_layer.clone(),
            allowed: allowed.clone(),
            marks: marks.clone(),
            stop: Rc::default(),
        });
        self.running = Some(Running {
            exec,
            folder,
            engine,
            disk,
            operator,
            allowed,
            marks,
        });
    }

    /// An orderly end: everything is durable, and nothing leaks that did not before.
    pub fn stop(&mut self) {
        self.chain = Chain::of(&self.root());
        let running = self.running.take().unwrap();
        let errors = running.engine.shut_down();
        assert!(errors.is_empty(), "{errors:?}");
        self.files = running.folder.durable();
        running.exec.drop_tasks();
        let now = self.model.borrow_mut().now();
        self.model.borrow_mut().flushed(now);
        for (path, leaks) in oracle::check(&self.files, &self.chain) {
            let before = self.leaks.get(&path).copied().unwrap_or(0);
            assert!(
                leaks <= before,
                "{}: {leaks} leaks, {before} before",
                path.display()
            );
        }
    }

    /// Lets guests work, and an operator too, and stops at a random moment: often at one that matters, shortly
    /// after a flush, a snapshot or the end of a merge has begun.
    pub fn run(&mut self, operator: bool) {
        self.start();
        self.spawn_work(operator);
        self.run_for_a_while();
    }

    fn spawn_work(&mut self, operator: bool) {
        self.spawn_guests(REQUESTS);
        if operator {
            let operator = self.running().operator.clone();
            let work = async move { operator.work().await };
            self.running().exec.spawn(Queue::Guest, work);
        }
    }

    fn run_for_a_while(&mut self) {
        let mut polls = self.random.below(3000);
        let mark = self.random.one_in(2).then(|| 1 + self.random.below(8));
        let after = self.random.below(90);
        if mark.is_some() {
            polls = 20_000;
        }
        let running = self.running.as_ref().unwrap();
        let mut reached = false;
        while polls > 0 {
            polls -= 1;
            if !reached && mark.is_some_and(|mark| running.marks.get() >= mark) {
                reached = true;
                polls = after;
            }
            let job = self.random.one_in(4);
            if !running
                .exec
                .step(if job { Queue::Job } else { Queue::Guest })
            {
                break;
            }
        }
    }

    /// Lets all come to an end, a merge too, then merges once more.
    pub fn run_to_the_end(&mut self) {
        self.start();
        self.spawn_work(true);
        self.run_for_a_while();
        self.settle();
        self.spawn_guests(10);
        let operator = self.running().operator.clone();
        self.running().exec.block_on(async move {
            operator.stream().await;
            operator.let_finish().await;
        });
        self.settle();
    }

    fn settle(&self) {
        let running = self.running();
        running.operator.stop.set(true);
        let operator = running.operator.clone();
        running
            .exec
            .block_on(async move { operator.let_finish().await });
        while running.exec.task_count() > 0 {
            running.exec.poll();
        }
    }

    /// Lets files fail for a while. Then an image that has stopped writes nothing more but can be
    /// read, and one that has not goes on as if nothing had been.
    pub fn run_with_faults(&mut self) {
        self.start();
        self.running().allowed.set(Allowed::Anything);
        let mut rate = || self.random.pick(&[0, 0, 5, 20, 100]);
        let faults = Faults {
            read: rate(),
            write: rate(),
            flush: rate(),
            other: rate(),
        };
        self.spawn_work(true);
        for file in self.running().folder.files() {
            file.set_faults(faults);
        }
        self.run_for_a_while();
        for file in self.running().folder.files() {
            file.set_faults(Faults::default());
        }
        if self.random.one_in(2) {
            return;
        }
        self.settle();
        self.verify();
        if self.root().is_stopped() {
            self.check_stopped();
        } else {
            self.running().allowed.set(Allowed::Nothing);
            self.spawn_guests(10);
            self.settle();
        }
        self.verify();
    }

    /// Rule W6: requests that write are refused, and nothing reaches the file.
    fn check_stopped(&mut self) {
        let file = self.file_of(&self.root());
        let before = file.changes();
        let root = self.root();
        self.running().exec.block_on(async move {
            let data = SgList::zeroed(SECTOR as usize);
            for result in [
                root.write(0, data).await,
                root.write_zeroes(0, SECTOR, true).await,
                root.flush().await,
            ] {
                let stopped = matches!(result, Err(IoError::Stopped { .. }));
                assert!(stopped, "{result:?}");
            }
        });
        assert_eq!(file.changes(), before, "something was written");
    }

    fn file_of(&self, node: &Node) -> Rc<SimFile> {
        self.running().folder.file(node.path()).unwrap()
    }

    /// Lets the top's file system be full for a while: requests fail, for want of space and no other
    /// reason. Once there is room everything works again.
    pub fn run_on_a_full_disk(&mut self) {
        self.start();
        self.running().allowed.set(Allowed::NoSpace);
        let room = self.random.below(48);
        self.file_of(&self.root()).set_room(Some(room));
        self.spawn_work(true);
        self.run_for_a_while();
        if self.random.one_in(2) {
            return;
        }
        for file in self.running().folder.files() {
            file.set_room(None);
        }
        self.settle();
        self.running().allowed.set(Allowed::Nothing);
        self.spawn_guests(10);
        self.settle();
        self.verify();
        self.stop();
        self.start();
    }

    /// Cuts the power and opens what is left.
    pub fn crash(&mut self) {
        self.chain = Chain::of(&self.root());
        let running = self.running.take().unwrap();
        self.files = running.folder.after_crash(self.random.next());
        running.exec.drop_tasks();
        drop(running);
        self.model.borrow_mut().crashed();
        self.leaks = oracle::check(&self.files, &self.chain);
        self.start();
        let found = self.verify();
        if self.with_qemu {
            oracle::check_with_qemu(&self.files, &self.chain, &found);
        }
        self.model.borrow_mut().found(&found);
        self.stop();
    }

    /// Compares every sector with the model, and returns them.
    pub fn verify(&self) -> Vec<u8> {
        let data = SgList::zeroed(usize::try_from(self.size).unwrap());
        let (root, into) = (self.root(), data.clone());
        let before = self.model.borrow_mut().before_read(0, self.size);
        let read = async move { root.read(0, into).await.unwrap() };
        self.running().exec.block_on(read);
        let found = data.to_vec();
        self.model.borrow().check(&before, &found);
        found
    }

    fn spawn_guests(&mut self, requests: u64) {
        let running = self.running.as_ref().unwrap();
        let load = Rc::new(Load {
            disk: running.disk.clone(),
            watch: Watch::Files(running.folder.clone()),
            model: self.model.clone(),
            allowed: running.allowed.clone(),
            marks: running.marks.clone(),
            size: self.size,
            spots: self.spots.clone(),
            longest: self.longest,
            left: Cell::new(requests),
        });
        for _ in 0..1 + self.random.below(6) {
            let guest = Guest {
                load: load.clone(),
                random: Cell::new(self.random.next()),
            };
            Rc::new(guest).next();
        }
    }
}
