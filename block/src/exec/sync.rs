//! Waiting for one another on the device thread.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    rc::Rc,
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
    /// Whether somebody holds it.
    pub fn is_held(&self) -> bool {
        self.held.get()
    }

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

/// A callback and a future that ends with what the callback is called with: lets a task wait for
/// something that tells of its end by a call.
pub fn promise<T>() -> (impl FnOnce(T), impl Future<Output = T>) {
    let slot = Rc::new((Cell::new(None), WaitQueue::default()));
    let filled = slot.clone();
    let fulfil = move |value| {
        filled.0.set(Some(value));
        filled.1.wake_all();
    };
    let wait = async move {
        loop {
            if let Some(value) = slot.0.take() {
                return value;
            }
            slot.1.wait().await;
        }
    };
    (fulfil, wait)
}
