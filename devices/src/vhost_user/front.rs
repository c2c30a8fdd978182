//! The answers to the front end's messages, on the library's threads.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::channel,
    },
};

use rustix::event::{EventfdFlags, eventfd};
use strata_block::disk::DiskInfo;
use strata_exec::inbox::Sender;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringMutex, VringT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::{
    epoll::EventSet,
    event::{EventConsumer, EventNotifier},
};

use super::{message::Message, missing, wait};
use crate::virtio::blk::{
    QUEUE_SIZE,
    front::{Shared, offered},
};

/// The event that ends the thread on which kicks arrive: no queue has this number.
pub const END: u64 = u16::MAX as u64;

/// One export's side of the conversation; the same for all its connections.
pub struct Front {
    info: DiskInfo,
    queues: u16,
    shared: Arc<Shared>,
    sender: Sender<Message>,
    features: AtomicU64,
    /// For each queue, whether a kick waits for the worker already: a driver may kick without end.
    kicks: Vec<Arc<AtomicBool>>,
    /// Readable when a part of the front end's memory is missing.
    lost: Arc<OwnedFd>,
    /// What has been kicked since the front end came.
    vrings: Mutex<Vec<VringMutex>>,
}

impl Front {
    /// For the disk that `info` describes.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn new(
        info: DiskInfo,
        queues: u16,
        shared: Arc<Shared>,
        sender: Sender<Message>,
    ) -> io::Result<Arc<Self>> {
        let lost = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self {
            lost: Arc::new(lost),
            info,
            queues,
            shared,
            sender,
            features: AtomicU64::new(0),
            kicks: (0..queues).map(|_| Arc::default()).collect(),
            vrings: Mutex::default(),
        }))
    }

    /// Drains and forgets all rings: as before the front end came.
    pub fn reset(&self) {
        let (done, answer) = channel();
        self.sender.send(Message::Reset(done));
        wait(&answer);
        self.vrings().clear();
        self.shared.reset();
        self.features.store(0, Ordering::Release);
    }

    /// Readable when a part of the front end's memory is missing; with `again`, only if another one
    /// is from now on.
    pub fn lost(&self, again: bool) -> &OwnedFd {
        if again {
            // That there was nothing to read is as well.
            let _ = rustix::io::read(&self.lost, &mut [0; 8]);
        }
        &self.lost
    }

    fn vrings(&self) -> std::sync::MutexGuard<'_, Vec<VringMutex>> {
        self.vrings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VhostUserBackend for Front {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        usize::from(self.queues)
    }

    fn max_queue_size(&self) -> usize {
        usize::from(QUEUE_SIZE)
    }

    fn features(&self) -> u64 {
        offered(&self.info, self.queues) | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn acked_features(&self, features: u64) {
        self.features.store(features, Ordering::Release);
        self.shared.negotiated(features);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn reset_device(&self) {
        self.reset();
    }

    /// Read from the features when a ring is started.
    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        // The library lets nobody ask for more than 4 KiB.
        let mut data = vec![0; size as usize];
        self.shared
            .read_config(&self.info, self.queues, u64::from(offset), &mut data);
        data
    }

    fn set_config(&self, offset: u32, data: &[u8]) -> io::Result<()> {
        let features = self.features.load(Ordering::Acquire);
        self.shared.write_config(features, u64::from(offset), data);
        Ok(())
    }

    fn update_memory(&self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
        let (done, answer) = channel();
        let memory = memory.memory().into_inner();
        missing::watch(&memory, &self.lost)?;
        self.sender.send(Message::Memory(memory, done));
        wait(&answer);
        Ok(())
    }

    /// One thread for all rings: it only passes kicks on.
    fn queues_per_thread(&self) -> Vec<u64> {
        vec![u64::MAX]
    }

    /// The library (`vhost-user-backend` 0.24) never closes the descriptor that it gets here. So
    /// the thread ends by [`END`].
    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        None
    }

    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        let queue = u16::try_from(queue).unwrap_or(u16::MAX);
        let (position, answer) = channel();
        self.sender.send(Message::Stop { queue, position });
        let vring = self.vrings().get(usize::from(queue)).cloned();
        if let Some((available, used)) = wait(&answer)
            && let Some(vring) = vring
        {
            vring.set_queue_next_avail(available);
            vring.set_queue_next_used(used);
        }
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        _set: EventSet,
        vrings: &[VringMutex],
        _thread: usize,
    ) -> io::Result<()> {
        if u64::from(event) == END {
            return Err(io::Error::other("the session is over"));
        }
        let index = usize::from(event);
        let (Some(vring), Some(waiting)) = (vrings.get(index), self.kicks.get(index)) else {
            return Ok(());
        };
        {
            let mut known = self.vrings();
            if known.len() != vrings.len() {
                *known = vrings.to_vec();
            }
        }
        if !waiting.swap(true, Ordering::AcqRel) {
            self.sender.send(Message::Kick {
                queue: event,
                vring: vring.clone(),
                features: self.features.load(Ordering::Acquire),
                waiting: waiting.clone(),
            });
        }
        Ok(())
    }
}
