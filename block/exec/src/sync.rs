//! Waiting for one another on the device thread.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
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

    /// Tasks that wait.
    pub fn waiting(&self) -> usize {
        let waiting = self.waiting.borrow();
        // One that was polled for another reason is there more than once.
        let counted =
            |(at, waker): &(usize, &Waker)| !waiting[..*at].iter().any(|w| w.will_wake(waker));
        waiting.iter().enumerate().filter(counted).count()
    }

    /// Wakes everyone who waits.
    pub fn wake_all(&self) {
        self.round.set(self.round.get() + 1);
        let mut waiting = self.waiting.take();
        for waker in waiting.drain(..) {
            waker.wake();
        }
        // Its memory is for those who wait next.
        let next = self.waiting.take();
        self.waiting
            .replace(if next.is_empty() { waiting } else { next });
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

    /// Tasks that wait for it.
    pub fn waiting(&self) -> usize {
        self.free.waiting()
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

/// So much of something that is shared, in order of arrival: who wants much is not overtaken for
/// ever, and what is returned wakes only those that it is enough for.
pub struct Budget {
    total: u64,
    left: Cell<u64>,
    waiting: RefCell<VecDeque<Rc<Wish>>>,
}

/// What somebody waits for.
struct Wish {
    amount: u64,
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Budget {
    /// All of `total` is there.
    pub fn new(total: u64) -> Self {
        Self {
            total,
            left: Cell::new(total),
            waiting: RefCell::default(),
        }
    }

    /// Whether `amount` can be had without waiting.
    pub fn has(&self, amount: u64) -> bool {
        self.waiting.borrow().is_empty() && amount.min(self.total) <= self.left.get()
    }

    /// How much of it is taken.
    pub fn taken(&self) -> u64 {
        self.total - self.left.get()
    }

    /// Tasks that wait for a part of it.
    pub fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Whether somebody waits for more than there is.
    pub fn is_short(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Waits for `amount`, or for all there is if that is more. It has to be returned.
    pub async fn take(&self, amount: u64) -> u64 {
        let amount = amount.min(self.total);
        if self.has(amount) {
            self.left.set(self.left.get() - amount);
            return amount;
        }
        let wish = Rc::new(Wish {
            amount,
            granted: Cell::default(),
            waker: RefCell::default(),
        });
        self.waiting.borrow_mut().push_back(wish.clone());
        std::future::poll_fn(|cx| {
            if wish.granted.get() {
                return Poll::Ready(());
            }
            *wish.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        amount
    }

    /// Returns what was taken.
    pub fn give_back(&self, amount: u64) {
        self.left.set(self.left.get() + amount);
        let mut waiting = self.waiting.borrow_mut();
        while let Some(first) = waiting
            .front()
            .filter(|wish| wish.amount <= self.left.get())
        {
            self.left.set(self.left.get() - first.amount);
            first.granted.set(true);
            if let Some(waker) = first.waker.take() {
                waker.wake();
            }
            waiting.pop_front();
        }
    }
}

/// A callback and a future that ends with what the callback is called with: lets a task wait for
/// something that reports its end by a call.
pub fn promise<T>() -> (impl FnOnce(T), impl Future<Output = T>) {
    let slot = Rc::new((Cell::new(None), Cell::new(None::<Waker>)));
    let filled = slot.clone();
    let fulfil = move |value| {
        filled.0.set(Some(value));
        if let Some(waker) = filled.1.take() {
            waker.wake();
        }
    };
    let wait = std::future::poll_fn(move |cx| match slot.0.take() {
        Some(value) => Poll::Ready(value),
        None => {
            slot.1.set(Some(cx.waker().clone()));
            Poll::Pending
        }
    });
    (fulfil, wait)
}
