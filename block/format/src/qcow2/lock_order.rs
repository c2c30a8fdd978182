//! The order in which a task may take the locks of one image, asserted in debug builds.
//!
//! Tasks run on one thread and give way to each other wherever they wait, so what a thread holds
//! says nothing. A task is recognized by its waker, of which the executor makes one for
//! each; nothing polls two futures side by side within one task.

#[cfg(debug_assertions)]
use std::task::{Poll, Waker};
use std::{cell::RefCell, fmt, rc::Rc};

use strata_exec::sync::{Lock, LockGuard};

use crate::under_way::HeldLock;

/// The locks of an image. A task that holds one may only take those that come later here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::qcow2) enum Rank {
    /// A compressed cluster is unpacked. Nothing else is taken meanwhile.
    Unpacking,
    /// A new L2 table is linked, or the L1 table moves.
    Linking,
    /// Refcounts change.
    Refcounts,
    /// Tables are written to the file.
    WritingTables,
    /// The header changes.
    Header,
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unpacking => "unpacking",
            Self::Linking => "linking",
            Self::Refcounts => "refcounts",
            Self::WritingTables => "writing tables",
            Self::Header => "header",
        })
    }
}

/// The locks of one image, and who holds which of them.
#[derive(Default)]
pub(in crate::qcow2) struct LockOrder {
    locks: RefCell<Vec<(Rank, Rc<Lock>)>>,
    #[cfg(debug_assertions)]
    held: RefCell<Vec<(Rank, Waker)>>,
}

/// A lock with its place in the order.
pub(in crate::qcow2) struct RankedLock {
    lock: Rc<Lock>,
    rank: Rank,
    order: Rc<LockOrder>,
}

/// Holds a [`RankedLock`].
pub(in crate::qcow2) struct RankedGuard<'a> {
    _guard: LockGuard<'a>,
    #[cfg(debug_assertions)]
    of: &'a RankedLock,
}

impl RankedLock {
    /// A lock of the image that `order` belongs to.
    pub fn new(rank: Rank, order: &Rc<LockOrder>) -> Self {
        let lock = Rc::<Lock>::default();
        order.locks.borrow_mut().push((rank, lock.clone()));
        Self {
            lock,
            rank,
            order: order.clone(),
        }
    }

    /// Waits for the lock; it is free again when the guard is dropped.
    ///
    /// # Panics
    /// In debug builds, if the task holds this lock or one that comes later: sooner or later two
    /// tasks would wait for each other.
    pub async fn lock(&self) -> RankedGuard<'_> {
        self.order.check(self.rank).await;
        let guard = self.lock.lock().await;
        self.order.note(self.rank).await;
        RankedGuard {
            _guard: guard,
            #[cfg(debug_assertions)]
            of: self,
        }
    }
}

impl LockOrder {
    /// The locks that are held.
    pub fn held_locks(&self) -> Vec<HeldLock> {
        let locks = self.locks.borrow();
        let held = locks.iter().filter(|(_, lock)| lock.is_held());
        let held = held.map(|(rank, lock)| HeldLock {
            name: rank.to_string(),
            waiting: lock.waiting(),
        });
        held.collect()
    }
}

#[cfg(debug_assertions)]
impl LockOrder {
    async fn check(&self, rank: Rank) {
        let task = current_task().await;
        let held = self.held.borrow();
        let mut own = held.iter().filter(|(_, holder)| holder.will_wake(&task));
        if let Some((held, _)) = own.find(|(held, _)| *held >= rank) {
            panic!("the lock '{rank}' is taken while '{held}' is held");
        }
    }

    /// Asserts that the task holds no lock: it is about to wait for something else.
    ///
    /// # Panics
    /// It holds one.
    pub async fn check_none(&self) {
        let task = current_task().await;
        let held = self.held.borrow();
        let own = held.iter().find(|(_, holder)| holder.will_wake(&task));
        if let Some((held, _)) = own {
            panic!("a claim is waited for while '{held}' is held");
        }
    }

    async fn note(&self, rank: Rank) {
        let task = current_task().await;
        self.held.borrow_mut().push((rank, task));
    }
}

#[cfg(debug_assertions)]
impl Drop for RankedGuard<'_> {
    fn drop(&mut self) {
        // A lock has one holder.
        let RankedLock { rank, order, .. } = self.of;
        order.held.borrow_mut().retain(|(held, _)| held != rank);
    }
}

/// The waker of the task that waits for this, at once.
#[cfg(debug_assertions)]
async fn current_task() -> Waker {
    std::future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await
}

#[cfg(not(debug_assertions))]
#[allow(clippy::unused_async)]
impl LockOrder {
    async fn check(&self, _rank: Rank) {}

    /// In debug builds: asserts that the task holds no lock.
    pub async fn check_none(&self) {}

    async fn note(&self, _rank: Rank) {}
}

#[cfg(test)]
mod tests;
