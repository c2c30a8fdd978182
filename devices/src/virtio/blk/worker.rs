//! The worker half, on the device thread.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{Arc, atomic::Ordering, mpsc::Receiver},
};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use strata_block::{
    disk::{Completion, Disk, Op, Request},
    error::IoError,
};
use virtio_bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;
use virtio_queue::QueueState;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::{
    front::{Message, Shared},
    layout,
    request::{Incoming, Status, Work, whole_disk_flush},
};
use crate::{
    guest_memory::guest_list,
    virtio::{
        chain::{Chain, Pieces},
        ring::{Next, Ring},
        state::DeviceState,
    },
};

/// Event data of the bell; queue `n` has `n`.
const BELL: u32 = u32::MAX;

/// What a [`BlkWorker`] is made of; may be sent to the device thread, where the disk lives.
pub struct BlkWorkerParts {
    pub(super) memory: Arc<GuestMemoryMmap>,
    pub(super) state: Arc<DeviceState>,
    pub(super) shared: Arc<Shared>,
    pub(super) messages: Receiver<Message>,
    pub(super) bell: EventFd,
    pub(super) kicks: Vec<EventFd>,
}

impl BlkWorkerParts {
    /// The worker, serving `disk`. To be registered with the device thread's event manager.
    pub fn into_worker(self, disk: Disk) -> BlkWorker {
        BlkWorker {
            disk,
            memory: self.memory,
            state: self.state,
            shared: self.shared,
            messages: self.messages,
            bell: Rc::new(self.bell),
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
    disk: Disk,
    memory: Arc<GuestMemoryMmap>,
    state: Arc<DeviceState>,
    shared: Arc<Shared>,
    messages: Receiver<Message>,
    bell: Rc<EventFd>,
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

    /// The disk has another size now: the guest is told.
    pub fn resized(&self) {
        let sectors = self.disk.info().size / layout::SECTOR;
        if self.shared.sectors.swap(sectors, Ordering::AcqRel) != sectors {
            self.state.config_changed();
        }
    }

    fn handle_messages(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::Activate { features, queues } => self.activate(features, &queues),
                Message::Reset => self.start_reset(),
                // Every turn of the bell looks at the rings.
                Message::Wake => {}
            }
        }
        self.finish_reset();
        self.run_all();
    }

    fn activate(&mut self, features: u64, queues: &[Option<QueueState>]) {
        let rings = (0..).zip(queues).map(|(index, layout)| {
            let layout = (*layout)?;
            let memory = Arc::clone(&self.memory);
            let state = Arc::clone(&self.state);
            let ring = Ring::new(
                index,
                layout,
                features,
                memory,
                state,
                Rc::clone(&self.bell),
            );
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
            ring.want_bell();
        }
    }

    /// Completes a reset once the last request has come back; each rings the bell for that.
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
                .for_each(|ring| ring.want_bell());
        }
    }

    fn run_all(&self) {
        for index in 0..self.rings.len() {
            self.run(index);
        }
    }

    /// Serves ring `index`, at most as many requests as it has entries: then others get their
    /// turn, and a kick to itself brings the worker back.
    fn run(&self, index: usize) {
        let may_fetch = !self.stopped && !self.resetting && self.state.bus_master();
        let ring = self.rings.get(index).and_then(Option::as_ref);
        let Some(ring) = ring.filter(|_| may_fetch) else {
            return;
        };
        ring.begin_turn();
        let mut budget = ring.size();
        while budget > 0 {
            match ring.next() {
                Next::Chain(chain) => self.start(ring, chain),
                Next::Empty | Next::Full | Next::Broken => break,
            }
            budget -= 1;
        }
        ring.end_turn();
        if budget == 0 {
            // A counter that is full kicks, too.
            let _ = self.kicks[index].write(1);
        }
    }

    fn start(&self, ring: &Rc<Ring>, chain: Chain) {
        let head = chain.head;
        let Some(incoming) = Incoming::new(chain, &self.memory) else {
            ring.fail(&"a request without a status byte in guest memory");
            return ring.complete(head, 0);
        };
        let reply = Reply {
            ring: Rc::clone(ring),
            head,
            status_at: incoming.status_at,
            ok_len: incoming.in_len.saturating_add(1),
        };
        let fua = !self.shared.writeback.load(Ordering::Acquire);
        let list = |pieces: &Pieces| guest_list(&self.memory, pieces.as_slice());
        match incoming.work(fua, &self.memory, list) {
            Ok(Work::Submit(requests)) => self.submit(requests, fua, reply),
            Ok(Work::Identify(pieces)) => self.identify(&pieces, reply),
            Err(status) => reply.send(status),
        }
    }

    /// Submits `requests` and answers when the last has come back.
    fn submit(&self, requests: Vec<Request>, fua: bool, reply: Reply) {
        let flush_after = fua && requests.iter().any(|request| lacks_fua(request.op));
        let left = Cell::new(requests.len());
        let batch = Rc::new(Batch {
            left,
            status: Cell::new(Status::Ok),
            reply: Cell::new(Some(reply)),
            flush_after: Cell::new(flush_after),
            disk: self.disk.clone(),
        });
        for request in requests {
            let batch = Rc::clone(&batch);
            self.disk
                .submit(request, move |result| batch.ended(&result));
        }
    }

    /// GET_ID: 20 bytes, padded with zeroes (5.2.6).
    fn identify(&self, pieces: &Pieces, mut reply: Reply) {
        let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
        let info = self.disk.info();
        for (to, from) in id.iter_mut().zip(info.serial.bytes()) {
            *to = from;
        }
        let Some(list) = guest_list(&self.memory, pieces.as_slice()) else {
            return reply.send(Status::IoError);
        };
        let len = id.len().min(list.len());
        list.copy_from(0, &id[..len]);
        if len < list.len() {
            reply.ok_len = len as u32;
        }
        reply.send(Status::Ok);
    }
}

