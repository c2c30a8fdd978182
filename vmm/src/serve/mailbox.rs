//! What reaches the device thread from the monitor's thread and from signals.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
    low_level::pipe,
};
use strata_block::exec::{Executor, Watched};

use crate::monitor::{Action, Answer, Machine, RunState};

/// One message.
pub(super) enum Message {
    /// From a monitor.
    Action(Action, Answer),
    /// SIGTERM, SIGINT or SIGHUP.
    Signal,
}

/// The sending side, for the monitor.
pub(super) struct Handle {
    sender: Sender<(Action, Answer)>,
    bell: UnixStream,
}

/// The receiving side.
pub(super) struct Inbox {
    receiver: Receiver<(Action, Answer)>,
    /// A signal has come.
    signalled: Arc<AtomicBool>,
    /// Readable after each of them.
    ear: Watched<UnixStream>,
}

/// A mailbox; from now on the signals go there.
///
/// # Errors
/// The host's.
pub(super) fn open(exec: &Executor) -> io::Result<(Handle, Inbox)> {
    let (bell, ear) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    ear.set_nonblocking(true)?;
    let signalled = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        // In this order: who hears the bell must see the flag.
        flag::register(signal, signalled.clone())?;
        pipe::register(signal, bell.try_clone()?)?;
    }
    let (sender, receiver) = channel();
    let inbox = Inbox {
        receiver,
        signalled,
        ear: Watched::new(exec, ear)?,
    };
    Ok((Handle { sender, bell }, inbox))
}

impl Machine for Handle {
    fn run_state(&self) -> RunState {
        RunState::Running
    }

    fn request(&self, action: Action, answer: Answer) {
        if self.sender.send((action, answer)).is_ok() {
            // Fails only when bytes enough to wake the other side are there already.
            let _ = (&self.bell).write(b"!");
        }
    }
}

impl Inbox {
    /// Waits for the next message.
    pub async fn next(&self) -> Message {
        loop {
            if self.signalled.swap(false, Ordering::AcqRel) {
                return Message::Signal;
            }
            if let Ok((action, answer)) = self.receiver.try_recv() {
                return Message::Action(action, answer);
            }
            let heard = self.ear.readable(|mut ear| ear.read(&mut [0; 64])).await;
            if !matches!(heard, Ok(1..)) {
                // Nobody is left who could ring: as good as a request to end.
                return Message::Signal;
            }
        }
    }
}
