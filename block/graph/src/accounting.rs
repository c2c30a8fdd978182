//! What has come of a disk's requests, and how long they took: for `query-blockstats`.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use strata_exec::histogram::Histogram;

use crate::disk::{Completion, Op};

/// The requests of a disk that have ended, those of its device and of its exports.
#[derive(Default)]
pub struct Accounting {
    reads: Kind,
    writes: Kind,
    flushes: Kind,
    discards: Kind,
    /// Where the furthest write ended, in bytes.
    highest: Cell<u64>,
    last: Cell<Option<Instant>>,
}

/// Requests of one kind that have ended.
#[derive(Default)]
pub struct Kind {
    counts: Cell<Counts>,
    histogram: RefCell<Option<Histogram>>,
}

/// Numbers of requests of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that succeeded.
    pub operations: u64,
    /// Bytes that those were about.
    pub bytes: u64,
    /// Those that failed.
    pub failed: u64,
    /// What all of them took.
    pub time: Duration,
}

impl Accounting {
    /// Counts a request that began at `since` and has ended now.
    pub(crate) fn ended(
        &self,
        op: Op,
        (offset, len): (u64, u64),
        since: Instant,
        end: &Completion,
    ) {
        let now = Instant::now();
        let took = now.saturating_duration_since(since);
        self.last.set(Some(now));
        let kind = match op {
            Op::Read => &self.reads,
            Op::Write { .. } | Op::WriteZeroes { .. } => &self.writes,
            Op::Flush => &self.flushes,
            Op::Discard => &self.discards,
        };
        let mut counts = kind.counts.get();
        counts.time += took;
        if end.is_ok() {
            counts.operations += 1;
            counts.bytes += len;
            if matches!(op, Op::Write { .. } | Op::WriteZeroes { .. }) {
                self.highest.set(self.highest.get().max(offset + len));
            }
        } else {
            counts.failed += 1;
        }
        kind.counts.set(counts);
        if let Some(histogram) = &mut *kind.histogram.borrow_mut() {
            histogram.record(took);
        }
    }

    /// Reads.
    pub fn reads(&self) -> &Kind {
        &self.reads
    }

    /// Writes, also those of zeros.
    pub fn writes(&self) -> &Kind {
        &self.writes
    }

    /// Flushes.
    pub fn flushes(&self) -> &Kind {
        &self.flushes
    }

    /// Discards.
    pub fn discards(&self) -> &Kind {
        &self.discards
    }

    /// Where the furthest write ended, in bytes.
    pub fn highest_write(&self) -> u64 {
        self.highest.get()
    }

    /// How long ago the last request ended; `None` if there was none.
    pub fn idle(&self) -> Option<Duration> {
        self.last.get().map(|last| last.elapsed())
    }
}

impl Kind {
    /// The numbers so far.
    pub fn counts(&self) -> Counts {
        self.counts.get()
    }

    /// How long they took since [`Kind::set_histogram`].
    pub fn histogram(&self) -> Option<Histogram> {
        self.histogram.borrow().clone()
    }

    /// Counts in this histogram from now on, or in none.
    pub fn set_histogram(&self, histogram: Option<Histogram>) {
        *self.histogram.borrow_mut() = histogram;
    }
}
