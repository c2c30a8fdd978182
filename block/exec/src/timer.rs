//! Sleeping tasks, by the time at which they want to be woken.

use std::{collections::BTreeMap, task::Waker, time::Instant};

#[derive(Default)]
pub(super) struct Timers {
    /// The counter keeps entries of the same instant apart.
    sleeping: BTreeMap<(Instant, u64), Waker>,
    next: u64,
}

impl Timers {
    pub fn insert(&mut self, deadline: Instant, waker: Waker) {
        self.sleeping.insert((deadline, self.next), waker);
        self.next += 1;
    }

    /// Wakes every task whose time has come.
    pub fn fire(&mut self, now: Instant) {
        while let Some(entry) = self.sleeping.first_entry()
            && entry.key().0 <= now
        {
            entry.remove().wake();
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.sleeping.keys().next().map(|key| key.0)
    }
}
