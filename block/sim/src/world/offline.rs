//! Work on a chain that no guest uses, as `strata-img` does it.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use strata_exec::{Executor, Queue};
use strata_graph::{
    Node,
    chain::{ImageOptions, Opener},
};
use strata_storage::{Faults, Files, SimDirectory};

use super::{World, read_all};
use crate::{oracle::Contents, plan::Random};

/// The files of a world while a tool has them.
pub(super) struct Offline {
    pub exec: Rc<Executor>,
    pub directory: Rc<SimDirectory>,
    pub opener: Rc<Opener>,
}

impl World {
    pub(super) fn offline(&mut self) -> Offline {
        let exec = Executor::seeded(self.random.next()).unwrap();
        let directory = SimDirectory::new(self.files.clone(), self.random.next());
        let files = Files::Sim(directory.clone());
        let opener = Opener::among(files, self.open.cache_bytes, exec.clone());
        Offline {
            exec,
            directory,
            opener: Rc::new(opener),
        }
    }

    /// How layer `index` is opened, counted from the top.
    pub(super) fn image_options(&self, index: usize, read_only: bool) -> ImageOptions {
        ImageOptions {
            format: Some(self.chain.0[index].1),
            read_only,
            discard: self.open.discard,
            ..ImageOptions::default()
        }
    }

    /// What the disk shows, which is nothing else from now on.
    pub(super) fn read_at_rest(&mut self) -> Vec<u8> {
        let offline = self.offline();
        let bytes = offline.read_all(&offline.open_chain(self, true));
        self.model.borrow_mut().found(&bytes);
        bytes
    }

    /// The tool has ended, and all is durable.
    pub(super) fn end_offline(&mut self, offline: &Offline) {
        self.files = offline.directory.durable();
        offline.exec.drop_tasks();
        self.check_at_rest();
    }

    /// Cuts the power while the tool is at work, and opens what is left.
    pub(super) fn crash_offline(&mut self, offline: &Offline) {
        self.files = offline.directory.after_crash(self.random.next());
        offline.exec.drop_tasks();
        self.examine();
    }
}

impl Offline {
    /// Opens the world's disk with all its layers.
    pub fn open_chain(&self, world: &World, read_only: bool) -> Rc<Node> {
        self.open_chain_from(world, 0, read_only)
    }

    /// Opens layer `index`, counted from the top, with all below it.
    pub fn open_chain_from(&self, world: &World, index: usize, read_only: bool) -> Rc<Node> {
        let (opener, path) = (self.opener.clone(), world.chain.0[index].0.clone());
        let options = world.image_options(index, read_only);
        let open = async move { opener.open(&path, &options).await.unwrap() };
        self.exec.block_on(open)
    }

    /// Opens layer `index`, counted from the top, by itself.
    pub fn open_layer(&self, world: &World, index: usize, read_only: bool) -> Rc<Node> {
        let (opener, path) = (self.opener.clone(), world.chain.0[index].0.clone());
        let options = world.image_options(index, read_only);
        let open = async move { opener.open_layer(&path, &options).await.unwrap() };
        self.exec.block_on(open)
    }

    /// All that a layer shows.
    pub fn read_all(&self, node: &Rc<Node>) -> Vec<u8> {
        self.exec.block_on(read_all(node.clone()))
    }

    /// Lets files fail now and then.
    pub fn set_faults(&self, random: &mut Random) {
        let faults = random.faults();
        let one = random.one_in(3);
        for file in self.directory.files() {
            if one {
                file.fill_up_at_flush(Some(random.below(12)));
            } else {
                file.set_faults(faults);
            }
        }
    }

    /// Lets files have what they need again.
    pub fn end_trouble(&self) {
        for file in self.directory.files() {
            file.set_faults(Faults::default());
            file.fill_up_at_flush(None);
            file.set_room(None);
        }
    }

    /// Carries `work` on until a random moment, often one when a file begins to be flushed, or
    /// shortly after it has set `mark`; its result if it has ended by then. Where files begin to be
    /// flushed `look` now and then sees what a crash would leave: a rule that asked for a flush
    /// before is broken there if it ever is.
    pub fn run<T: 'static>(
        &self,
        world: &mut World,
        work: impl Future<Output = T> + 'static,
        mark: &Cell<bool>,
        look: impl Fn(&mut World, Contents),
    ) -> Option<T> {
        let random = &mut world.random;
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        self.exec.spawn(Queue::Guest, async move {
            let value = work.await;
            *slot.borrow_mut() = Some(value);
        });
        let (mut awaits_mark, mut flush) = (false, u64::MAX);
        let magnitude = random.below(14);
        let mut polls = match random.below(6) {
            0 => u64::MAX,
            1 => random.below(60_000),
            2 => random.below(1 << magnitude),
            3 => {
                awaits_mark = true;
                u64::MAX
            }
            _ => {
                flush = self.directory.flushes() + 1 + random.below(12);
                u64::MAX
            }
        };
        let after = random.below(90);
        let mut flushes = self.directory.flushes();
        while polls > 0 && self.directory.flushes() < flush {
            polls -= 1;
            let now = self.directory.flushes();
            if std::mem::replace(&mut flushes, now) != now && world.random.one_in(3) {
                let left = self.directory.after_crash(world.random.next());
                look(world, left);
            }
            if awaits_mark && mark.replace(false) {
                polls = after;
            }
            if !self.exec.step(Queue::Guest) {
                break;
            }
        }
        result.take()
    }
}
