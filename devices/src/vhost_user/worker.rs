//! Serving the rings, on the device thread.

use std::{
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, atomic::Ordering, mpsc::TryRecvError},
};

use strata_block::exec::yield_now;
use vhost_user_backend::{VringMutex, VringT};
use vm_memory::GuestMemoryMmap;

use super::mail::{Letter, PostBox};
use crate::virtio::{
    blk::service::Service,
    ring::{Ring, Signal},
};

/// Serves the rings of one export.
pub struct Worker {
    service: Service,
    post_box: PostBox,
    memory: Arc<GuestMemoryMmap>,
    rings: BTreeMap<u16, Started>,
}

/// A ring that has been kicked.
struct Started {
    ring: Rc<Ring>,
    vring: VringMutex,
}

impl Worker {
    /// A worker without rings.
    pub fn new(service: Service, post_box: PostBox) -> Self {
        Self {
            service,
            post_box,
            memory: Arc::default(),
            rings: BTreeMap::new(),
        }
    }

    /// Works until nobody is left who could send a letter.
    pub async fn run(mut self) {
        loop {
            match self.post_box.next() {
                Ok(letter) => self.take(letter).await,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) if self.turn() => yield_now().await,
                Err(TryRecvError::Empty) => self.post_box.heard().await,
            }
        }
        self.drain_all().await;
    }

    async fn take(&mut self, letter: Letter) {
        match letter {
            Letter::Kick {
                queue,
                vring,
                features,
                seen,
            } => {
                seen.store(false, Ordering::Release);
                self.start(queue, vring, features);
            }
            Letter::Memory(memory, done) => {
                for started in self.rings.values() {
                    started.ring.set_memory(memory.clone());
                }
                self.memory = memory;
                let _ = done.send(());
            }
            Letter::Stop { queue, position } => {
                if let Some(started) = self.rings.remove(&queue) {
                    self.drain(&started.ring).await;
                    let _ = position.send(started.ring.position());
                }
            }
            Letter::Reset(done) => {
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
            wake: Box::new(self.post_box.bell()),
        });
        let ring = Ring::new(queue, layout, features, self.memory.clone(), signal);
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
            self.post_box.heard().await;
        }
    }

    async fn drain_all(&mut self) {
        for started in std::mem::take(&mut self.rings).into_values() {
            self.drain(&started.ring).await;
        }
    }
}

/// The descriptor that the front end has given for a ring's interrupts, and the worker's bell.
struct CallSignal {
    vring: VringMutex,
    wake: Box<dyn Fn()>,
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
        (self.wake)();
    }
}