/// Whether a change has no flag of its own that makes it durable.
fn lacks_fua(op: Op) -> bool {
    matches!(op, Op::Discard | Op::WriteZeroes { .. })
}

/// Where a request's answer goes.
struct Reply {
    ring: Rc<Ring>,
    head: u16,
    status_at: GuestAddress,
    /// Bytes of the writable part that are written when all goes well, the status included.
    ok_len: u32,
}

impl Reply {
    /// Writes the status byte and gives the chain back.
    fn send(self, status: Status) {
        let written = self.ring.memory().write_obj(status as u8, self.status_at);
        if let Err(error) = written {
            self.ring.fail(&error);
        }
        // Only what is written without a gap from the start counts (2.7.8.2), and a read that has
        // failed may have written anything.
        let len = match status {
            Status::Ok => self.ok_len,
            _ => u32::from(self.ok_len == 1),
        };
        self.ring.complete(self.head, len);
    }
}

/// Requests that one chain has led to.
struct Batch {
    left: Cell<usize>,
    status: Cell<Status>,
    reply: Cell<Option<Reply>>,
    /// Writethrough: what was changed has to be durable before the answer.
    flush_after: Cell<bool>,
    disk: Disk,
}

impl Batch {
    fn ended(self: Rc<Self>, result: &Completion) {
        if let Err(error) = result {
            tracing::debug!(%error, "a guest's request has failed");
            self.status.set(match error {
                IoError::Unsupported { .. } => Status::Unsupported,
                _ => Status::IoError,
            });
        }
        self.left.set(self.left.get() - 1);
        if self.left.get() != 0 {
            return;
        }
        if self.flush_after.take() && self.status.get() == Status::Ok {
            self.left.set(1);
            let batch = Rc::clone(&self);
            self.disk
                .submit(whole_disk_flush(), move |result| batch.ended(&result));
        } else if let Some(reply) = self.reply.take() {
            reply.send(self.status.get());
        }
    }
}

impl MutEventSubscriber for BlkWorker {
    fn init(&mut self, ops: &mut EventOps) {
        let bell = Events::with_data(self.bell.as_ref(), BELL, EventSet::IN);
        let kicks = (0..).zip(&self.kicks);
        let kicks = kicks.map(|(queue, kick)| Events::with_data(kick, queue, EventSet::IN));
        for events in std::iter::once(bell).chain(kicks) {
            if let Err(error) = ops.add(events) {
                tracing::error!(%error, "a virtio-blk eventfd could not be watched");
            }
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        // Reading takes the count back to 0; that there was none is no matter.
        if events.data() == BELL {
            let _ = self.bell.read();
            self.handle_messages();
        } else {
            let queue = events.data() as usize;
            if let Some(kick) = self.kicks.get(queue) {
                let _ = kick.read();
            }
            self.run(queue);
        }
    }
}
