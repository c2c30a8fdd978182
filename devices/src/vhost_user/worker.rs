//! Serving the rings, on the device thread.

use std::{
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, atomic::Ordering, mpsc::TryRecvError},
};

use strata_exec::{
    Executor,
    inbox::{InboxWaker, WatchedInbox},
    yield_now,
};
use vhost_user_backend::{VringMutex, VringT};
use vm_memory::GuestMemoryMmap;

use super::message::Message;
use crate::virtio::{
    blk::service::Service,
    ring::{Ring, Signal},
};

/// Serves the rings of one export.
pub struct Worker {
    exec: Rc<Executor>,
    service: Service,
    inbox: WatchedInbox<Message>,
    memory: Arc<GuestMemoryMmap>,
    rings: BTreeMap<u16, Started>,
}

/// A ring that has been kicked.
struct Started {
    ring: Rc<Ring>,
    vring: VringMutex,
}

impl Worker {
    /// A worker without rings, whose disk's requests run on `exec`.
    pub fn new(exec: Rc<Executor>, service: Service, inbox: WatchedInbox<Message>) -> Self {
        Self {
            exec,
            service,
            inbox,
            memory: Arc::default(),
            rings: BTreeMap::new(),
        }
    }

    /// Works until nobody is left who could send a message.
    pub async fn run(mut self) {
        loop {
            match self.inbox.receive() {
                Ok(message) => self.take(message).await,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) if self.turn() => yield_now().await,
                Err(TryRecvError::Empty) => self.inbox.woken().await,
            }
        }
        self.drain_all().await;
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Kick {
                queue,
                vring,
                features,
                waiting,
            } => {
                waiting.store(false, Ordering::Release);
                self.start(queue, vring, features);
            }
            Message::Memory(memory, done) => {
                for started in self.rings.values() {
                    started.ring.set_memory(memory.clone());
                }
                self.memory = memory;
                let _ = done.send(());
            }
            Message::Stop { queue, position } => {
                if let Some(started) = self.rings.remove(&queue) {
                    self.drain(&started.ring).await;
                    let _ = position.send(started.ring.position());
                }
            }
            Message::Reset(done) => {
                self.drain_all().await;
                let _ = done.send(());
            }
        }
    }

    /// Starts a ring if it is not started, as the front end has laid it out.
    fn start(&mut self, queue: u16, vring: VringMutex, features: u64) {
        if self.rings.contains_key(&queue) {
            return;
        }
        let layout = vring.get_ref().get_queue().state();
        let signal = Rc::new(CallSignal {
            vring: vring.clone(),
            waker: self.inbox.waker(),
        });
        let (memory, exec) = (self.memory.clone(), self.exec.clone());
        let ring = Ring::new(queue, layout, features, memory, signal, exec);
        match ring {
            Some(ring) => drop(self.rings.insert(queue, Started { ring, vring })),
            None => tracing::warn!(queue, "a vhost-user ring lies outside the guest's memory"),
        }
    }

    /// Gives every ring a turn; whether one has more to do.
    fn turn(&self) -> bool {
        let mut more = false;
        for started in self.rings.values() {
            if started.vring.get_ref().is_enabled() {
                more |= self.service.turn(&started.ring);
            }
        }
        more
    }

    async fn drain(&self, ring: &Ring) {
        while ring.in_flight() > 0 {
            ring.want_wake();
            self.inbox.woken().await;
        }
        // What the executor has put off: nothing is signalled once the ring is at rest.
        ring.end_turn();
    }

    async fn drain_all(&mut self) {
        for started in std::mem::take(&mut self.rings).into_values() {
            self.drain(&started.ring).await;
        }
    }
}

/// The descriptor that the front end has given for a ring's interrupts, and what wakes the worker.
struct CallSignal {
    vring: VringMutex,
    waker: InboxWaker,
}

impl Signal for CallSignal {
    fn used(&self, queue: u16) {
        if let Err(error) = self.vring.signal_used_queue() {
            tracing::warn!(queue, %error, "a vhost-user front end could not be signalled");
        }
    }

    /// The protocol has no word for it: the ring just stands still.
    fn broken(&self, _queue: u16) {}

    fn wake(&self) {
        self.waker.wake();
    }
}
