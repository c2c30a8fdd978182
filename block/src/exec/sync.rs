//! Waiting for one another on the device thread.

use std::{
    cell::{Cell, RefCell},
    task::{Poll, Waker},
};

/// A place to wait for a change of some state. Wakers go first in, first out.
#[derive(Default)]
pub struct WaitQueue {
    round: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl WaitQueue {
    /// Ends after the next [`WaitQueue::wake_all`]. Look at the state again then: others may have
    /// been faster.
    pub async fn wait(&self) {
        let round = self.round.get();
        std::future::poll_fn(|cx| {
            if self.round.get() != round {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Wakes everyone who waits.
    pub fn wake_all(&self) {
        self.round.set(self.round.get() + 1);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }
}

/// One holder at a time, across awaits.
#[derive(Default)]
pub struct Lock {
    held: Cell<bool>,
    free: WaitQueue,
}

impl Lock {
    /// Waits for the lock; it is free again when the guard is dropped.
    pub async fn lock(&self) -> LockGuard<'_> {
        while self.held.get() {
            self.free.wait().await;
        }
        self.held.set(true);
        LockGuard(self)
    }
}

/// Holds a [`Lock`].
pub struct LockGuard<'a>(&'a Lock);

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        self.0.held.set(false);
        self.0.free.wake_all();
    }
}
