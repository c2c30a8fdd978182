//! Waking a thread that waits for descriptors.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::event::{EventfdFlags, eventfd};

/// An eventfd that any thread may make readable, and one thread takes back. Waking what has been
/// woken already, and taking where nothing is, cost no system call.
#[derive(Debug)]
pub(crate) struct WakeFd {
    fd: OwnedFd,
    /// Set before the eventfd is written to, and reset after it has been read: so at most one write
    /// is on its way, and where this is not set the eventfd is not readable.
    raised: AtomicBool,
}

impl WakeFd {
    /// One that has not been woken.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            raised: AtomicBool::new(false),
        })
    }

    /// Makes it readable.
    pub fn wake(&self) {
        if !self.raised.swap(true, Ordering::AcqRel) {
            // The counter is 0 here: there is room.
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }

    /// Makes it unreadable; whether it has been woken since the last time. What was done before a
    /// wake is visible after the [`WakeFd::take`] that it ends with, whatever that returns.
    pub fn take(&self) -> bool {
        if !self.raised.load(Ordering::Acquire) {
            return false;
        }
        // Empty while the write of somebody who has just set the flag is still to come.
        if rustix::io::read(&self.fd, &mut [0; 8]).is_err() {
            return false;
        }
        self.raised.swap(false, Ordering::AcqRel);
        true
    }
}

/// Readable once it has been woken.
impl AsFd for WakeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests;
