//! The worker half, on the device thread.

use std::{
    os::fd::{AsFd, AsRawFd},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use strata_block::disk::Disk;
use strata_exec::{
    Executor,
    inbox::{Inbox, InboxWaker},
};
use virtio_queue::QueueState;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::{
    front::{Message, Shared},
    layout,
    service::Service,
};
use crate::virtio::{
    ring::{Ring, Signal},
    state::DeviceState,
};

/// Event data of the inbox; queue `n` has `n`.
const INBOX: u32 = u32::MAX;

/// What a [`BlkWorker`] is made of; may be sent to the device thread, where the disk lives.
pub struct BlkWorkerParts {
    pub(super) memory: Arc<GuestMemoryMmap>,
    pub(super) state: Arc<DeviceState>,
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Inbox<Message>,
    pub(super) kicks: Vec<EventFd>,
}

impl BlkWorkerParts {
    /// The worker, serving `disk`, whose requests run on `exec`. To be registered with the device
    /// thread's event manager.
    pub fn into_worker(self, disk: Disk, exec: Rc<Executor>) -> BlkWorker {
        BlkWorker {
            exec,
            service: Service {
                disk,
                shared: self.shared,
            },
            memory: self.memory,
            state: self.state,
            inbox: self.inbox,
            kicks: self.kicks,
            rings: Vec::new(),
            stopped: false,
            resetting: false,
        }
    }
}

/// Serves the rings of one virtio-blk device.
///
/// Stopping the machine: [`BlkWorker::stop`], then let the event loop and the disk run until
/// [`BlkWorker::is_idle`]. The same before guest memory is changed behind the guest's back, as a
/// machine reset does, or the worker is dropped.
pub struct BlkWorker {
    exec: Rc<Executor>,
    service: Service,
    memory: Arc<GuestMemoryMmap>,
    state: Arc<DeviceState>,
    inbox: Inbox<Message>,
    kicks: Vec<EventFd>,
    rings: Vec<Option<Rc<Ring>>>,
    stopped: bool,
    /// The driver waits for the device status to become 0.
    resetting: bool,
}

impl BlkWorker {
    /// Requests of the guest that have been fetched and not been answered.
    pub fn in_flight(&self) -> usize {
        self.rings
            .iter()
            .flatten()
            .map(|ring| ring.in_flight())
            .sum()
    }

    /// Whether nothing is in flight and no reset is waiting for that.
    pub fn is_idle(&self) -> bool {
        self.in_flight() == 0 && !self.resetting
    }

    /// Fetches nothing more until [`BlkWorker::cont`]; what is in flight goes on.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Fetches again, first of all what was kicked for meanwhile.
    pub fn cont(&mut self) {
        self.stopped = false;
        self.run_all();
    }

    /// The disk has another size now: the guest is notified.
    pub fn resized(&self) {
        let sectors = self.service.disk.info().size / layout::SECTOR;
        if self.service.shared.sectors.swap(sectors, Ordering::AcqRel) != sectors {
            self.state.config_changed();
        }
    }

    /// Does what the front half wants. It also wakes the worker without a message, to look at the
    /// rings again.
    fn handle_messages(&mut self) {
        while let Ok(message) = self.inbox.receive() {
            match message {
                Message::Activate { features, queues } => self.activate(features, &queues),
                Message::Reset => self.start_reset(),
            }
        }
        self.finish_reset();
        self.run_all();
    }

    fn activate(&mut self, features: u64, queues: &[Option<QueueState>]) {
        let signal: Rc<dyn Signal> = Rc::new(PciSignal {
            state: Arc::clone(&self.state),
            waker: self.inbox.waker(),
        });
        let rings = (0..).zip(queues).map(|(index, layout)| {
            let layout = (*layout)?;
            let memory = Arc::clone(&self.memory);
            let (signal, exec) = (Rc::clone(&signal), Rc::clone(&self.exec));
            let ring = Ring::new(index, layout, features, memory, signal, exec);
            if ring.is_none() {
                tracing::warn!(queue = index, "a virtqueue lies outside the guest's memory");
                self.state.needs_reset();
            }
            ring
        });
        self.rings = rings.collect();
    }

    fn start_reset(&mut self) {
        self.resetting = true;
        for ring in self.rings.iter().flatten() {
            ring.want_wake();
        }
    }

    /// Completes a reset once the last request has come back; each wakes the worker for that.
    fn finish_reset(&mut self) {
        if !self.resetting {
            return;
        }
        if self.in_flight() == 0 {
            self.resetting = false;
            self.rings.clear();
            self.state.reset_done();
        } else {
            self.rings
                .iter()
                .flatten()
                .for_each(|ring| ring.want_wake());
        }
    }

    fn run_all(&self) {
        for index in 0..self.rings.len() {
            self.run(index);
        }
    }

    /// Serves ring `index` for one turn; where there is more, a kick to itself brings the worker
    /// back.
    fn run(&self, index: usize) {
        let may_fetch = !self.stopped && !self.resetting && self.state.bus_master();
        let ring = self.rings.get(index).and_then(Option::as_ref);
        let Some(ring) = ring.filter(|_| may_fetch) else {
            return;
        };
        if self.service.turn(ring) {
            // A counter that is full kicks, too.
            let _ = self.kicks[index].write(1);
        }
    }
}

/// The function's interrupts, and what wakes the worker.
struct PciSignal {
    state: Arc<DeviceState>,
    waker: InboxWaker,
}

impl Signal for PciSignal {
    fn used(&self, index: u16) {
        self.state.signal_queue(index);
    }

    fn broken(&self, _index: u16) {
        self.state.needs_reset();
    }

    fn wake(&self) {
        self.waker.wake();
    }
}

impl MutEventSubscriber for BlkWorker {
    fn init(&mut self, ops: &mut EventOps) {
        let inbox = self.inbox.as_fd().as_raw_fd();
        let inbox = Events::with_data_raw(inbox, INBOX, EventSet::IN);
        let kicks = (0..).zip(&self.kicks);
        let kicks = kicks.map(|(queue, kick)| Events::with_data(kick, queue, EventSet::IN));
        for events in std::iter::once(inbox).chain(kicks) {
            if let Err(error) = ops.add(events) {
                tracing::error!(%error, "a virtio-blk eventfd could not be watched");
            }
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.data() == INBOX {
            self.handle_messages();
        } else {
            let queue = events.data() as usize;
            if let Some(kick) = self.kicks.get(queue) {
                // Takes the count back to 0; that there was none is no matter.
                let _ = kick.read();
            }
            self.run(queue);
        }
    }
}
