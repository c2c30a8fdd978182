//! A link to an export: a connection that is made again when it is lost.

use std::{
    cell::RefCell,
    io,
    path::PathBuf,
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use strata_exec::{
    Executor, Helpers, Queue,
    mem::SgList,
    sync::{Lock, WaitQueue},
};

use super::{
    connection::{Call, Connection, Outcome},
    greet::{ConnectError, Facts, connect},
    unflushed::Unflushed,
    uri::Uri,
};
use crate::{
    error::{IoError, IoResult, NoRoom},
    lost::Lost,
    nbd::wire::{
        proto::{CommandFlags, Transmission, command},
        stream::Reader,
    },
};

/// Pauses between attempts to connect: from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub(super) struct Link {
    exec: Rc<Executor>,
    uri: Uri,
    /// The URI as it was given, for messages.
    name: PathBuf,
    /// As at the first connection: what comes back has to be the same.
    expected: Facts,
    /// How long requests wait for the server to come back.
    patience: Duration,
    state: RefCell<State>,
    changed: WaitQueue,
    /// What has to be sent again to a server that comes back; `None` where flushes mean nothing.
    unflushed: Option<Rc<Unflushed>>,
    /// Held by who makes room there.
    relieving: Lock,
    lost: Lost,
}

enum State {
    Up(Rc<Connection>),
    Down { since: Instant, why: String },
}

impl Link {
    /// Connects once. With `keeps`, what a server that goes away could lose is sent to it again
    /// when it is back.
    ///
    /// # Errors
    /// Why that could not be.
    pub async fn open(
        exec: &Rc<Executor>,
        uri: Uri,
        name: PathBuf,
        patience: Duration,
        keeps: bool,
    ) -> Result<Rc<Self>, ConnectError> {
        let (stream, reader, facts) = connect(exec, &uri).await?;
        let keeps = keeps && facts.flags.contains(Transmission::SEND_FLUSH);
        let unflushed = keeps.then(Rc::default);
        let connection = Connection::new(stream, facts.clone(), unflushed.clone());
        let link = Rc::new(Self {
            exec: exec.clone(),
            uri,
            name,
            expected: facts,
            patience,
            state: RefCell::new(State::Up(connection.clone())),
            changed: WaitQueue::default(),
            unflushed,
            relieving: Lock::default(),
            lost: Lost::default(),
        });
        link.attend(connection, reader);
        Ok(link)
    }

    /// What the server said of its export.
    pub fn facts(&self) -> &Facts {
        &self.expected
    }

    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    pub fn helpers(&self) -> &Rc<Helpers> {
        self.exec.helpers()
    }

    /// Carries out a request, again if the connection is lost meanwhile.
    ///
    /// # Errors
    /// What the server says, or that it did not come back in time.
    pub async fn call(&self, what: &'static str, call: Call) -> IoResult<Option<(u32, u32)>> {
        if !call.is_change() || self.unflushed.is_none() {
            return self.carry_out(what, call).await;
        }
        let call = call.owned();
        self.relieve().await?;
        self.carry_out(what, call).await
    }

    /// Has the server make durable all that it has acknowledged.
    ///
    /// # Errors
    /// It could not, now or before ([`IoError::Lost`]), or it did not come back in time.
    pub async fn flush(&self) -> IoResult<()> {
        self.lost.check()?;
        let call = Call {
            kind: command::FLUSH,
            flags: CommandFlags::empty(),
            offset: 0,
            len: 0,
            data: SgList::empty(),
        };
        self.carry_out("flush", call).await?;
        self.lost.check()
    }

    /// Sees to it that there is room for what the server may still lose.
    async fn relieve(&self) -> IoResult<()> {
        let is_full = || self.unflushed.as_ref().is_some_and(|kept| kept.is_full());
        if !is_full() {
            return Ok(());
        }
        let _held = self.relieving.lock().await;
        match self.flush().await {
            // The next flush reports it. There is nothing to be kept any more.
            Err(IoError::Lost { .. }) => {
                self.forget_all();
                Ok(())
            }
            result if is_full() => result,
            _ => Ok(()),
        }
    }

