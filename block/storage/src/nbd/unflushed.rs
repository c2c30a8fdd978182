//! [`Unflushed`]: what a server has acknowledged and may still lose.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
};

use super::connection::Call;

/// Bytes of memory that may be taken before the server is asked to make durable what it has.
const MOST: usize = 32 << 20;

/// What a call takes besides its data, generously.
const OVERHEAD: usize = 1 << 10;

/// Calls that have changed the export since it was last flushed, in the order of their replies.
#[derive(Default)]
pub(super) struct Unflushed {
    calls: RefCell<VecDeque<Call>>,
    bytes: Cell<usize>,
    /// How many there were before the first of them.
    gone: Cell<u64>,
}

impl Unflushed {
    /// Keeps a call; the server has just acknowledged it.
    pub fn add(&self, call: Call) {
        self.bytes.set(self.bytes.get() + cost(&call));
        self.calls.borrow_mut().push_back(call);
    }

    /// How many have been added so far: a flush that is sent now covers these.
    pub fn count(&self) -> u64 {
        self.gone.get() + self.calls.borrow().len() as u64
    }

    /// The first `count` of all that were ever added are durable.
    pub fn forget(&self, count: u64) {
        while self.gone.get() < count && self.take_first().is_some() {}
    }

    /// Whether there is no more room.
    pub fn is_full(&self) -> bool {
        self.bytes.get() >= MOST
    }

    /// Takes all of them out, to be sent again.
    pub fn take(&self) -> VecDeque<Call> {
        std::iter::from_fn(|| self.take_first()).collect()
    }

    fn take_first(&self) -> Option<Call> {
        let call = self.calls.borrow_mut().pop_front()?;
        self.gone.set(self.gone.get() + 1);
        self.bytes.set(self.bytes.get() - cost(&call));
        Some(call)
    }
}

fn cost(call: &Call) -> usize {
    OVERHEAD + call.data.len()
}

#[cfg(test)]
mod tests;
