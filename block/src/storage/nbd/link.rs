//! A link to an export: a connection that is made again when it is lost.

use std::{
    cell::RefCell,
    io,
    path::PathBuf,
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    connection::{Call, Connection, Outcome},
    greet::{ConnectError, Facts, connect},
    uri::Uri,
};
use crate::{
    error::{IoError, IoResult, NoRoom},
    exec::{Executor, Helpers, Queue, sync::WaitQueue},
    nbd::{proto::Transmission, stream::Reader},
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
}

enum State {
    Up(Rc<Connection>),
    Down { since: Instant, why: String },
}

impl Link {
    /// Connects once.
    ///
    /// # Errors
    /// Why that could not be.
    pub async fn open(
        exec: &Rc<Executor>,
        uri: Uri,
        name: PathBuf,
        patience: Duration,
    ) -> Result<Rc<Self>, ConnectError> {
        let (stream, reader, facts) = connect(exec, &uri).await?;
        let connection = Connection::new(stream, facts.clone());
        let link = Rc::new(Self {
            exec: exec.clone(),
            uri,
            name,
            expected: facts,
            patience,
            state: RefCell::new(State::Up(connection.clone())),
            changed: WaitQueue::default(),
        });
        link.attend(connection, reader);
        Ok(link)
    }

    /// What the server told of its export.
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
        let mut first_loss = None;
        loop {
            let connection = self.connection(what, call.offset, first_loss).await?;
            match connection.call(call.clone()).await {
                (Outcome::Done, status) => return Ok(status),
                (Outcome::Failed(errno), _) => return Err(self.refused(what, &call, errno)),
                (Outcome::Lost, _) => {
                    first_loss.get_or_insert_with(Instant::now);
                    tracing::debug!(export = %self.name.display(), what, "asking again");
                }
            }
        }
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
            let given_up = |since: Instant| now >= since + self.patience;
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
        self.exec.spawn(Queue::Guest, async move {
            let why = connection.receive(reader).await;
            if let Some(link) = link.upgrade() {
                link.lost(why.to_string());
            }
        });
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
        self.exec
            .spawn(Queue::Guest, reconnect(exec.clone(), link.clone()));
        // Those who wait have to look again when their patience ends.
        self.exec.spawn(Queue::Guest, async move {
            exec.sleep_until(end).await;
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
                    let connection = Connection::new(stream, facts);
                    *self.state.borrow_mut() = State::Up(connection.clone());
                    self.attend(connection, reader);
                    self.changed.wake_all();
                    tracing::warn!(export = %self.name.display(), "the NBD server is back");
                    return true;
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
