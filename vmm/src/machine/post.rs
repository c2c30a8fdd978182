//! What reaches the device thread from others.

use std::{
    collections::{HashSet, VecDeque},
    io,
    mem::{self, Discriminant},
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use strata_exec::inbox::{self, Sender};

use crate::monitor::{Action, Answer};

/// Something that the guest did, or that happened to it.
#[derive(Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// It resets the machine.
    Reset,
    /// A vCPU met a triple fault, which resets the machine.
    TripleFault,
    /// It powers off.
    PowerOff,
    /// It suspends to memory.
    Suspended,
    /// Something has happened that is to wake it.
    WokenUp,
    /// It ends the run with this code.
    Exited(u32),
    /// The command that it ran for us has ended with this status.
    CommandEnded(u8),
    /// What that left as its results could not be written; one line for people.
    ResultsLost(String),
    /// Its kernel says by the panic device that it has panicked.
    Panicked,
    /// The same, and another kernel takes over.
    CrashLoaded,
    /// Its kernel prints that it panics, and why. More lines follow.
    PanicPrinted(String),
    /// Its kernel prints that this was all about the panic.
    PanicEnded,
    /// It has let go of devices.
    Ejected,
    /// One of its requests has failed and is held: it is to be stopped.
    RequestHeld,
    /// It cannot go on; one line for people.
    Broken(String),
}

/// One message.
#[derive(Debug)]
pub enum Message {
    /// From a monitor.
    Action(Action, Answer),
    /// From a vCPU's thread.
    Guest(GuestEvent),
    /// The person at the serial console wants to leave.
    Leave,
    /// SIGTERM, SIGINT or SIGHUP.
    Signal,
}

/// The sending side; any thread may have one.
#[derive(Clone)]
pub struct Post {
    sender: Sender<Message>,
    waiting: Waiting,
}

/// Kinds of events that wait in the inbox. A guest can cause most of them without end, by writing
/// to a register or by printing: of each kind one waits at most, the first.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<HashSet<Discriminant<GuestEvent>>>>);

impl Waiting {
    /// Notes that one is about to be sent; `false` if one of the kind waits already.
    fn begin(&self, event: &GuestEvent) -> bool {
        self.kinds().insert(mem::discriminant(event))
    }

    /// Notes that one has been received.
    fn end(&self, event: &GuestEvent) {
        self.kinds().remove(&mem::discriminant(event));
    }

    fn kinds(&self) -> MutexGuard<'_, HashSet<Discriminant<GuestEvent>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Post {
    /// Sends, and wakes the device thread. Nothing happens after that has ended.
    pub fn send(&self, message: Message) {
        self.sender.send(message);
    }

    /// Sends what a guest did, unless an event of that kind waits already.
    pub fn guest(&self, event: GuestEvent) {
        if self.waiting.begin(&event) {
            self.send(Message::Guest(event));
        }
    }
}

/// The receiving side. Its descriptor is readable when something may have come.
pub struct Inbox {
    received: inbox::Inbox<Message>,
    waiting: Waiting,
    /// Received, not yet taken.
    kept: VecDeque<Message>,
}

impl Inbox {
    /// A new pair.
    ///
    /// # Errors
    /// The host has no eventfd left.
    pub fn new() -> io::Result<(Post, Self)> {
        let (sender, received) = inbox::channel()?;
        let waiting = Waiting::default();
        let post = Post {
            sender,
            waiting: waiting.clone(),
        };
        let inbox = Self {
            received,
            waiting,
            kept: VecDeque::new(),
        };
        Ok((post, inbox))
    }

    /// The next message, if there is one.
    pub fn next(&mut self) -> Option<Message> {
        let kept = self.kept.pop_front();
        let message = kept.or_else(|| self.received.receive().ok())?;
        if let Message::Guest(event) = &message {
            self.waiting.end(event);
        }
        Some(message)
    }

    /// Puts back what has been taken and is not yet done with.
    pub fn keep(&mut self, messages: Vec<Message>) {
        for message in messages.into_iter().rev() {
            if let Message::Guest(event) = &message {
                self.waiting.begin(event);
            }
            self.kept.push_front(message);
        }
    }

    /// Drops resets that the guest has asked for so far. Guests ask several times, because on real
    /// hardware not every way works, and go on asking until they are parked.
    pub fn forget_resets(&mut self) {
        while let Ok(message) = self.received.receive() {
            self.kept.push_back(message);
        }
        self.kept.retain(|message| {
            let event = match message {
                Message::Guest(event) => event,
                _ => return true,
            };
            let reset = matches!(event, GuestEvent::Reset | GuestEvent::TripleFault);
            if reset {
                self.waiting.end(event);
            }
            !reset
        });
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.received.as_fd()
    }
}

#[cfg(test)]
mod tests;
