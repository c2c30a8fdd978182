//! Coming to rest: for a stopped machine, and for good.

use std::rc::Rc;

use strata_exec::Queue;
use strata_graph::{GuestDisk, Node};
use strata_storage::error::Error;

use super::Engine;

impl Engine {
    /// Waits until no guest request is under way and makes everything durable; then calls `done`
    /// with the errors. The caller has made sure that no new requests come. Jobs go on.
    pub fn quiesce(self: &Rc<Self>, done: impl FnOnce(Vec<Error>) + 'static) {
        let engine = self.clone();
        self.exec
            .spawn_named(Queue::Guest, "drain and flush all disks", async move {
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

    /// Forgets the I/O errors that disks and jobs have met: the machine goes on (`cont`).
    pub fn reset_io_status(&self) {
        let disks = self.disks.borrow();
        disks.iter().for_each(|disk| disk.reset_io_status());
        self.jobs.reset_io_status();
    }

    /// Waits for no server any more that is gone: what waits for one fails now. For users
    /// who have asked twice for an end.
    pub fn give_up_on_servers(&self) {
        self.exec.give_up_on_peers();
    }

    /// Sends the exports' clients away, ends all jobs (each chain stays as far as its job has
    /// come), drains, flushes and closes every disk; then calls `done` with what went wrong on the
    /// way.
    pub fn begin_to_shut_down(self: &Rc<Self>, done: impl FnOnce(Vec<Error>) + 'static) {
        let engine = self.clone();
        self.exec
            .spawn_named(Queue::Guest, "shut down", async move {
                done(engine.shut_down_now().await);
            });
    }

    /// As [`Engine::begin_to_shut_down`], but blocks, and returns what went wrong.
    pub fn shut_down(self: &Rc<Self>) -> Vec<Error> {
        let engine = self.clone();
        self.exec
            .block_on(async move { engine.shut_down_now().await })
    }

    async fn shut_down_now(self: Rc<Self>) -> Vec<Error> {
        self.ending.set(true);
        let mut errors = Vec::new();
        self.stop_exports().await;
        self.jobs.end_all().await;
        self.backends.take();
        for disk in self.disks.take() {
            errors.extend(close(&disk).await);
        }
        self.ending.set(false);
        errors
    }
}

/// Closes a disk that has left the list, once no request for it is under way. What went wrong.
pub(super) async fn close(disk: &GuestDisk) -> Vec<Error> {
    drop(disk.take_name());
    let _drained = disk.gate().drain().await;
    close_layers(&disk.root()).await
}

/// Closes `root` and all layers below it. What went wrong.
pub(super) async fn close_layers(root: &Rc<Node>) -> Vec<Error> {
    let mut errors = Vec::new();
    for layer in root.chain() {
        errors.extend(layer.image().close().await.err());
    }
    errors
}
