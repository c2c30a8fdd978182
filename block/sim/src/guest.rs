//! Guests: random requests, several in flight, and what the model learns of them.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use strata_exec::{mem::SgList, random};
use strata_graph::disk::{Completion, Disk, Op, Request};
use strata_storage::error::IoError;

use super::{
    journal::Journal,
    model::{Kind, Model, SECTOR, Sent, pattern},
};

/// Which errors a guest may see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allowed {
    Nothing,
    NoSpace,
    Anything,
}

impl Allowed {
    pub fn check(self, error: &IoError) {
        match (self, error) {
            (Self::Anything, _) | (Self::NoSpace, IoError::NoSpace { .. }) => {}
            _ => panic!("a request failed: {error}"),
        }
    }
}

/// Who else looks on.
pub enum Watch {
    /// Nobody: the files are this process's own.
    Nobody,
    /// A journal of what is sent and what is acknowledged, for who outlives this process.
    Journal(Journal),
}

impl Watch {
    fn sent(&self, kind: Kind, offset: u64, len: u64) {
        if let Self::Journal(journal) = self {
            journal.sent(kind, offset, len);
        }
    }

    fn completed(&self, sent: Sent) {
        if let Self::Journal(journal) = self {
            journal.completed(sent);
        }
    }

    fn refused(&self, sent: Sent) {
        if let Self::Journal(journal) = self {
            journal.refused(sent);
        }
    }

    fn durable(&self, sent: Sent) {
        if let Self::Journal(journal) = self {
            journal.durable(sent);
        }
    }

    fn flushing(&self, number: u64) {
        if let Self::Journal(journal) = self {
            journal.flushing(number);
        }
    }

    fn flushed(&self, number: u64) {
        if let Self::Journal(journal) = self {
            journal.flushed(number);
        }
    }
}

/// What guests share: the disk, the model, and how many requests they still send.
pub struct Load {
    pub disk: Disk,
    pub watch: Watch,
    pub model: Rc<RefCell<Model>>,
    pub allowed: Rc<Cell<Allowed>>,
    /// Flushes sent, and other moments at which a crash is worth trying.
    pub marks: Rc<Cell<u64>>,
    /// Where most requests go: so that they meet.
    pub spots: Rc<Vec<u64>>,
    /// Sectors of the longest request, as a power of two.
    pub longest: u64,
    pub left: Cell<u64>,
}

/// Sends one random request after the other.
pub struct Guest {
    pub load: Rc<Load>,
    pub random: Cell<u64>,
}

impl Guest {
    fn random(&self, below: u64) -> u64 {
        let mut state = self.random.get();
        let value = random::next(&mut state);
        self.random.set(state);
        value % below
    }

    pub fn next(self: Rc<Self>) {
        let Some(left) = self.load.left.get().checked_sub(1) else {
            return;
        };
        self.load.left.set(left);
        let sectors = self.load.disk.info().size / SECTOR;
        let start = if self.random(5) == 0 {
            self.random(sectors)
        } else {
            let spot = self.load.spots[self.random(self.load.spots.len() as u64) as usize];
            (spot / SECTOR + self.random(64)) % sectors
        };
        let count = 1 + self.random(1 << self.random(self.load.longest + 1));
        let count = count.min(sectors - start);
        let (offset, len) = (start * SECTOR, count * SECTOR);
        match self.random(20) {
            0..8 => self.write(offset, len),
            8 => self.write_zeros(offset, len),
            9..12 => self.read(offset, len),
            12..14 => self.zero(offset, len),
            14..16 => self.discard(offset, len),
            _ => self.flush(),
        }
    }

    fn submit(
        self: Rc<Self>,
        op: Op,
        offset: u64,
        len: u64,
        data: SgList,
        end: impl FnOnce(&mut Model, Completion) + 'static,
    ) {
        let disk = self.load.disk.clone();
        let request = Request {
            op,
            offset,
            len,
            data,
        };
        disk.submit(request, move |result| {
            // The disk may have become smaller while the request waited.
            let size = self.load.disk.info().size;
            let beyond = matches!(&result, Err(IoError::OutOfRange)) && offset + len > size;
            if let Err(error) = &result
                && !beyond
            {
                self.load.allowed.get().check(error);
            }
            end(&mut self.load.model.borrow_mut(), result);
            self.next();
        });
    }

    fn write(self: Rc<Self>, offset: u64, len: u64) {
        let fua = self.random(8) == 0;
        let sent = self.send(Kind::Filled, offset, len);
        // Aligned as a guest's memory is, or a kill could tear a sector (see `SgList::zeroed`).
        let data = SgList::zeroed(len as usize);
        data.copy_from(0, &pattern(sent.number, len));
        self.change(sent, Op::Write { fua }, offset, len, data);
    }

    fn write_zeros(self: Rc<Self>, offset: u64, len: u64) {
        let sent = self.send(Kind::Zeros, offset, len);
        let data = SgList::zeroed(len as usize);
        self.change(sent, Op::Write { fua: false }, offset, len, data);
    }

    fn zero(self: Rc<Self>, offset: u64, len: u64) {
        let unmap = self.random(2) == 0;
        let sent = self.send(Kind::Zeros, offset, len);
        self.change(
            sent,
            Op::WriteZeroes { unmap },
            offset,
            len,
            SgList::empty(),
        );
    }

    fn discard(self: Rc<Self>, offset: u64, len: u64) {
        let sent = self.send(Kind::Discarded, offset, len);
        self.change(sent, Op::Discard, offset, len, SgList::empty());
    }

    fn send(&self, kind: Kind, offset: u64, len: u64) -> Sent {
        self.load.watch.sent(kind, offset, len);
        self.load.model.borrow_mut().send(kind, offset, len)
    }

    fn change(self: Rc<Self>, sent: Sent, op: Op, offset: u64, len: u64, data: SgList) {
        let load = self.load.clone();
        self.submit(op, offset, len, data, move |model, result| {
            match result {
                Ok(()) => {}
                Err(IoError::OutOfRange) => {
                    load.watch.refused(sent);
                    return model.refused(sent);
                }
                Err(_) => return model.failed(sent),
            }
            load.watch.completed(sent);
            model.complete(sent);
            if op == (Op::Write { fua: true }) {
                load.watch.durable(sent);
                model.durable(sent);
            }
        });
    }

    fn read(self: Rc<Self>, offset: u64, len: u64) {
        let before = self.load.model.borrow_mut().before_read(offset, len);
        let data = SgList::zeroed(len as usize);
        self.submit(Op::Read, offset, len, data.clone(), move |model, result| {
            if result.is_ok() {
                model.check(&before, &data.to_vec());
            }
        });
    }

    fn flush(self: Rc<Self>) {
        self.load.marks.set(self.load.marks.get() + 1);
        let started = self.load.model.borrow_mut().now();
        self.load.watch.flushing(started);
        let load = self.load.clone();
        self.submit(Op::Flush, 0, 0, SgList::empty(), move |model, result| {
            if result.is_ok() {
                load.watch.flushed(started);
                model.flushed(started);
            }
        });
    }
}
