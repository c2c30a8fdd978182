//! SIGTERM, SIGINT and SIGHUP end the machine in the orderly way.

use std::{
    io::{self, Read},
    os::unix::net::UnixStream,
};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    low_level::pipe,
};

use super::post::{Message, Post};

/// Waits for the signals on the event loop.
pub struct Signals {
    pipe: UnixStream,
    post: Post,
}

impl Signals {
    /// From now on the signals are messages.
    ///
    /// # Errors
    /// The host's.
    pub fn catch(post: Post) -> io::Result<Self> {
        let (pipe, writer) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(Self { pipe, post })
    }
}

impl MutEventSubscriber for Signals {
    fn process(&mut self, _: Events, _: &mut EventOps) {
        let mut bytes = [0; 16];
        if matches!(self.pipe.read(&mut bytes), Ok(1..)) {
            self.post.send(Message::Signal);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.pipe, EventSet::IN)) {
            tracing::error!(?error, "signals are not watched");
        }
    }
}
