//! A split virtqueue as the worker serves it (virtio 1.2, 2.7).

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::{Arc, atomic::Ordering},
};

use strata_exec::{Executor, PutOff};
use virtio_bindings::{virtio_config::VIRTIO_F_VERSION_1, virtio_ring::*};
use virtio_queue::{DescriptorChain, Error, Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::chain::Chain;

/// Features of the ring and the transport that every device here offers.
pub const RING_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// How a ring reaches those around it, whatever the transport.
pub trait Signal {
    /// Notifies the driver that queue `index` has used buffers.
    fn used(&self, index: u16);
    /// The driver has broken queue `index`: the device needs a reset (virtio 1.2, 2.1.2).
    fn broken(&self, index: u16);
    /// Brings the worker back to its rings.
    fn wake(&self);
}

/// What [`Ring::next`] found.
#[derive(Debug)]
pub enum Next {
    /// A request.
    Chain(Chain),
    /// Nothing more; the driver will kick when there is.
    Empty,
    /// As many requests are in flight as the ring has entries. [`Ring::complete`] will wake the
    /// worker.
    Full,
    /// The driver has broken the ring; the device needs a reset.
    Broken,
}

/// One ring. Shared between the worker and the requests in flight, on one thread.
pub struct Ring {
    index: u16,
    queue: RefCell<Queue>,
    memory: RefCell<Arc<GuestMemoryMmap>>,
    signal: Rc<dyn Signal>,
    in_flight: Cell<u16>,
    /// Nothing more is fetched or returned.
    broken: Cell<bool>,
    /// Signals are held back until the worker's turn ends.
    batching: Cell<bool>,
    unsignalled: Cell<bool>,
    exec: Rc<Executor>,
    /// The executor will signal.
    put_off: Cell<bool>,
    this: Weak<Self>,
    /// The next completion wakes the worker.
    wake_wanted: Cell<bool>,
}

impl Ring {
    /// The ring that the driver has laid out as `state` says; `None` if that is not a ring in the
    /// guest's memory.
    pub fn new(
        index: u16,
        layout: QueueState,
        features: u64,
        memory: Arc<GuestMemoryMmap>,
        signal: Rc<dyn Signal>,
        exec: Rc<Executor>,
    ) -> Option<Rc<Self>> {
        let mut queue = Queue::try_from(layout).ok()?;
        queue.set_event_idx(features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
        queue.is_valid(memory.as_ref()).then(|| {
            Rc::new_cyclic(|this| Self {
                index,
                queue: RefCell::new(queue),
                memory: RefCell::new(memory),
                signal,
                in_flight: Cell::new(0),
                broken: Cell::new(false),
                batching: Cell::new(false),
                unsignalled: Cell::new(false),
                exec,
                put_off: Cell::new(false),
                this: this.clone(),
                wake_wanted: Cell::new(false),
            })
        })
    }

    /// Requests fetched and not completed.
    pub fn in_flight(&self) -> usize {
        usize::from(self.in_flight.get())
    }

    /// Entries in the ring.
    pub fn size(&self) -> u16 {
        self.queue.borrow().size()
    }

    /// The memory that the ring and its buffers lie in.
    pub fn memory(&self) -> Arc<GuestMemoryMmap> {
        self.memory.borrow().clone()
    }

    /// From now on the ring and its buffers are found in `memory`.
    pub fn set_memory(&self, memory: Arc<GuestMemoryMmap>) {
        *self.memory.borrow_mut() = memory;
    }

    /// Where the next request will be fetched from, and the next one be completed to: what a ring
    /// that takes over from this one starts with.
    pub fn position(&self) -> (u16, u16) {
        let queue = self.queue.borrow();
        (queue.next_avail(), queue.next_used())
    }

    /// Fetches the next request. Every chain has to be completed with [`Ring::complete`].
    pub fn next(&self) -> Next {
        if self.broken.get() {
            return Next::Broken;
        }
        if self.in_flight.get() >= self.size() {
            self.wake_wanted.set(true);
            return Next::Full;
        }
        match self.fetch() {
            Ok(Some(chain)) => {
                self.in_flight.set(self.in_flight.get() + 1);
                Next::Chain(chain)
            }
            Ok(None) => Next::Empty,
            Err(error) => {
                self.fail(&error);
                Next::Broken
            }
        }
    }

    /// Takes a chain off the available ring; once there is none, kicks are asked for.
    ///
    /// A chain that appears while they are is found on the second look; if it is gone again, the
    /// driver has taken it back.
    fn fetch(&self) -> Result<Option<Chain>, Error> {
        let mut queue = self.queue.borrow_mut();
        let memory = self.memory();
        let memory = memory.as_ref();
        for _ in 0..2 {
            let size = queue.size();
            if let Some(chain) = queue.iter(memory)?.next() {
                return collect(chain, size).map(Some);
            }
            if !queue.enable_notification(memory)? {
                return Ok(None);
            }
        }
        Err(Error::InvalidAvailRingIndex)
    }

    /// Gives the chain `head` back; `len` bytes were written from the start of its writable part
    /// on.
    pub fn complete(&self, head: u16, len: u32) {
        self.in_flight.set(self.in_flight.get() - 1);
        if !self.broken.get() {
            let added = self
                .queue
                .borrow_mut()
                .add_used(self.memory().as_ref(), head, len);
            match added {
                Ok(()) => self.unsignalled.set(true),
                Err(error) => self.fail(&error),
            }
            if !self.batching.get() && !self.put_off() {
                self.signal_used();
            }
        }
        if self.wake_wanted.take() {
            self.signal.wake();
        }
    }

    /// Whether the driver is signalled once the executor has polled what is ready: then requests
    /// that end in the same turn lead to one interrupt.
    fn put_off(&self) -> bool {
        if !self.put_off.get() {
            let this = self.this.upgrade();
            let put_off = this.is_some_and(|this| self.exec.put_off(this));
            self.put_off.set(put_off);
        }
        self.put_off.get()
    }

    /// The next completion is to wake the worker.
    pub fn want_wake(&self) {
        self.wake_wanted.set(true);
    }

    /// Holds signals back, and asks the driver not to kick meanwhile.
    pub fn begin_turn(&self) {
        self.batching.set(true);
        let disabled = self
            .queue
            .borrow_mut()
            .disable_notification(self.memory().as_ref());
        if let Err(error) = disabled {
            self.fail(&error);
        }
    }

    /// Signals what has been held back.
    pub fn end_turn(&self) {
        self.batching.set(false);
        self.signal_used();
    }

    /// Signals the driver if it wants to know of what was used since the last time (2.7.7.2).
    fn signal_used(&self) {
        if !self.unsignalled.take() {
            return;
        }
        match self.wants_signal() {
            Ok(true) => self.signal.used(self.index),
            Ok(false) => {}
            Err(error) => self.fail(&error),
        }
    }

    fn wants_signal(&self) -> Result<bool, Error> {
        let mut queue = self.queue.borrow_mut();
        let memory = self.memory();
        let memory = memory.as_ref();
        let wanted = queue.needs_notification(memory)?;
        if queue.event_idx_enabled() {
            return Ok(wanted);
        }
        let flags: u16 = memory
            .load(GuestAddress(queue.avail_ring()), Ordering::Relaxed)
            .map_err(Error::GuestMemory)?;
        Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Stops using the ring for good: the driver has to reset the device.
    pub fn fail(&self, why: &dyn std::fmt::Display) {
        if !self.broken.replace(true) {
            tracing::warn!(queue = self.index, %why, "broken virtqueue: the device needs a reset");
            self.signal.broken(self.index);
        }
    }
}

impl PutOff for Ring {
    fn carry_out(&self) {
        self.put_off.set(false);
        self.signal_used();
    }
}

/// Copies a chain's descriptors. A chain that ends early (a loop, an index or a table outside, a
/// nested table, more than 4 GiB), is longer than the ring, or goes back from writable to readable
/// is no chain (2.7.5).
fn collect(descriptors: DescriptorChain<&GuestMemoryMmap>, size: u16) -> Result<Chain, Error> {
    let mut chain = Chain {
        head: descriptors.head_index(),
        ..Chain::default()
    };
    let mut count = 0;
    let mut more = true;
    for descriptor in descriptors {
        count += 1;
        if descriptor.is_write_only() {
            chain.writable.push(descriptor.addr(), descriptor.len());
        } else if chain.writable.is_empty() {
            chain.readable.push(descriptor.addr(), descriptor.len());
        } else {
            return Err(Error::InvalidChain);
        }
        more = descriptor.has_next();
        if count == size {
            break;
        }
    }
    // The iterator just ends when it meets something invalid: then the last descriptor it gave
    // still announces another one.
    if more || chain.head >= size {
        return Err(Error::InvalidChain);
    }
    Ok(chain)
}
