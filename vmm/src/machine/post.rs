//! What reaches the device thread from others.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

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
    wake: Arc<EventFd>,
}

impl Post {
    /// Sends, and wakes the device thread. Nothing happens after that has ended.
    pub fn send(&self, message: Message) {
        if self.sender.send(message).is_ok() {
            // Fails only when the counter is full, and then a wake-up is due anyway.
            let _ = self.wake.write(1);
        }
    }

    /// Sends what a guest did.
    pub fn guest(&self, event: GuestEvent) {
        self.send(Message::Guest(event));
    }
}

/// The receiving side.
pub struct Inbox {
    receiver: Receiver<Message>,
    /// Received, not yet handed out.
    kept: VecDeque<Message>,
    wake: Arc<EventFd>,
}

impl Inbox {
    /// A new pair.
    ///
    /// # Errors
    /// The host has no eventfd left.
    pub fn new() -> io::Result<(Post, Self)> {
        let (sender, receiver) = channel();
        let wake = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let post = Post {
            sender,
            wake: Arc::clone(&wake),
        };
        let inbox = Self {
            receiver,
            kept: VecDeque::new(),
            wake,
        };
        Ok((post, inbox))
    }

    /// Readable when something has come; whoever waits for it also clears it.
    pub fn wake(&self) -> Arc<EventFd> {
        Arc::clone(&self.wake)
    }

    /// The next message, if there is one.
    pub fn next(&mut self) -> Option<Message> {
        let kept = self.kept.pop_front();
        kept.or_else(|| self.receiver.try_recv().ok())
    }

    /// Puts back what has been taken and is not yet done with.
    pub fn keep(&mut self, messages: Vec<Message>) {
        for message in messages.into_iter().rev() {
            self.kept.push_front(message);
        }
    }

    /// Drops resets that the guest has asked for so far. Guests ask several times, because on real
    /// hardware not every way works, and go on asking until they are parked.
    pub fn forget_resets(&mut self) {
        self.kept.extend(self.receiver.try_iter());
        self.kept.retain(|message| {
            let event = match message {
                Message::Guest(event) => event,
                _ => return true,
            };
            !matches!(event, GuestEvent::Reset | GuestEvent::TripleFault)
        });
    }
}

#[cfg(test)]
mod tests;