    fn forget_all(&self) {
        if let Some(unflushed) = &self.unflushed {
            unflushed.forget(unflushed.count());
        }
    }

    async fn carry_out(&self, what: &'static str, call: Call) -> IoResult<Option<(u32, u32)>> {
        let mut first_loss = None;
        loop {
            let connection = self.connection(what, call.offset, first_loss).await?;
            let covered = self.unflushed.as_ref().map(|kept| kept.count());
            match connection.call(call.clone()).await {
                (Outcome::Done, status) => {
                    if let (Some(unflushed), Some(covered)) = (&self.unflushed, covered)
                        && call.kind == command::FLUSH
                    {
                        unflushed.forget(covered);
                    }
                    return Ok(status);
                }
                (Outcome::Failed(errno), _)
                    if call.kind == command::FLUSH && !is_leaving(errno) =>
                {
                    return self.flush_refused(errno).map(|()| None);
                }
                (Outcome::Failed(errno), _) => return Err(self.refused(what, &call, errno)),
                (Outcome::Lost, _) => {
                    first_loss.get_or_insert_with(Instant::now);
                    tracing::debug!(export = %self.name.display(), what, "asking again");
                }
            }
        }
    }

    /// The server may have lost what it had acknowledged.
    fn flush_refused(&self, errno: u32) -> IoResult<()> {
        let errno = i32::try_from(errno).unwrap_or(libc::EIO);
        let error = io::Error::from_raw_os_error(errno);
        self.lost.note(&self.name, Err(error))
    }

    /// Waits for a connection.
    async fn connection(
        &self,
        what: &'static str,
        offset: u64,
        first_loss: Option<Instant>,
    ) -> IoResult<Rc<Connection>> {
        loop {
            let now = Instant::now();
            let given_up =
                |since: Instant| now >= since + self.patience || self.exec.has_given_up();
            match &*self.state.borrow() {
                State::Down { since, why } if given_up(*since) => {
                    return Err(self.failed(what, offset, why));
                }
                // A server that answers nothing but drops the connection each time.
                State::Up(_) if first_loss.is_some_and(given_up) => {
                    return Err(self.failed(what, offset, "the connection is lost each time"));
                }
                State::Up(connection) => return Ok(connection.clone()),
                State::Down { .. } => {}
            }
            self.changed.wait().await;
        }
    }

    /// Receives from `connection` on a task of its own.
    fn attend(self: &Rc<Self>, connection: Rc<Connection>, reader: Reader) {
        let link = Rc::downgrade(self);
        self.exec
            .spawn_named(Queue::Guest, "NBD: replies of a server", async move {
                let why = connection.receive(reader).await;
                // One that is not in use yet is looked after by who has made it.
                if let Some(link) = link.upgrade().filter(|link| link.uses(&connection)) {
                    link.lost(why.to_string());
                }
            });
    }

    fn uses(&self, connection: &Rc<Connection>) -> bool {
        matches!(&*self.state.borrow(), State::Up(used) if Rc::ptr_eq(used, connection))
    }

    fn lost(self: &Rc<Self>, why: String) {
        let (name, since) = (self.name.display(), Instant::now());
        tracing::warn!(export = %name, %why, "the connection to an NBD server is lost");
        *self.state.borrow_mut() = State::Down { since, why };
        let (exec, link, end) = (
            self.exec.clone(),
            Rc::downgrade(self),
            since + self.patience,
        );
        self.exec.spawn_named(
            Queue::Guest,
            "NBD: reconnecting",
            reconnect(exec.clone(), link.clone()),
        );
        // Those who wait have to look again when their patience ends.
        self.exec
            .spawn_named(Queue::Guest, "NBD: patience with a server", async move {
                exec.wait_for_peer_until(end).await;
                if let Some(link) = link.upgrade() {
                    link.changed.wake_all();
                }
            });
    }

