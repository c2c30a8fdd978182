//! One connection in the transmission phase: requests out, replies in, matched by their cookies.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use strata_exec::{
    mem::{SgList, to_usize},
    sync::{Lock, WaitQueue},
};
use zerocopy::{FromBytes, IntoBytes};

use super::{greet::Facts, unflushed::Unflushed};
use crate::nbd::wire::{
    proto::{
        Allocation, ChunkHeader, CommandFlags, REPLY_DONE, REQUEST_MAGIC, RequestStart,
        SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, SimpleReply, chunk, command,
    },
    stream::{Gone, Reader, Stream, Violation},
};

/// Bytes that are received before they are copied to where they belong.
const STEP: usize = 256 << 10;

/// Bytes of a chunk other than data at most.
const MAX_CHUNK: u32 = 64 << 10;

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// A command of the protocol.
    pub kind: u16,
    pub flags: CommandFlags,
    pub offset: u64,
    pub len: u32,
    /// What is written, or where to what is read goes; empty for other commands.
    pub data: SgList,
}

impl Call {
    /// Whether it changes what the export holds.
    pub fn is_change(&self) -> bool {
        matches!(self.kind, command::WRITE | command::WRITE_ZEROES)
    }

    /// The same with data of its own, so that it can be sent again when the guest has gone on.
    pub fn owned(self) -> Self {
        let data = SgList::from_vec(self.data.to_vec());
        Self { data, ..self }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// The server says so, with one of the protocol's error numbers.
    Failed(u32),
    /// The connection ended before the reply had come.
    Lost,
}

pub(super) struct Connection {
    pub facts: Facts,
    stream: Rc<Stream>,
    pending: RefCell<HashMap<u64, Rc<Pending>>>,
    next_cookie: Cell<u64>,
    /// Held while a request is being sent: its header and its payload belong together.
    sending: Lock,
    over: Cell<bool>,
    /// Where what has changed the export is kept; `None` where flushes mean nothing.
    unflushed: Option<Rc<Unflushed>>,
}

/// A request that waits for its reply.
struct Pending {
    call: Call,
    /// Bytes that have come.
    covered: Cell<u64>,
    error: Cell<Option<u32>>,
    /// Length and flags of the first extent.
    status: Cell<Option<(u32, u32)>>,
    outcome: Cell<Option<Outcome>>,
    ended: WaitQueue,
}

impl Connection {
    /// A connection past its handshake.
    pub fn new(stream: Rc<Stream>, facts: Facts, unflushed: Option<Rc<Unflushed>>) -> Rc<Self> {
        Rc::new(Self {
            facts,
            stream,
            pending: RefCell::default(),
            next_cookie: Cell::new(1),
            sending: Lock::default(),
            over: Cell::new(false),
            unflushed,
        })
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Sends a request and waits for its reply; the status too, for `BLOCK_STATUS`.
    pub async fn call(&self, call: Call) -> (Outcome, Option<(u32, u32)>) {
        let cookie = self.next_cookie.get();
        self.next_cookie.set(cookie + 1);
        let pending = Rc::new(Pending {
            call,
            covered: Cell::default(),
            error: Cell::default(),
            status: Cell::default(),
            outcome: Cell::default(),
            ended: WaitQueue::default(),
        });
        if self.over.get() {
            return (Outcome::Lost, None);
        }
        self.pending.borrow_mut().insert(cookie, pending.clone());
        let mut pieces = vec![header(cookie, &pending.call)];
        if pending.call.kind == command::WRITE {
            pieces.push(pending.call.data.to_vec());
        }
        let sending = self.sending.lock().await;
        let sent = self.stream.send(&pieces).await;
        drop(sending);
        if sent.is_err() {
            // The receiving task ends, too, and wakes all that wait.
            self.stream.break_off();
        }
        loop {
            if let Some(outcome) = pending.outcome.get() {
                return (outcome, pending.status.get());
            }
            pending.ended.wait().await;
        }
    }

    /// Receives replies until the connection ends; then every request that waits is lost.
    pub async fn receive(&self, mut reader: Reader) -> Gone {
        let why = loop {
            if let Err(gone) = self.next_reply(&mut reader).await {
                break gone;
            }
        };
        self.over.set(true);
        self.stream.break_off();
        for (_, pending) in self.pending.take() {
            pending.end(Outcome::Lost);
        }
        why
    }

    /// Leaves, in order if the socket takes that at once.
    pub fn leave(&self) {
        let call = Call {
            kind: command::DISC,
            flags: CommandFlags::empty(),
            offset: 0,
            len: 0,
            data: SgList::empty(),
        };
        if !self.sending.is_held() {
            self.stream.try_send(&header(0, &call));
        }
        self.stream.break_off();
    }

    async fn next_reply(&self, reader: &mut Reader) -> Result<(), Gone> {
        let mut magic = [0; 4];
        reader.fill(&mut magic).await?;
        match u32::from_be_bytes(magic) {
            SIMPLE_REPLY_MAGIC => self.simple(reader).await,
            STRUCTURED_REPLY_MAGIC if self.facts.structured => self.chunk(reader).await,
            _ => Err(Violation("a reply with a wrong magic number").into()),
        }
    }

    async fn simple(&self, reader: &mut Reader) -> Result<(), Gone> {
        let mut bytes = [0; size_of::<SimpleReply>()];
        reader.fill(&mut bytes[4..]).await?;
        let bad = Violation("a malformed reply");
        let reply = SimpleReply::read_from_bytes(&bytes).map_err(|_| bad)?;
        let pending = self.find(reply.cookie.get())?;
        let (error, call) = (reply.error.get(), &pending.call);
        if call.kind == command::READ && error == 0 {
            if self.facts.structured {
                return Err(Violation("a simple reply to a read").into());
            }
            receive_data(reader, &pending, 0, call.data.len()).await?;
        }
        pending.error.set(Some(error).filter(|error| *error != 0));
        self.finish(reply.cookie.get(), &pending)
    }

    async fn chunk(&self, reader: &mut Reader) -> Result<(), Gone> {
        let mut bytes = [0; size_of::<ChunkHeader>()];
        reader.fill(&mut bytes[4..]).await?;
        let bad = Violation("a malformed chunk");
        let header = ChunkHeader::read_from_bytes(&bytes).map_err(|_| bad)?;
        let (kind, len) = (header.kind.get(), header.len.get());
        let pending = self.find(header.cookie.get())?;
        match kind {
            chunk::NONE if len == 0 => {}
            chunk::OFFSET_DATA if len > 8 => {
                let (at, len) = pending.place(offset(reader).await?, len - 8)?;
                receive_data(reader, &pending, at, len).await?;
            }
            chunk::OFFSET_HOLE if len == 12 => {
                let offset = offset(reader).await?;
                let mut hole = [0; 4];
                reader.fill(&mut hole).await?;
                let (at, len) = pending.place(offset, u32::from_be_bytes(hole))?;
                pending.call.data.fill(at, len, 0);
                pending.cover(len);
            }
            chunk::BLOCK_STATUS if (12..=MAX_CHUNK).contains(&len) => {
                let data = reader.take(len as usize).await?;
                pending.note_status(&data, self.facts.allocation);
            }
            // Any error, also of a kind that we do not know.
            _ if kind >= chunk::ERROR_BIT && (6..=MAX_CHUNK).contains(&len) => {
                let data = reader.take(len as usize).await?;
                let number = u32::from_be_bytes([data[0], data[1], data[2], data[3]]);
                pending.error.set(Some(number));
            }
            _ => return Err(bad.into()),
        }
        if header.flags.get() & REPLY_DONE != 0 {
            return self.finish(header.cookie.get(), &pending);
        }
        Ok(())
    }

    fn find(&self, cookie: u64) -> Result<Rc<Pending>, Violation> {
        let pending = self.pending.borrow().get(&cookie).cloned();
        pending.ok_or(Violation("a reply to nothing that was asked"))
    }

    fn finish(&self, cookie: u64, pending: &Pending) -> Result<(), Gone> {
        let is_read = pending.call.kind == command::READ;
        let outcome = match pending.error.get() {
            Some(error) => Outcome::Failed(error),
            None if is_read && pending.covered.get() != u64::from(pending.call.len) => {
                return Err(Violation("a read that was not answered as a whole").into());
            }
            None => Outcome::Done,
        };
        self.pending.borrow_mut().remove(&cookie);
        if let (Some(unflushed), Outcome::Done) = (&self.unflushed, outcome)
            && pending.call.is_change()
        {
            unflushed.add(pending.call.clone());
        }
        pending.end(outcome);
        Ok(())
    }
}

impl Pending {
    fn end(&self, outcome: Outcome) {
        self.outcome.set(Some(outcome));
        self.ended.wake_all();
    }

