//! What reaches the device thread from the monitor's thread and from signals.

use std::{
    io::{self, Read},
    os::unix::net::UnixStream,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    low_level::pipe,
};
use strata_exec::{
    Executor, Queue, Watched,
    inbox::{Sender, WatchedInbox, channel},
};

use crate::monitor::{Action, Answer, Machine, RunState};

/// One message.
pub(super) enum Message {
    /// From a monitor.
    Action(Box<Action>, Answer),
    /// SIGTERM, SIGINT or SIGHUP.
    Signal,
}

/// The sending side, for the monitor.
pub(super) struct Handle(Sender<Message>);

impl Machine for Handle {
    fn run_state(&self) -> RunState {
        RunState::Running
    }

    fn request(&self, action: Action, answer: Answer) {
        self.0.send(Message::Action(Box::new(action), answer));
    }
}

/// A mailbox; from now on the signals go there.
///
/// # Errors
/// The host's.
pub(super) fn open(exec: &Executor) -> io::Result<(Handle, WatchedInbox<Message>)> {
    let (sender, inbox) = channel()?;
    let inbox = inbox.watch(exec)?;
    forward_signals(exec, sender.clone())?;
    Ok((Handle(sender), inbox))
}

/// Sends a message for each signal, or for several that come at once.
fn forward_signals(exec: &Executor, sender: Sender<Message>) -> io::Result<()> {
    let (writer, reader) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    let reader = Watched::new(exec, reader)?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        pipe::register(signal, writer.try_clone()?)?;
    }
    exec.spawn_named(Queue::Guest, "signals", async move {
        // The handlers hold the writer: the stream does not end.
        while let Ok(1..) = reader.readable(|mut pipe| pipe.read(&mut [0; 64])).await {
            sender.send(Message::Signal);
        }
    });
    Ok(())
}
