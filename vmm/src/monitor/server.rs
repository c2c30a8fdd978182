//! The monitor thread's loop: `poll`, then whatever has become ready, never waiting in between.
//!
//! `poll` rather than epoll: interest changes with every request, there are few descriptors, and
//! standard input may be a plain file, which epoll refuses.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use strata_block::api::{Cmd, CmdError, Reply};

use super::client::Client;
use super::listener::{Listener, Opened};
use super::machine::{Action, Answer, Machine};
use super::notice::{Mailbox, Message, Notice, Notifier};
use super::progress::Ticker;
use super::throttle::Throttle;
use super::{MAX_CLIENTS, Protocol, qmp};

/// How long the end waits for clients to take what is queued for them.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a listener rests when the host has no descriptor for a new connection.
const REST: Duration = Duration::from_secs(1);

/// The token in answers to what the monitor asks for itself: no client has it.
const ITSELF: u64 = 0;

/// An endpoint, and those who came through it.
struct Door {
    protocol: Protocol,
    listener: Listener,
    /// Not to be listened to before this.
    rests_until: Option<Instant>,
}

/// All that the monitor thread owns.
pub(super) struct Server {
    machine: Box<dyn Machine>,
    mailbox: Mailbox,
    notifier: Notifier,
    doors: Vec<Door>,
    /// By token, with the door they came through.
    clients: BTreeMap<u64, (Option<usize>, Client)>,
    last_token: u64,
    throttle: Throttle,
    ticker: Ticker,
    /// Some client has input to execute.
    busy: bool,
}

/// What [`Server::wait`] found ready, in the order of doors and clients.
struct Ready {
    doors: Vec<bool>,
    readable: Vec<u64>,
}

impl Server {
    pub(super) fn new(machine: Box<dyn Machine>, mailbox: Mailbox) -> Server {
        Server {
            machine,
            notifier: mailbox.notifier(),
            mailbox,
            doors: Vec::new(),
            clients: BTreeMap::new(),
            last_token: 0,
            throttle: Throttle::default(),
            ticker: Ticker::default(),
            busy: false,
        }
    }

    /// Adds what an endpoint has become.
    pub(super) fn add(&mut self, protocol: Protocol, opened: Opened) {
        match opened {
            Opened::Listener(listener) => {
                self.doors.push(Door {
                    protocol,
                    listener,
                    rests_until: None,
                });
            }
            Opened::Channel(channel) => {
                let client = Client::new(self.next_token(), protocol, channel);
                self.clients.insert(self.last_token, (None, client));
            }
        }
    }

    /// Serves until [`Message::Close`].
    pub(super) fn run(mut self) {
        // Greets the clients that are there from the start.
        self.pump(&[]);
        loop {
            let ready = self.wait();
            let messages: Vec<Message> = self.mailbox.take().collect();
            for message in messages {
                match message {
                    Message::Answer {
                        client: ITSELF,
                        result,
                    } => self.send_progress(result),
                    Message::Answer { client, result } => {
                        if let Some((_, client)) = self.clients.get_mut(&client) {
                            client.answered(result);
                        }
                    }
                    Message::Notice(time, notice) => {
                        let admitted = self.throttle.admit(Instant::now(), time, notice);
                        self.send_events(admitted);
                    }
                    Message::Close => return self.close(),
                }
            }
            let released = self.throttle.release(Instant::now());
            self.send_events(released);
            for (index, _) in ready.doors.iter().enumerate().filter(|(_, ready)| **ready) {
                self.accept(index);
            }
            self.pump(&ready.readable);
            if self.wants_progress() && self.ticker.is_due(Instant::now()) {
                let answer = Answer::new(ITSELF, self.notifier.clone());
                self.machine
                    .request(Action::Block(Box::new(Cmd::QueryJobs)), answer);
            }
        }
    }

    fn wants_progress(&self) -> bool {
        let mut clients = self.clients.values();
        clients.any(|(_, client)| client.wants_progress())
    }

    /// Has the clients that want it know how far the jobs are that a reply lists.
    fn send_progress(&mut self, result: Result<Reply, CmdError>) {
        for job in self.ticker.answered(result) {
            let notice = Notice::JobProgress(Box::new(job));
            let line = qmp::line(&qmp::event(SystemTime::now(), &notice));
            let clients = self.clients.values_mut().map(|(_, client)| client);
            for client in clients.filter(|client| client.wants_progress()) {
                client.send_event(&line);
            }
        }
    }

