//! From a ring to the disk and back: what is the same for every transport.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use strata_block::disk::{Completion, Disk, Op, Request};
use strata_storage::error::IoError;
use virtio_bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;
use vm_memory::{Bytes, GuestAddress};

use super::{
    front::Shared,
    layout::MAX_SEGMENT,
    request::{Incoming, Status, Work, whole_disk_flush},
};
use crate::{
    guest_memory::guest_list,
    virtio::{
        chain::{Chain, Pieces},
        ring::{Next, Ring},
    },
};

/// Carries out what the chains of rings ask of a disk.
pub struct Service {
    pub disk: Disk,
    pub shared: Arc<Shared>,
}

impl Service {
    /// Starts at most as many requests as `ring` has entries: then others get their turn. Says
    /// whether there may be more.
    pub fn turn(&self, ring: &Rc<Ring>) -> bool {
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
        budget == 0
    }

    fn start(&self, ring: &Rc<Ring>, chain: Chain) {
        let head = chain.head;
        let memory = ring.memory();
        let Some(incoming) = Incoming::new(chain, &memory) else {
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
        let list = |pieces: &Pieces| guest_list(&memory, pieces.as_slice());
        let bounded = self.shared.knows_size_max.load(Ordering::Acquire);
        let most = if bounded { MAX_SEGMENT } else { u32::MAX };
        match incoming.work(fua, most, &memory, list) {
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
        let Some(list) = guest_list(&reply.ring.memory(), pieces.as_slice()) else {
            return reply.send(Status::IoError);
        };
        let len = id.len().min(list.len());
        list.copy_from(0, &id[..len]);
        if len < list.len() {
            reply.ok_len = u32::try_from(len).expect("an id has 20 bytes");
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
