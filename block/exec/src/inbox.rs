//! A mailbox that wakes its owner: messages for one thread, from any thread.
//!
//! An event loop watches the [`Inbox`]'s descriptor; a task waits for a [`WatchedInbox`]. Nobody
//! waits to send, so that no two threads can wait for one another. An inbox takes as many messages
//! as come: who sends what a guest or a client could cause without end sends it only when what was
//! sent before has been received.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        mpsc::{self, TryRecvError},
    },
};

use super::{Executor, Watched, wake::WakeFd};

/// Both sides of a new channel.
///
/// # Errors
/// The host has no descriptor left.
pub fn channel<T>() -> io::Result<(Sender<T>, Inbox<T>)> {
    let wake = Arc::new(WakeFd::new()?);
    let (sender, receiver) = mpsc::channel();
    let sender = Sender {
        messages: sender,
        wake: WakeOnDrop(wake.clone()),
    };
    let inbox = Inbox {
        messages: receiver,
        wake,
    };
    Ok((sender, inbox))
}

/// The sending side; any thread may have one.
pub struct Sender<T> {
    // In this order: a receiver that is woken by the last sender's end finds that it has gone.
    messages: mpsc::Sender<T>,
    wake: WakeOnDrop,
}

/// Wakes the owner of the inbox when it is dropped, too.
#[derive(Clone)]
struct WakeOnDrop(Arc<WakeFd>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake();
    }
}

impl<T> Sender<T> {
    /// Sends, and wakes the owner of the inbox. A message that nobody will receive is dropped.
    pub fn send(&self, message: T) {
        if self.messages.send(message).is_ok() {
            self.wake.0.wake();
        }
    }

    /// As [`Inbox::waker`].
    pub fn waker(&self) -> InboxWaker {
        InboxWaker(self.wake.0.clone())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            messages: self.messages.clone(),
            wake: self.wake.clone(),
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

/// The receiving side. Its descriptor is readable when something may have come; receiving until it
/// is empty makes it unreadable.
#[derive(Debug)]
pub struct Inbox<T> {
    messages: mpsc::Receiver<T>,
    wake: Arc<WakeFd>,
}

impl<T> Inbox<T> {
    /// The next message that has come, in the order of sending. Does not wait.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`]: none has come. [`TryRecvError::Disconnected`]: none will ever come.
    pub fn receive(&self) -> Result<T, TryRecvError> {
        if let Ok(message) = self.messages.try_recv() {
            return Ok(message);
        }
        // First take the wake, then look again: what comes later wakes again.
        self.wake.take();
        self.messages.try_recv()
    }

    /// Wakes the owner without a message, to look at something else than the inbox.
    pub fn waker(&self) -> InboxWaker {
        InboxWaker(self.wake.clone())
    }

    /// Lets a task on `exec` wait for it.
    ///
    /// # Errors
    /// The host cannot watch another descriptor.
    pub fn watch(self, exec: &Executor) -> io::Result<WatchedInbox<T>> {
        let watched = Watched::new(exec, self.wake.clone())?;
        Ok(WatchedInbox {
            inbox: self,
            watched,
        })
    }
}

impl<T> AsFd for Inbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// Wakes the owner of an inbox.
#[derive(Debug, Clone)]
pub struct InboxWaker(Arc<WakeFd>);

impl InboxWaker {
    /// Wakes it.
    pub fn wake(&self) {
        self.0.wake();
    }
}

/// An inbox that a task waits for.
pub struct WatchedInbox<T> {
    inbox: Inbox<T>,
    watched: Watched<Arc<WakeFd>>,
}

impl<T> WatchedInbox<T> {
    /// As [`Inbox::receive`].
    ///
    /// # Errors
    /// As there.
    pub fn receive(&self) -> Result<T, TryRecvError> {
        self.inbox.receive()
    }

    /// As [`Inbox::waker`].
    pub fn waker(&self) -> InboxWaker {
        self.inbox.waker()
    }

    /// Waits for the next message; nothing once every sender has gone.
    pub async fn next(&self) -> Option<T> {
        loop {
            match self.receive() {
                Ok(message) => return Some(message),
                Err(TryRecvError::Empty) => self.woken().await,
                Err(TryRecvError::Disconnected) => return None,
            }
        }
    }

    /// Waits until somebody has sent, has gone or has called [`InboxWaker::wake`] since this, or a
    /// [`WatchedInbox::receive`] that found nothing, last returned.
    pub async fn woken(&self) {
        let taken = self.watched.readable(|wake| {
            if wake.take() {
                Ok(())
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            }
        });
        // It has no other error.
        let _ = taken.await;
    }
}

#[cfg(test)]
mod tests;