    fn next_token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    /// Sleeps until something is ready.
    fn wait(&mut self) -> Ready {
        let now = Instant::now();
        for door in &mut self.doors {
            door.rests_until = door.rests_until.filter(|until| *until > now);
        }
        let timeout = self.timeout(now);
        let mut fds = vec![PollFd::new(&self.mailbox, PollFlags::IN)];
        let open: Vec<bool> = self
            .doors
            .iter()
            .map(|door| door.rests_until.is_none())
            .collect();
        for (door, _) in self.doors.iter().zip(&open).filter(|(_, open)| **open) {
            fds.push(PollFd::new(&door.listener, PollFlags::IN));
        }
        let reading = |client: &&(Option<usize>, Client)| client.1.wants_read();
        for (_, client) in self.clients.values().filter(reading) {
            fds.push(PollFd::from_borrowed_fd(
                client.channel().input(),
                PollFlags::IN,
            ));
        }
        fds.extend(self.writing());
        if poll(&mut fds, timeout.as_ref()).is_err() {
            // Interrupted: nothing is ready, and the next round asks again.
            for fd in &mut fds {
                fd.clear_revents();
            }
        }
        let mut found = fds.iter().skip(1).map(|fd| !fd.revents().is_empty());
        let doors = open
            .iter()
            .map(|open| *open && found.next().unwrap_or(false))
            .collect();
        let readers = self.clients.iter().filter(|(_, client)| reading(client));
        let readable = readers
            .zip(found)
            .filter_map(|((token, _), ready)| ready.then_some(*token))
            .collect();
        Ready { doors, readable }
    }

    /// What shows when clients take more of what is queued for them.
    fn writing(&self) -> impl Iterator<Item = PollFd<'_>> {
        let clients = self.clients.values().map(|(_, client)| client);
        clients
            .filter(|client| client.wants_write())
            .map(|client| PollFd::from_borrowed_fd(client.channel().output(), PollFlags::OUT))
    }

    /// How long [`Server::wait`] may sleep; `None` for as long as it takes.
    fn timeout(&self, now: Instant) -> Option<Timespec> {
        if self.busy {
            return Some(Timespec::default());
        }
        let rests = self.doors.iter().filter_map(|door| door.rests_until);
        let progress = if self.wants_progress() {
            self.ticker.next_due(now)
        } else {
            None
        };
        let due = rests.chain(self.throttle.next_due()).chain(progress);
        let next = due.min()?;
        Timespec::try_from(next.saturating_duration_since(now)).ok()
    }

    /// Gives every client its turn, and forgets those that are served.
    fn pump(&mut self, readable: &[u64]) {
        self.busy = false;
        for (token, (_, client)) in &mut self.clients {
            let readable = readable.contains(token);
            self.busy |= client.pump(readable, self.machine.as_ref(), &self.notifier);
        }
        self.clients.retain(|_, (_, client)| !client.is_finished());
    }

    fn accept(&mut self, index: usize) {
        // Bounded, so that a flood of connections does not hold up those who are inside.
        for _ in 0..MAX_CLIENTS {
            let channel = match self.doors[index].listener.accept() {
                Ok(Some(channel)) => channel,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!("a monitor client cannot be accepted: {error}");
                    self.doors[index].rests_until = Some(Instant::now() + REST);
                    return;
                }
            };
            if !self.make_room(index) {
                tracing::warn!("a monitor client is refused: {MAX_CLIENTS} are connected");
                continue;
            }
            let client = Client::new(self.next_token(), self.doors[index].protocol, channel);
            self.clients.insert(self.last_token, (Some(index), client));
        }
    }

    /// Lets one more client through a door. Where they are too many, the one that has said nothing
    /// for longest has to go; `false` if all have said something.
    fn make_room(&mut self, index: usize) -> bool {
        let inside = || {
            self.clients
                .iter()
                .filter(|(_, (door, _))| *door == Some(index))
        };
        if inside().count() < MAX_CLIENTS {
            return true;
        }
        let silent = inside().find(|(_, (_, client))| !client.has_spoken());
        let silent = silent.map(|(token, _)| *token);
        silent.is_some_and(|token| self.clients.remove(&token).is_some())
    }

    fn send_events(&mut self, notices: impl IntoIterator<Item = (SystemTime, Notice)>) {
        for (time, notice) in notices {
            let line = qmp::line(&qmp::event(time, &notice));
            for (_, client) in self.clients.values_mut() {
                client.send_event(&line);
            }
        }
    }

    /// Sends what is queued, as far as clients take it soon.
    fn close(mut self) {
        let deadline = Instant::now() + FAREWELL;
        loop {
            for (_, client) in self.clients.values_mut() {
                client.flush();
            }
            let mut fds: Vec<PollFd> = self.writing().collect();
            let left = deadline.saturating_duration_since(Instant::now());
            if fds.is_empty() || left.is_zero() {
                return;
            }
            // An error here is an interruption; the deadline ends the loop.
            let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
        }
    }
}
