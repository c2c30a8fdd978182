//! One connection after the other, on a thread of its own.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixListener,
    },
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fd::OwnedFd,
};
use vhost::vhost_user::{Error as Protocol, Listener};
use vhost_user_backend::{Error, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use super::{
    channel::Channel,
    front::{END, Front},
    relay::{Connection, Entrance},
};

/// How long to rest when a connection could not be served for want of descriptors or threads.
const REST: Duration = Duration::from_millis(100);

/// How the device thread reaches the session thread.
pub struct Control {
    stopping: AtomicBool,
    /// Readable once the session is to end.
    stop: OwnedFd,
    connection: Mutex<Option<Arc<Connection>>>,
    /// By which the front end is notified of what it has not asked for.
    pub channel: Channel,
}

impl Control {
    /// For one session.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            stopping: AtomicBool::new(false),
            stop: eventfd(0, EventfdFlags::CLOEXEC)?,
            connection: Mutex::default(),
            channel: Channel::default(),
        })
    }

    /// Whether a front end is connected.
    pub fn in_use(&self) -> bool {
        self.connection().is_some()
    }

    /// Ends the session, and the connection that there may be.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Err(error) = rustix::io::write(&self.stop, &1u64.to_ne_bytes()) {
            tracing::error!(%error, "a vhost-user session could not be told to end");
        }
        if let Some(connection) = self.connection().as_ref() {
            connection.cut();
        }
    }

    fn connection(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the connection that has begun, or that there is none any more.
    fn set_connection(&self, connection: Option<Arc<Connection>>) {
        let mut current = self.connection();
        *current = connection;
        if self.stopping.load(Ordering::SeqCst)
            && let Some(connection) = current.as_ref()
        {
            connection.cut();
        }
    }

    /// Waits for a front end; whether one has come before the session is to end.
    fn wait(&self, listener: &UnixListener) -> bool {
        loop {
            let ready = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
            let mut fds = [ready(self.stop.as_fd()), ready(listener.as_fd())];
            match poll(&mut fds, None) {
                Ok(_) if !fds[0].revents().is_empty() => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "a vhost-user session has ended");
                    return false;
                }
            }
        }
    }
}

/// Serves front ends until the session is to end. The library accepts them at `entrance`.
pub fn run(listener: &UnixListener, entrance: &Entrance, front: Arc<Front>, control: &Control) {
    while control.wait(listener) {
        if let Err(error) = serve(listener, entrance, &front, control) {
            tracing::warn!(%error, "a vhost-user front end could not be served");
            thread::sleep(REST);
        }
        control.channel.forget();
        front.reset();
        control.set_connection(None);
    }
}

/// Ends the thread on which kicks arrive, for which the daemon waits when it is dropped.
struct End<'a>(&'a OwnedFd);

impl<'a> End<'a> {
    /// To be dropped before `daemon`, and `event` after it: one that is closed is not seen any
    /// more.
    ///
    /// # Errors
    /// The host cannot watch the event.
    fn new(event: &'a OwnedFd, daemon: &VhostUserDaemon<Arc<Front>>) -> io::Result<Self> {
        for handler in daemon.get_epoll_handlers() {
            handler.register_listener(event.as_raw_fd(), EventSet::IN, END)?;
        }
        Ok(Self(event))
    }
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let written = rustix::io::write(self.0, &1u64.to_ne_bytes());
        written.expect("the counter of a new eventfd has room");
    }
}

/// Serves the front end that waits, until it goes.
fn serve(
    listener: &UnixListener,
    entrance: &Entrance,
    front: &Arc<Front>,
    control: &Control,
) -> Result<(), Error> {
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let end =
        eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| Error::StartDaemon(error.into()))?;
    let mut daemon = VhostUserDaemon::new("vhost-user".into(), front.clone(), memory)?;
    let _end = match End::new(&end, &daemon) {
        Ok(end) => end,
        Err(error) => {
            // There is no other way to end its thread, for which it would wait.
            std::mem::forget(daemon);
            return Err(Error::StartDaemon(error));
        }
    };
    let (socket, _) = listener.accept().map_err(Error::StartDaemon)?;
    let connection = Arc::new(Connection {
        front: socket,
        library: entrance.connect().map_err(Error::StartDaemon)?,
    });
    let inner = entrance.listener().map_err(Error::StartDaemon)?;
    daemon.start(&mut Listener::from(inner))?;
    control.set_connection(Some(connection.clone()));
    connection.relay(&control.channel, front.lost(true));
    match daemon.wait() {
        // How a conversation ends when the other side goes, in the middle of a message or not.
        Err(Error::HandleRequest(
            Protocol::Disconnected | Protocol::PartialMessage | Protocol::SocketBroken(_),
        )) => Ok(()),
        result => result,
    }
}