    /// Where in the data a part of the export goes.
    fn place(&self, offset: u64, len: u32) -> Result<(usize, usize), Violation> {
        let start = offset.checked_sub(self.call.offset);
        let end = start.and_then(|start| start.checked_add(len.into()));
        match (start, end) {
            (Some(start), Some(end))
                if self.call.kind == command::READ && end <= self.call.data.len() as u64 =>
            {
                Ok((to_usize(start), len as usize))
            }
            _ => Err(Violation("a part of something that was not asked for")),
        }
    }

    fn cover(&self, len: usize) {
        self.covered.set(self.covered.get() + len as u64);
    }

    fn note_status(&self, data: &[u8], context: Option<u32>) {
        let word = |at: usize| {
            let bytes = data.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_be_bytes)
        };
        if context.is_some() && word(0) == context {
            self.status.set(word(4).zip(word(8)));
        }
    }
}

/// Whether flags of `base:allocation` say that a range reads as zeros.
pub(super) fn says_zero(flags: u32) -> bool {
    Allocation::from_bits_retain(flags).contains(Allocation::ZERO)
}

async fn offset(reader: &mut Reader) -> Result<u64, Gone> {
    let mut bytes = [0; 8];
    reader.fill(&mut bytes).await?;
    Ok(u64::from_be_bytes(bytes))
}

async fn receive_data(
    reader: &mut Reader,
    pending: &Pending,
    at: usize,
    len: usize,
) -> Result<(), Gone> {
    let mut buffer = vec![0; len.min(STEP)];
    let mut done = 0;
    while done < len {
        let part = &mut buffer[..(len - done).min(STEP)];
        reader.fill(part).await?;
        pending.call.data.copy_from(at + done, part);
        done += part.len();
    }
    pending.cover(len);
    Ok(())
}

fn header(cookie: u64, call: &Call) -> Vec<u8> {
    let start = RequestStart {
        magic: REQUEST_MAGIC.into(),
        flags: call.flags.bits().into(),
        kind: call.kind.into(),
        cookie: cookie.into(),
        offset: call.offset.into(),
    };
    [start.as_bytes(), &call.len.to_be_bytes()].concat()
}
