//! The in-flight table: ordering of overlapping work, pinning of mappings, and draining.
//!
//! Guest reads and writes enter [`Mode::Shared`]; what may free or switch clusters (discard, zero
//! with unmap, `write_if_unallocated`) enters [`Mode::Exclusive`] on the cluster-aligned range.
//! Admission is first in, first out among entries that conflict, so nobody starves.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    ops::Range,
    rc::Rc,
};

use strata_exec::sync::WaitQueue;

/// How an entry shares its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// With other shared entries.
    Shared,
    /// With nobody.
    Exclusive,
}

struct Entry {
    ticket: u64,
    range: Range<u64>,
    mode: Mode,
}

impl Entry {
    fn conflicts(&self, range: &Range<u64>, mode: Mode) -> bool {
        let overlap = self.range.start < range.end && range.start < self.range.end;
        overlap && (self.mode == Mode::Exclusive || mode == Mode::Exclusive)
    }
}

/// A range in a table, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeUnderWay {
    /// Bytes of the disk.
    pub range: Range<u64>,
    /// It shares its range with nobody.
    pub exclusive: bool,
    /// It waits until an earlier one ends.
    pub waits: bool,
}

/// The table of one node: what is under way, and what waits for it.
#[derive(Default)]
pub struct InFlight(Rc<Table>);

#[derive(Default)]
struct Table {
    /// In the order of arrival, which is that of their tickets.
    entries: RefCell<VecDeque<Entry>>,
    next: Cell<u64>,
    left: WaitQueue,
    /// Entries that wait; while there are none, leaving wakes nobody.
    waiting: Cell<usize>,
}

impl InFlight {
    /// Waits until nothing that came earlier conflicts with `mode` on the byte `range`. The entry
    /// lasts until the guard is dropped.
    pub async fn enter(&self, range: Range<u64>, mode: Mode) -> InFlightGuard {
        let table = &self.0;
        let ticket = table.next.get();
        table.next.set(ticket + 1);
        let entry = Entry {
            ticket,
            range,
            mode,
        };
        table.entries.borrow_mut().push_back(entry);
        let guard = InFlightGuard {
            table: table.clone(),
            ticket,
        };
        while !table.may_go(ticket) {
            table.waiting.set(table.waiting.get() + 1);
            table.left.wait().await;
            table.waiting.set(table.waiting.get() - 1);
        }
        guard
    }

    /// The entries, the oldest first.
    pub fn ranges(&self) -> Vec<RangeUnderWay> {
        let entries = self.0.entries.borrow();
        let ranges = entries.iter().map(|entry| RangeUnderWay {
            range: entry.range.clone(),
            exclusive: entry.mode == Mode::Exclusive,
            waits: !self.0.may_go(entry.ticket),
        });
        ranges.collect()
    }

    /// Entries that wait.
    pub fn waiting(&self) -> usize {
        self.0.waiting.get()
    }
}

impl Table {
    fn may_go(&self, ticket: u64) -> bool {
        let entries = self.entries.borrow();
        let entry = &entries[index_of(&entries, ticket)];
        let mut earlier = entries.iter().take_while(|e| e.ticket < ticket);
        !earlier.any(|e| e.conflicts(&entry.range, entry.mode))
    }
}

fn index_of(entries: &VecDeque<Entry>, ticket: u64) -> usize {
    let index = entries.binary_search_by_key(&ticket, |entry| entry.ticket);
    index.expect("an entry stays until its guard is dropped")
}

/// An admitted entry.
pub struct InFlightGuard {
    table: Rc<Table>,
    ticket: u64,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let mut entries = self.table.entries.borrow_mut();
        let index = index_of(&entries, self.ticket);
        entries.remove(index);
        drop(entries);
        if self.table.waiting.get() > 0 {
            self.table.left.wake_all();
        }
    }
}

/// Counts the requests inside, and can be closed to let them run out.
#[derive(Default)]
pub struct Gate {
    inside: Cell<usize>,
    closed: Cell<usize>,
    changed: WaitQueue,
}

impl Gate {
    /// Waits until the gate is open and goes in.
    pub async fn enter(&self) -> GatePass<'_> {
        while self.closed.get() > 0 {
            self.changed.wait().await;
        }
        self.inside.set(self.inside.get() + 1);
        GatePass(self)
    }

    /// Closes the gate and waits until everyone has left. It opens when the guard is dropped.
    pub async fn drain(&self) -> Drained<'_> {
        self.closed.set(self.closed.get() + 1);
        let guard = Drained(self);
        while self.inside.get() > 0 {
            self.changed.wait().await;
        }
        guard
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.closed.get() > 0
    }

    /// Tasks that wait until it is open, or until all who are inside have left.
    pub fn waiting(&self) -> usize {
        self.changed.waiting()
    }

    /// Requests inside.
    pub fn inside(&self) -> usize {
        self.inside.get()
    }
}

/// A request that is inside a [`Gate`].
pub struct GatePass<'a>(&'a Gate);

impl Drop for GatePass<'_> {
    fn drop(&mut self) {
        self.0.inside.set(self.0.inside.get() - 1);
        if self.0.closed.get() > 0 {
            self.0.changed.wake_all();
        }
    }
}

/// A [`Gate`] that is closed and empty.
pub struct Drained<'a>(&'a Gate);

impl Drop for Drained<'_> {
    fn drop(&mut self) {
        self.0.closed.set(self.0.closed.get() - 1);
        self.0.changed.wake_all();
    }
}

#[cfg(test)]
mod tests;