    /// Tries to connect; whether the link is up again.
    async fn try_again(self: &Rc<Self>) -> bool {
        let why = match connect(&self.exec, &self.uri).await {
            Ok((stream, reader, facts)) => match self.mismatch(&facts) {
                None => {
                    let connection = Connection::new(stream, facts, self.unflushed.clone());
                    self.attend(connection.clone(), reader);
                    self.send_again(&connection).await;
                    if !connection.is_over() {
                        *self.state.borrow_mut() = State::Up(connection);
                        self.changed.wake_all();
                        tracing::warn!(export = %self.name.display(), "the NBD server is back");
                        return true;
                    }
                    "the connection was lost again".to_owned()
                }
                Some(why) => {
                    tracing::error!(export = %self.name.display(), %why, "not used again");
                    stream.break_off();
                    why
                }
            },
            Err(error) => error.to_string(),
        };
        if let State::Down { why: last, .. } = &mut *self.state.borrow_mut() {
            *last = why;
        }
        false
    }

    /// Gives a server that is back what it may have lost: one call after the other, as later ones
    /// may have replaced what earlier ones wrote. Nothing else is sent to it before.
    async fn send_again(&self, connection: &Connection) {
        let Some(unflushed) = &self.unflushed else {
            return;
        };
        let mut calls = unflushed.take();
        while let Some(call) = calls.front() {
            let mut again = call.clone();
            // Not only where that is fast: readers have seen the zeros.
            again.flags.remove(CommandFlags::FAST_ZERO);
            match connection.call(again).await.0 {
                // It is kept again.
                Outcome::Done => {}
                Outcome::Failed(errno) => {
                    // The next flush reports it.
                    let _ = self.flush_refused(errno);
                }
                Outcome::Lost => break,
            }
            calls.pop_front();
        }
        calls.into_iter().for_each(|call| unflushed.add(call));
    }

    /// Why what has come back is not what has gone.
    fn mismatch(&self, facts: &Facts) -> Option<String> {
        let old = &self.expected;
        if facts.size != old.size {
            return Some(format!(
                "it came back with {} bytes instead of {}",
                facts.size, old.size
            ));
        }
        let lacks = old.flags.difference(facts.flags | Transmission::READ_ONLY);
        let locked = facts.flags.difference(old.flags) & Transmission::READ_ONLY;
        if !lacks.is_empty() || !locked.is_empty() || facts.minimum > old.minimum {
            return Some("it came back with fewer abilities".to_owned());
        }
        None
    }

    fn refused(&self, what: &'static str, call: &Call, errno: u32) -> IoError {
        let errno = i32::try_from(errno).unwrap_or(libc::EIO);
        if errno == libc::ENOSPC {
            return IoError::NoSpace {
                file: self.name.clone(),
                why: NoRoom::Full,
            };
        }
        self.host_error(what, call.offset, io::Error::from_raw_os_error(errno))
    }

    fn failed(&self, what: &'static str, offset: u64, why: &str) -> IoError {
        let text = format!("no connection to the server: {why}");
        self.host_error(what, offset, io::Error::other(text))
    }

    fn host_error(&self, what: &'static str, offset: u64, source: io::Error) -> IoError {
        IoError::Host {
            file: self.name.clone(),
            what,
            offset,
            source: Arc::new(source),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let State::Up(connection) = self.state.get_mut() {
            connection.leave();
        }
    }
}

/// Whether the server only says that it is about to go: what it has not made durable is kept here.
fn is_leaving(errno: u32) -> bool {
    i32::try_from(errno) == Ok(libc::ESHUTDOWN)
}

/// Tries until the link is up again or not wanted any more.
async fn reconnect(exec: Rc<Executor>, link: Weak<Link>) {
    let mut pause = FIRST_PAUSE;
    loop {
        exec.sleep_until(Instant::now() + pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        match link.upgrade() {
            Some(link) if link.try_again().await => return,
            Some(_) => {}
            None => return,
        }
    }
}
