//! The transmission phase of one client: a task that receives, one that sends, and one for every
//! request under way.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use strata_exec::{Executor, Queue, Spawner, sync::WaitQueue};
use strata_storage::nbd::wire::{
    proto::{MAX_PAYLOAD, command},
    stream::{Gone, Reader, Stream},
};

use super::{
    handshake::Terms,
    reply::{Pieces, Question, Style},
    request::{Command, EXTENDED_HEADER_LEN, HEADER_LEN, Header},
    server::{Client, Server},
};

/// Requests of one client under way, or answered and not sent yet, at most.
const MAX_REQUESTS: usize = 64;

/// Bytes that they may take: one request of the maximum size always fits.
const MAX_BYTES: u64 = MAX_PAYLOAD as u64;

/// Bytes that a client has to itself: short requests do not wait for other clients' long ones.
const OWN: u64 = 256 << 10;

/// Replies sent in one go at most.
const REPLIES_AT_ONCE: usize = 16;

pub(super) struct Session {
    server: Rc<Server>,
    client: Rc<Client>,
    stream: Rc<Stream>,
    terms: Terms,
    replies: RefCell<VecDeque<Reply>>,
    requests: Cell<usize>,
    /// Nothing more is received.
    ending: Cell<bool>,
    /// Nothing more can be sent.
    broken: Cell<bool>,
    /// The sending task has ended.
    over: Cell<bool>,
    changed: WaitQueue,
}

/// A request's place among those under way, until its reply has been sent or is not wanted.
struct Permit {
    session: Rc<Session>,
    bytes: u64,
    /// Those of them that the server's clients share.
    shared: u64,
}

struct Reply {
    pieces: Pieces,
    permit: Permit,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let session = &self.session;
        session.requests.set(session.requests.get() - 1);
        let held = &session.client.held;
        held.set(held.get() - self.bytes);
        session.server.give_memory_back(self.shared);
        session.changed.wake_all();
    }
}

/// Serves a client until it leaves or is made to; then every request has ended.
///
/// # Errors
/// Why the connection ended, if not in good order.
pub(super) async fn run(
    server: &Rc<Server>,
    client: &Rc<Client>,
    mut reader: Reader,
    terms: Terms,
) -> Result<(), Gone> {
    let session = Rc::new(Session {
        server: server.clone(),
        client: client.clone(),
        stream: client.stream.clone(),
        terms,
        replies: RefCell::default(),
        requests: Cell::default(),
        ending: Cell::default(),
        broken: Cell::default(),
        over: Cell::default(),
        changed: WaitQueue::default(),
    });
    let exec = server.exec();
    exec.spawn_named(
        Queue::Guest,
        "NBD client: replies",
        session.clone().send_replies(),
    );
    let result = session.receive(exec, client, &mut reader).await;
    session.ending.set(true);
    session.changed.wake_all();
    while !session.over.get() {
        session.changed.wait().await;
    }
    result
}

impl Session {
    /// Receives requests and starts them.
    async fn receive(
        self: &Rc<Self>,
        exec: &Executor,
        client: &Client,
        reader: &mut Reader,
    ) -> Result<(), Gone> {
        let Terms {
            style,
            ref contexts,
            ref export,
        } = self.terms;
        let extended = style == Style::Extended;
        let work = |(session, question, command, payload, permit)| {
            Self::work(session, question, command, payload, permit)
        };
        let requests = Spawner::new(Queue::Guest, work);
        loop {
            // Before the header is read: a client that is not done with its replies has to wait.
            let mut permit = self.permit().await;
            if client.is_closing() {
                return Ok(());
            }
            let header = next_header(reader, extended).await?;
            if header.kind == command::DISC {
                return Ok(());
            }
            let question = Question {
                style,
                cookie: header.cookie,
                offset: header.offset,
            };
            let limits = export.limits(style != Style::Simple, !contexts.is_empty());
            match header.command(&limits, extended) {
                Ok(command) => {
                    permit.add(command.cost(contexts.len())).await;
                    self.stream.expect_bytes(true);
                    let payload = reader.take(header.payload as usize).await?;
                    self.stream.expect_bytes(false);
                    let request = (self.clone(), question, command, payload, permit);
                    requests.spawn(exec, "NBD client: a request", request);
                }
                Err(refusal) => {
                    reader.skip(u64::from(header.payload)).await?;
                    self.answer(question.failed(refusal), permit);
                }
            }
        }
    }

    async fn work(
        self: Rc<Self>,
        question: Question,
        command: Command,
        payload: Vec<u8>,
        permit: Permit,
    ) {
        let Terms {
            export, contexts, ..
        } = &self.terms;
        let result = command.carry_out(export, contexts, &question, payload);
        let pieces = match result.await {
            Ok(pieces) => pieces,
            Err(refusal) => question.failed(refusal),
        };
        self.answer(pieces, permit);
    }

    fn answer(&self, pieces: Pieces, permit: Permit) {
        if !self.broken.get() {
            let reply = Reply { pieces, permit };
            self.replies.borrow_mut().push_back(reply);
            self.changed.wake_all();
        }
    }

    /// Sends replies until the last request has been answered and no other can come.
    async fn send_replies(self: Rc<Self>) {
        loop {
            let count = self.replies.borrow().len().min(REPLIES_AT_ONCE);
            if count > 0 {
                let batch: Vec<_> = self.replies.borrow_mut().drain(..count).collect();
                self.send_batch(batch).await;
            } else if self.ending.get() && self.requests.get() == 0 {
                break;
            } else {
                self.changed.wait().await;
            }
        }
        self.over.set(true);
        self.changed.wake_all();
    }

    async fn send_batch(&self, batch: Vec<Reply>) {
        let (pieces, permits): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|reply| (reply.pieces, reply.permit))
            .unzip();
        let pieces: Pieces = pieces.into_iter().flatten().collect();
        if self.stream.send(&pieces).await.is_err() {
            // The receiving task sees the end, too; requests under way run to theirs.
            self.broken.set(true);
            self.stream.break_off();
            self.replies.take();
        }
        drop(permits);
    }

    /// Waits for a place for a request.
    async fn permit(self: &Rc<Self>) -> Permit {
        while self.requests.get() >= MAX_REQUESTS {
            self.changed.wait().await;
        }
        self.requests.set(self.requests.get() + 1);
        Permit {
            session: self.clone(),
            bytes: 0,
            shared: 0,
        }
    }
}

impl Permit {
    /// Waits until the request may take `bytes` of memory, at most [`MAX_BYTES`]: of what the
    /// client may hold, and then of what the server has.
    async fn add(&mut self, bytes: u64) {
        let session = &self.session;
        let Client { held, most, .. } = &*session.client;
        while held.get() + bytes > MAX_BYTES {
            session.changed.wait().await;
        }
        if held.get() + bytes > OWN {
            // Less than the server has at all.
            self.shared = session.server.take_memory(bytes).await;
        }
        self.bytes = bytes;
        held.set(held.get() + bytes);
        most.set(most.get().max(held.get()));
    }
}

async fn next_header(reader: &mut Reader, extended: bool) -> Result<Header, Gone> {
    let mut bytes = [0; EXTENDED_HEADER_LEN];
    let len = if extended {
        EXTENDED_HEADER_LEN
    } else {
        HEADER_LEN
    };
    reader.fill(&mut bytes[..len]).await?;
    Ok(Header::parse(&bytes[..len])?)
}
