//! One client: what it has sent, what it waits for, what it has not read yet.

use std::io::ErrorKind;

use strata_block::api::{CmdError, Reply};

use super::channel::Channel;
use super::machine::{Answer, Machine};
use super::notice::Notifier;
use super::step::{Step, Then};
use super::{MAX_BACKLOG, MAX_READ_AHEAD, Protocol, REPLY_BACKLOG, hmp, qmp};

/// Requests of one client executed before others get their turn.
const BURST: usize = 32;

#[derive(Debug)]
enum Session {
    Qmp(qmp::Session),
    Hmp(hmp::Session),
}

/// One client.
pub(super) struct Client {
    /// Names the client in answers; never used twice.
    token: u64,
    channel: Channel,
    session: Session,
    /// Read, but not executed.
    input: Vec<u8>,
    /// Not sent.
    output: Vec<u8>,
    /// What to do with the answer that the machine owes.
    pending: Option<Then<Vec<u8>>>,
    /// The client has sent a whole request.
    has_spoken: bool,
    /// The client sends no more.
    at_end: bool,
    /// The client takes no more: what it has asked for is still done.
    deaf: bool,
    /// The client did not read its events.
    stuck: bool,
}

impl Client {
    /// A client that is greeted with the next [`Client::pump`].
    pub(super) fn new(token: u64, protocol: Protocol, channel: Channel) -> Client {
        let (session, output) = match protocol {
            Protocol::Qmp => {
                let session = qmp::Session::new();
                let greeting = session.greeting();
                (Session::Qmp(session), greeting)
            }
            Protocol::Hmp => {
                let session = hmp::Session::new();
                let greeting = session.greeting();
                (Session::Hmp(session), greeting)
            }
        };
        Client {
            token,
            channel,
            session,
            input: Vec::new(),
            output,
            pending: None,
            has_spoken: false,
            at_end: false,
            deaf: false,
            stuck: false,
        }
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The client has sent at least one whole request.
    pub(super) fn has_spoken(&self) -> bool {
        self.has_spoken
    }

    /// There is room for more input.
    pub(super) fn wants_read(&self) -> bool {
        !self.at_end && self.input.is_empty() && self.may_execute()
    }

    /// There is output that has not been sent.
    pub(super) fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// The next request may be looked at.
    fn may_execute(&self) -> bool {
        self.pending.is_none() && self.output.len() < REPLY_BACKLOG && !self.is_over()
    }

    fn is_over(&self) -> bool {
        matches!(&self.session, Session::Qmp(session) if session.is_over())
    }

    /// Nothing is left to do for this client.
    pub(super) fn is_finished(&self) -> bool {
        let served = self.at_end && self.input.is_empty() && self.pending.is_none();
        self.stuck || self.is_over() || served && self.output.is_empty()
    }

    /// Takes input, executes what is complete, sends output, all as far as it goes without
    /// waiting. Returns `true` if there is more to execute.
    pub(super) fn pump(
        &mut self,
        readable: bool,
        machine: &dyn Machine,
        notifier: &Notifier,
    ) -> bool {
        if readable && self.wants_read() {
            self.read();
        }
        let mut taken = 0;
        for _ in 0..BURST {
            if taken == self.input.len() || !self.may_execute() {
                break;
            }
            let rest = &self.input[taken..];
            let (used, step) = match &mut self.session {
                Session::Qmp(session) => session.advance(rest, machine),
                Session::Hmp(session) => session.advance(rest, machine),
            };
            taken += used;
            self.has_spoken |= step.is_some();
            match step {
                None => {}
                Some(Step::Done(bytes)) => self.say(&bytes),
                Some(Step::Ask(action, then)) => {
                    self.pending = Some(then);
                    machine.request(action, Answer::new(self.token, notifier.clone()));
                }
            }
        }
        self.input.drain(..taken);
        self.flush();
        !self.input.is_empty() && self.may_execute()
    }

    /// The machine has answered the pending request.
    pub(super) fn answered(&mut self, result: Result<Reply, CmdError>) {
        if let Some(then) = self.pending.take() {
            let bytes = then(result);
            self.say(&bytes);
        }
    }

    /// Queues an event for a client that wants events.
    pub(super) fn send_event(&mut self, line: &[u8]) {
        if !matches!(&self.session, Session::Qmp(session) if session.wants_events()) {
            return;
        }
        if self.output.len() >= MAX_BACKLOG {
            tracing::warn!("a QMP client does not read its events and is disconnected");
            self.stuck = true;
            return;
        }
        self.say(line);
    }

    /// The client has asked for events of jobs' progress.
    pub(super) fn wants_progress(&self) -> bool {
        matches!(&self.session, Session::Qmp(session) if session.wants_progress())
    }

    fn say(&mut self, bytes: &[u8]) {
        if !self.deaf {
            self.output.extend_from_slice(bytes);
        }
    }

    fn read(&mut self) {
        self.input.resize(MAX_READ_AHEAD, 0);
        let length = match self.channel.read(&mut self.input) {
            Ok(length) => {
                self.at_end = length == 0;
                length
            }
            Err(error) => {
                self.at_end = !is_passing(&error);
                0
            }
        };
        self.input.truncate(length);
    }

    /// Sends as much as there is room for.
    pub(super) fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.channel.write(&self.output) {
                Ok(length) => {
                    self.output.drain(..length);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_passing(&error) => return,
                Err(_) => {
                    self.deaf = true;
                    self.output.clear();
                }
            }
        }
    }
}

/// The call may succeed later.
fn is_passing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
