//! A disk on a simulated chain, the guests that use it, and the model that knows better.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use super::{
    chain::{Chain, Images},
    model::{Model, SECTOR, pattern},
};
use crate::{
    api::{JobType, OnError},
    disk::{Disk, Op, Request},
    exec::{Executor, Queue},
    graph::{DiskOptions, EventSink, GuestDisk},
    jobs::{Job, JobOptions, Jobs, Stream, conclude},
    mem::SgList,
    qcow2::Backing,
    random,
};

type SharedModel = Rc<RefCell<Model>>;

const SIZE: u64 = 256 << 10;
/// Requests in flight.
const GUESTS: u64 = 4;

pub struct World {
    images: Images,
    model: SharedModel,
    random: u64,
    running: Option<Running>,
    /// Layers below the top that a merge leaves.
    kept: usize,
}

/// What ends with a crash.
struct Running {
    exec: Rc<Executor>,
    chain: Chain,
    disk: Rc<GuestDisk>,
    merged: Rc<Jobs>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = seed;
        let layers = 1 + usize::try_from(random::next(&mut random) % 4).unwrap();
        let images = Images::create(layers, SIZE, &mut random);
        let mut world = Self {
            images,
            model: Rc::new(RefCell::new(Model::new(SIZE))),
            random,
            running: None,
            kept: 0,
        };
        world.fill_layers(layers);
        world
    }

    /// Gives every layer some data of its own, each as the top of those below it.
    fn fill_layers(&mut self, layers: usize) {
        for layers in 1..layers {
            let images = Images(self.images.0[..layers].to_vec());
            let rest = self.images.0[layers..].to_vec();
            self.images = images;
            self.start();
            self.spawn_guests(6);
            self.settle();
            self.images = self.stop();
            self.images.0.extend(rest);
        }
    }

    fn start(&mut self) -> &Running {
        let seed = random::next(&mut self.random);
        let exec = Executor::seeded(seed).unwrap();
        let chain = self.images.open(&exec, seed >> 8);
        let events: EventSink = Rc::new(RefCell::new(Box::new(|_| {})));
        let options = DiskOptions {
            discard: true,
            ..DiskOptions::default()
        };
        let disk = GuestDisk::new(exec.clone(), events, chain.top.clone(), options);
        self.running.insert(Running {
            exec,
            chain,
            disk,
            merged: Rc::default(),
        })
    }

    /// An orderly end.
    fn stop(&mut self) -> Images {
        let Running { exec, chain, .. } = self.running.take().unwrap();
        let top = chain.top.clone();
        exec.block_on(async move { top.close().await.unwrap() });
        let now = self.model.borrow_mut().now();
        self.model.borrow_mut().flushed(now);
        Images(
            chain
                .files
                .iter()
                .map(|file| file.durable_bytes())
                .collect(),
        )
    }

    /// Lets guests work, perhaps a merge too, for a random number of polls.
    pub fn run_guests(&mut self, merge: bool) {
        self.start();
        self.spawn_guests(30);
        if merge {
            self.spawn_merge();
        }
        let exec = self.running.as_ref().unwrap().exec.clone();
        let polls = random::next(&mut self.random) % 1500;
        for _ in 0..polls {
            let job = random::next(&mut self.random).is_multiple_of(4);
            if !exec.step(if job { Queue::Job } else { Queue::Guest }) {
                break;
            }
        }
    }

    /// The same, until all have finished, the merge too.
    pub fn run_guests_to_the_end(&mut self) {
        self.start();
        self.spawn_guests(30);
        self.spawn_merge();
        self.settle();
        assert!(
            self.running.as_ref().unwrap().merged.jobs().is_empty(),
            "the merge has ended"
        );
    }

    fn settle(&self) {
        let exec = self.running.as_ref().unwrap().exec.clone();
        while exec.task_count() > 0 {
            exec.poll();
        }
    }

    /// Cuts the power and opens what is left.
    pub fn crash(&mut self) {
        let running = self.running.take().unwrap();
        let seed = random::next(&mut self.random);
        let files = running.chain.files.iter().enumerate();
        self.images = Images(files.map(|(i, file)| file.crash(seed + i as u64)).collect());
        drop(running);
        self.model.borrow_mut().crashed();
        self.images.check();
        self.start();
        let found = self.verify();
        self.model.borrow_mut().found(&found);
        self.images = self.stop();
    }

    /// Compares every sector with the model, and returns them.
    pub fn verify(&self) -> Vec<u8> {
        let running = self.running.as_ref().unwrap();
        let data = SgList::zeroed(usize::try_from(SIZE).unwrap());
        let (top, into) = (running.disk.root(), data.clone());
        running
            .exec
            .block_on(async move { top.read(0, into).await.unwrap() });
        let before = self.model.borrow_mut().before_read(0, SIZE);
        self.model.borrow().check(&before, &data.to_vec());
        data.to_vec()
    }

    pub fn layers_below_the_top(&self) -> usize {
        self.running.as_ref().unwrap().disk.root().chain().count() - 1
    }

    pub fn layers_kept(&self) -> usize {
        self.kept
    }

    fn spawn_merge(&mut self) {
        let choice = random::next(&mut self.random);
        let running = self.running.as_ref().unwrap();
        let below: Vec<_> = running.chain.top.chain().skip(1).collect();
        // A base among the layers below, or none.
        let base = below.get(usize::try_from(choice % 4).unwrap()).cloned();
        self.kept = base.as_ref().map_or(0, |base| base.chain().count());
        let backing = base.as_ref().map(|base| Backing {
            name: base.name().to_owned(),
            format: Some("qcow2".to_owned()),
        });
        let options = JobOptions {
            id: "merge".to_owned(),
            kind: JobType::Stream,
            speed: 0,
            on_error: OnError::Report,
            auto_finalize: true,
            auto_dismiss: true,
        };
        let events: EventSink = Rc::new(RefCell::new(Box::new(|_| {})));
        let job = Rc::new(Job::new(
            running.exec.clone(),
            events,
            running.disk.clone(),
            options,
        ));
        running.merged.insert(job.clone());
        let stream = Stream {
            top: running.chain.top.clone(),
            base,
            backing,
        };
        running
            .exec
            .spawn(Queue::Job, conclude(job, stream, running.merged.clone()));
    }

    fn spawn_guests(&mut self, requests: u64) {
        let left = Rc::new(Cell::new(requests));
        for _ in 0..GUESTS {
            let running = self.running.as_ref().unwrap();
            let guest = Guest {
                disk: Disk::new(running.disk.clone()),
                model: self.model.clone(),
                random: Cell::new(random::next(&mut self.random)),
                left: left.clone(),
            };
            Rc::new(guest).next();
        }
    }
}

