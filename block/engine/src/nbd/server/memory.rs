//! The memory that all clients of a server take together.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use strata_exec::{Queue, mem};

use super::Server;

/// Bytes that the requests of all clients may take beyond what each has to itself (256 KiB):
/// several of the maximum size.
pub(super) const TOTAL: u64 = 192 << 20;

/// While others wait for memory, a client that holds some and has neither taken a byte of its
/// replies nor sent one of its request for so long is sent away.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 5000 });

/// How often clients are looked at while memory is short.
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 1000 });

/// A client that has held so much leaves memory behind that the allocator keeps.
const MUCH: u64 = 1 << 20;

impl Server {
    /// Waits until a request may take `bytes`; returns what the caller has to return.
    pub(in crate::nbd) async fn take_memory(self: &Rc<Self>, bytes: u64) -> u64 {
        if !self.memory.has(bytes) && !self.watching.replace(true) {
            let server = self.clone();
            self.exec
                .spawn_named(Queue::Guest, "NBD server: shortage of memory", async move {
                    server.watch().await;
                    server.watching.set(false);
                });
        }
        self.memory.take(bytes).await
    }

    /// Gives memory back.
    pub(in crate::nbd) fn give_memory_back(&self, bytes: u64) {
        self.memory.give_back(bytes);
    }

    /// Sends those away who keep others waiting.
    async fn watch(self: &Rc<Self>) {
        loop {
            self.exec.sleep_until(Instant::now() + LOOK).await;
            if !self.memory.is_short() {
                return;
            }
            for client in self.clients.borrow().values() {
                let still = client.stream.still_for() >= PATIENCE;
                if still && client.held.get() > 0 {
                    tracing::warn!("an NBD client that does not read its replies is sent away");
                    client.stream.break_off();
                }
            }
        }
    }

    /// A client that has held `most` bytes at a time has gone: the host gets its memory back.
    pub(super) fn tidy_up(&self, most: u64) {
        if most >= MUCH {
            let work = self.exec.helpers().run(mem::give_back_to_host);
            self.exec
                .spawn_named(Queue::Guest, "memory goes back to the host", work);
        }
    }
}

#[cfg(test)]
mod tests;
