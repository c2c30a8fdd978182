//! Coming to rest: for a stopped machine, and for good.

use std::{cell::RefCell, rc::Rc};

use super::Engine;
use crate::{
    error::Error,
    exec::{Queue, yield_now},
};

impl Engine {
    /// Waits until no guest request is under way and makes everything durable; then calls `done`
    /// with the errors. The caller has made sure that no new requests come. Jobs go on.
    pub fn quiesce(self: &Rc<Self>, done: impl FnOnce(Vec<Error>) + 'static) {
        let engine = self.clone();
        self.exec.spawn(Queue::Guest, async move {
            let mut errors = Vec::new();
            let disks = engine.disks.borrow().clone();
            for disk in disks {
                let _drained = disk.gate().drain().await;
                if let Err(error) = disk.root().flush().await {
                    errors.push(error.into());
                }
            }
            done(errors);
        });
    }

    /// Sends the exports' clients away, ends all jobs (each chain stays as far as its job has come), drains, flushes and closes
    /// every disk. Blocks, and returns what went wrong on the way.
    pub fn shut_down(self: &Rc<Self>) -> Vec<Error> {
        let engine = self.clone();
        let errors = Rc::new(RefCell::new(Vec::new()));
        let found = errors.clone();
        self.exec.block_on(async move {
            engine.stop_exports().await;
            while !engine.jobs.unfinished().is_empty() {
                for job in engine.jobs.unfinished() {
                    job.cancel();
                }
                yield_now().await;
            }
            let disks = engine.disks.take();
            for disk in disks {
                disk.give_up_name();
                let _drained = disk.gate().drain().await;
                for node in disk.root().chain() {
                    if let Err(error) = node.close().await {
                        found.borrow_mut().push(error);
                    }
                }
            }
        });
        errors.take()
    }
}
