//! A virtio-blk device for somebody else's virtual machine: a vhost-user back end (QEMU's
//! `docs/interop/vhost-user`).
//!
//! ```text
//! front end ──requests──▶ relay ──▶ library ──messages──▶ worker (device thread) ──▶ Disk
//! guest ──kicks────────────────────▶ vring thread ──messages──▶
//! ```
//!
//! The `vhost-user-backend` library speaks the protocol on threads of its own, one pair per
//! connection, behind the session thread's relay. They touch neither rings nor disk: kicks, new
//! memory and the ends of rings go as messages to the inbox of the worker, a task on the device
//! thread, which serves the rings as those of our own guests are served. Where the protocol
//! promises that nothing is touched any more after a message, the thread waits until the worker has
//! drained.
//!
//! A front end that takes its memory away loses its connection ([`missing`]).
//!
//! One front end at a time: others wait in the socket's backlog. It is trusted as far as the user
//! who starts it is: it passes memory and descriptors. Its guest is not.

mod channel;
mod front;
mod message;
mod missing;
mod relay;
mod session;
mod worker;

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::{Arc, atomic::Ordering, mpsc},
    thread::{self, JoinHandle},
};

use strata_block::{
    disk::{Completion, Disk, DiskInfo, Done, Request, Submit},
    engine::{Listening, VhostUserExport},
    unix_socket::SocketFile,
};
use strata_exec::{Executor, LocalBoxFuture, Queue, inbox, sync::WaitQueue};

use self::{front::Front, relay::Entrance, session::Control, worker::Worker};
use crate::virtio::blk::{front::Shared, layout::SECTOR, service::Service};

/// The most queues that an export can have.
pub const MAX_QUEUES: u16 = 64;

/// A disk that a front end may attach. Lives on the device thread.
pub struct Export {
    disk: Disk,
    shared: Arc<Shared>,
    control: Arc<Control>,
    thread: RefCell<Option<JoinHandle<()>>>,
    end: Rc<End>,
    file: RefCell<Option<SocketFile>>,
}

/// Whether the worker has ended, and who waits for that.
#[derive(Default)]
struct End {
    reached: Cell<bool>,
    waiting: WaitQueue,
}

impl Export {
    /// Serves `disk` to the clients that connect to the socket, with `queues` request queues (1 to
    /// [`MAX_QUEUES`]).
    ///
    /// # Errors
    /// The host has no descriptors or threads left, or no directory for temporary files.
    pub fn start(
        exec: &Rc<Executor>,
        listening: Listening,
        disk: Disk,
        queues: u16,
        writable: bool,
    ) -> io::Result<Self> {
        let disk = if writable {
            disk
        } else {
            Disk::new(Rc::new(ReadOnly(disk)))
        };
        let info = disk.info();
        let shared = Arc::new(Shared::new(&info));
        let (sender, inbox) = inbox::channel()?;
        let inbox = inbox.watch(exec)?;
        let queues = queues.clamp(1, MAX_QUEUES);
        let front = Front::new(DiskInfo::clone(&info), queues, shared.clone(), sender)?;
        let (control, entrance) = (Arc::new(Control::new()?), Entrance::new()?);
        let Listening { socket, file } = listening;
        let (of_thread, name) = (control.clone(), format!("vhost-user {}", info.id));
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || session::run(&socket, &entrance, front, &of_thread))?;
        let end = Rc::new(End::default());
        let ended = end.clone();
        let service = Service {
            disk: disk.clone(),
            shared: shared.clone(),
        };
        let worker = Worker::new(exec.clone(), service, inbox);
        exec.spawn_named(Queue::Guest, "vhost-user export", async move {
            worker.run().await;
            ended.reached.set(true);
            ended.waiting.wake_all();
        });
        Ok(Self {
            disk,
            shared,
            control,
            thread: RefCell::new(Some(thread)),
            end,
            file: RefCell::new(file),
        })
    }

    async fn end(&self) {
        // Nobody new finds it from here on.
        drop(self.file.take());
        self.control.stop();
        while !self.end.reached.get() {
            self.end.waiting.wait().await;
        }
        // Its last message has arrived: it is about to return.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a vhost-user session has panicked");
        }
    }
}

impl VhostUserExport for Export {
    fn in_use(&self) -> bool {
        self.control.in_use()
    }

    fn resized(&self) {
        let sectors = self.disk.info().size / SECTOR;
        if self.shared.sectors.swap(sectors, Ordering::AcqRel) != sectors {
            self.control.channel.config_changed();
        }
    }

    fn stop(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.end())
    }
}

/// A disk whose writes are refused here, whatever other users of it may do.
struct ReadOnly(Disk);

impl Submit for ReadOnly {
    fn submit(&self, request: Request, done: Done) {
        self.0
            .submit(request, move |result: Completion| done(result));
    }

    fn info(&self) -> Rc<DiskInfo> {
        Rc::new(DiskInfo {
            read_only: true,
            ..DiskInfo::clone(&self.0.info())
        })
    }
}

/// Waits for an answer from the device thread. That it has gone is as good as one.
fn wait<T>(answer: &mpsc::Receiver<T>) -> Option<T> {
    answer.recv().ok()
}

#[cfg(test)]
mod tests;