/// Sends one random request after the other.
struct Guest {
    disk: Disk,
    model: SharedModel,
    random: Cell<u64>,
    left: Rc<Cell<u64>>,
}

impl Guest {
    fn random(&self, below: u64) -> u64 {
        let mut state = self.random.get();
        let value = random::next(&mut state);
        self.random.set(state);
        value % below
    }

    fn next(self: Rc<Self>) {
        let Some(left) = self.left.get().checked_sub(1) else {
            return;
        };
        self.left.set(left);
        let sectors = SIZE / SECTOR;
        let start = self.random(sectors);
        let count = (1 + self.random(1 << self.random(8))).min(sectors - start);
        let (offset, len) = (start * SECTOR, count * SECTOR);
        match self.random(10) {
            0..4 => self.write(offset, len),
            4..6 => self.read(offset, len),
            6 => self.zero(offset, len),
            7 => self.discard(offset, len),
            _ => self.flush(),
        }
    }

    fn submit(
        self: Rc<Self>,
        op: Op,
        offset: u64,
        len: u64,
        data: SgList,
        end: impl FnOnce(&SharedModel) + 'static,
    ) {
        let disk = self.disk.clone();
        disk.submit(
            Request {
                op,
                offset,
                len,
                data,
            },
            move |result| {
                result.expect("no request fails");
                end(&self.model);
                self.next();
            },
        );
    }

    fn write(self: Rc<Self>, offset: u64, len: u64) {
        let sent = self.model.borrow_mut().write(offset, len);
        let data = SgList::from_vec(pattern(sent.number, len));
        let fua = self.random(8) == 0;
        self.submit(Op::Write { fua }, offset, len, data, move |model| {
            model.borrow_mut().complete(sent);
        });
    }

    fn read(self: Rc<Self>, offset: u64, len: u64) {
        let before = self.model.borrow_mut().before_read(offset, len);
        let data = SgList::zeroed(usize::try_from(len).unwrap());
        self.submit(Op::Read, offset, len, data.clone(), move |model| {
            model.borrow().check(&before, &data.to_vec());
        });
    }

    fn zero(self: Rc<Self>, offset: u64, len: u64) {
        let sent = self.model.borrow_mut().zero(offset, len);
        let unmap = self.random(2) == 0;
        self.submit(
            Op::WriteZeroes { unmap },
            offset,
            len,
            SgList::empty(),
            move |model| {
                model.borrow_mut().complete(sent);
            },
        );
    }

    fn discard(self: Rc<Self>, offset: u64, len: u64) {
        let sent = self.model.borrow_mut().discard(offset, len);
        self.submit(Op::Discard, offset, len, SgList::empty(), move |model| {
            model.borrow_mut().complete(sent);
        });
    }

    fn flush(self: Rc<Self>) {
        let started = self.model.borrow_mut().now();
        self.submit(Op::Flush, 0, 0, SgList::empty(), move |model| {
            model.borrow_mut().flushed(started);
        });
    }
}
