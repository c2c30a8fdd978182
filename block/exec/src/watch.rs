//! Waiting until a file descriptor can be read or written without blocking: sockets, mostly.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    rc::Rc,
};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{Executor, sync::WaitQueue};

/// Key of the executor's own eventfd, which has no waiters here.
const WAKE: u64 = 0;

/// Events taken from the kernel in one call; what is left stays ready.
const EVENTS_PER_LOOK: usize = 64;

/// An epoll instance and who waits for what it watches.
///
/// Descriptors are watched edge-triggered: one system call when they come and one when they go,
/// none for each wait.
pub(super) struct Reactor {
    epoll: Epoll,
    entries: RefCell<HashMap<u64, Rc<Waiters>>>,
    next_key: Cell<u64>,
}

/// Tasks that wait for one descriptor.
#[derive(Default)]
struct Waiters {
    readable: WaitQueue,
    writable: WaitQueue,
}

impl Reactor {
    /// A reactor that watches `wake`, whose events concern nobody but the executor.
    pub fn new(wake: &impl AsFd) -> io::Result<Self> {
        let reactor = Self {
            epoll: Epoll::new()?,
            entries: RefCell::default(),
            next_key: Cell::new(WAKE + 1),
        };
        reactor.add(wake, EventSet::IN, WAKE)?;
        Ok(reactor)
    }

    /// Watches something else whose events concern nobody but the executor, for as long as it is
    /// open.
    pub fn watch_for_executor(&self, fd: &impl AsFd) -> io::Result<()> {
        self.add(fd, EventSet::IN, WAKE)
    }

    /// Readable when [`Reactor::look`] would find something, or the executor has been woken.
    pub fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Wakes the tasks whose descriptors have become ready.
    pub fn look(&self) {
        if !self.entries.borrow().is_empty() {
            self.wait(0);
        }
    }

    /// Sleeps until a descriptor has become ready, the executor has been woken, or `timeout`
    /// milliseconds are over (negative: without end), and wakes the tasks that this concerns.
    pub fn wait(&self, timeout: i32) {
        let mut events = [EpollEvent::default(); EVENTS_PER_LOOK];
        // An interrupted or failed wait is made up for by the next one: what is ready stays ready.
        let count = self.epoll.wait(timeout, &mut events).unwrap_or(0);
        for event in &events[..count] {
            // A descriptor that went since has no entry.
            let entry = self.entries.borrow().get(&event.data()).cloned();
            let Some(waiters) = entry else { continue };
            let ready = EventSet::from_bits_truncate(event.events());
            let broken = EventSet::HANG_UP | EventSet::ERROR;
            if ready.intersects(EventSet::IN | EventSet::READ_HANG_UP | broken) {
                waiters.readable.wake_all();
            }
            if ready.intersects(EventSet::OUT | broken) {
                waiters.writable.wake_all();
            }
        }
    }

    fn add(&self, fd: &impl AsFd, events: EventSet, key: u64) -> io::Result<()> {
        let fd = fd.as_fd().as_raw_fd();
        let event = EpollEvent::new(events, key);
        self.epoll.ctl(ControlOperation::Add, fd, event)
    }

    fn remove(&self, fd: &impl AsFd) {
        let fd = fd.as_fd().as_raw_fd();
        // Fails only if the descriptor is not there any more, which is what is wanted.
        let _ = self
            .epoll
            .ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }
}

/// A non-blocking file descriptor that tasks may wait for.
///
/// It owns the descriptor, so that this cannot be closed while somebody waits: to end a wait on a
/// socket from elsewhere, shut the socket down.
pub struct Watched<F: AsFd> {
    fd: F,
    key: u64,
    waiters: Rc<Waiters>,
    reactor: Rc<Reactor>,
}

impl<F: AsFd> Watched<F> {
    /// Watches `fd`, which has to be in non-blocking mode.
    ///
    /// # Errors
    /// The host's error: the descriptor is of a kind that is always ready (a regular file), or the
    /// user's limit of watches is reached.
    pub fn new(exec: &Executor, fd: F) -> io::Result<Self> {
        let reactor = exec.reactor.clone();
        let key = reactor.next_key.get();
        reactor.next_key.set(key + 1);
        let either = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP;
        reactor.add(&fd, either | EventSet::EDGE_TRIGGERED, key)?;
        let waiters = Rc::new(Waiters::default());
        reactor.entries.borrow_mut().insert(key, waiters.clone());
        Ok(Self {
            fd,
            key,
            waiters,
            reactor,
        })
    }

    /// The descriptor.
    pub fn get(&self) -> &F {
        &self.fd
    }

    /// Calls `attempt` until it does not say [`io::ErrorKind::WouldBlock`], each time after the
    /// descriptor has become readable, has ended or has failed.
    ///
    /// # Errors
    /// Any other error of `attempt`.
    pub async fn readable<T>(&self, attempt: impl FnMut(&F) -> io::Result<T>) -> io::Result<T> {
        self.retry(&self.waiters.readable, attempt).await
    }

    /// As [`Watched::readable`], for writing.
    ///
    /// # Errors
    /// As [`Watched::readable`].
    pub async fn writable<T>(&self, attempt: impl FnMut(&F) -> io::Result<T>) -> io::Result<T> {
        self.retry(&self.waiters.writable, attempt).await
    }

    async fn retry<T>(
        &self,
        ready: &WaitQueue,
        mut attempt: impl FnMut(&F) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match attempt(&self.fd) {
                // Edges are taken from the kernel between polls of tasks only, so none is lost
                // between the attempt and the wait.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.wait().await,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl<F: AsFd> Drop for Watched<F> {
    fn drop(&mut self) {
        self.reactor.entries.borrow_mut().remove(&self.key);
        self.reactor.remove(&self.fd);
    }
}

#[cfg(test)]
mod tests;
