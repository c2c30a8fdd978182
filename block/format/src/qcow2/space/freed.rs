//! Host clusters whose last use has ended, on their way to being used again (rule W3).
//!
//! A cluster is `pending` from the moment when its table entry is cleared in memory; it has
//! `settled` when that is on disk. It may be allocated again once, besides, every operation that
//! could have looked up the old entry has ended.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
};

use crate::qcow2::layout::geometry::HostRun;

/// Clusters to be freed, and the operations under way.
#[derive(Default)]
pub struct FreedClusters {
    pending: RefCell<Vec<FreedRun>>,
    settled: RefCell<Vec<FreedRun>>,
    operations: Rc<Operations>,
}

/// The operations under way, by their numbers.
#[derive(Default)]
struct Operations {
    /// The oldest first.
    running: RefCell<VecDeque<u64>>,
    next: Cell<u64>,
}

/// A run of clusters, and the first operation that cannot know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreedRun {
    run: HostRun,
    unknown_to: u64,
}

/// An operation that may use clusters it has looked up, until it is dropped.
pub struct Operation {
    among: Rc<Operations>,
    number: u64,
}

impl FreedClusters {
    /// Starts an operation.
    pub fn operation(&self) -> Operation {
        let among = self.operations.clone();
        let number = among.next.get();
        among.next.set(number + 1);
        among.running.borrow_mut().push_back(number);
        Operation { among, number }
    }

    /// The run's table entries have been cleared in memory.
    pub fn push(&self, run: HostRun) {
        let unknown_to = self.operations.next.get();
        let mut pending = self.pending.borrow_mut();
        match pending.last_mut() {
            // What was allocated in one piece is released in one piece.
            Some(last) if last.run.end() == run.first => {
                last.run.count += run.count;
                last.unknown_to = unknown_to;
            }
            _ => pending.push(FreedRun { run, unknown_to }),
        }
    }

    /// Takes what is pending when tables start being written back.
    pub fn take_pending(&self) -> Vec<FreedRun> {
        self.pending.take()
    }

    /// The tables were not written.
    pub fn restore(&self, runs: Vec<FreedRun>) {
        self.pending.borrow_mut().extend(runs);
    }

    /// The tables are durable.
    pub fn settle(&self, runs: Vec<FreedRun>) {
        self.settled.borrow_mut().extend(runs);
    }

    /// Takes the runs that no operation can be using any more.
    pub fn take_releasable(&self) -> Vec<HostRun> {
        let oldest = self
            .operations
            .running
            .borrow()
            .front()
            .copied()
            .unwrap_or(u64::MAX);
        let mut free = Vec::new();
        self.settled.borrow_mut().retain(|waiting| {
            let keep = waiting.unknown_to > oldest;
            if !keep {
                free.push(waiting.run);
            }
            keep
        });
        free
    }

    /// Runs that no operation can be using could not be released; they are taken again with the
    /// next ones.
    pub fn wait_again(&self, runs: impl IntoIterator<Item = HostRun>) {
        let runs = runs.into_iter().filter(|run| run.count > 0);
        let waiting = runs.map(|run| FreedRun { run, unknown_to: 0 });
        self.settled.borrow_mut().extend(waiting);
    }

    /// Whether anything waits to be freed.
    pub fn is_empty(&self) -> bool {
        self.pending.borrow().is_empty() && self.settled.borrow().is_empty()
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let mut running = self.among.running.borrow_mut();
        if let Ok(index) = running.binary_search(&self.number) {
            running.remove(index);
        }
    }
}

#[cfg(test)]
mod tests;
