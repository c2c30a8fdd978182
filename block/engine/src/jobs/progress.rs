//! How far a job has come, in bytes that are copied: counted before the first is, and corrected on
//! the way, since the guest may write what would have been copied.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::api::{JobPhase, JobProgress, JobStatus};

/// The rate is that of so many last seconds.
const WINDOW: Duration = Duration::from_secs(4);
/// What is noted for the rate more often than that is noted once.
const SAMPLE: Duration = Duration::from_millis(100);

/// What a job has copied, and has to.
pub(crate) struct Progress {
    phase: Cell<JobPhase>,
    /// Bytes whose copying has begun.
    begun: Cell<u64>,
    copied: Cell<u64>,
    /// What lies before the job; `None` until it has been counted.
    ahead: RefCell<Option<Ahead>>,
    samples: RefCell<VecDeque<(Instant, u64)>>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            phase: Cell::new(JobPhase::Counting),
            begun: Cell::default(),
            copied: Cell::default(),
            ahead: RefCell::default(),
            samples: RefCell::default(),
        }
    }
}

impl Progress {
    /// What the job does from now on.
    pub fn enter(&self, phase: JobPhase) {
        self.phase.set(phase);
    }

    /// What a job does that has come to this state.
    pub fn follow(&self, status: JobStatus) {
        match status {
            JobStatus::Ready => self.enter(JobPhase::Ready),
            JobStatus::Waiting => self.enter(JobPhase::Waiting),
            JobStatus::Aborting => self.enter(JobPhase::Undoing),
            JobStatus::Concluded => self.enter(JobPhase::Ended),
            _ => {}
        }
    }

    /// What has been counted.
    pub fn set_ahead(&self, ahead: Ahead) {
        *self.ahead.borrow_mut() = Some(ahead);
        self.sample(Instant::now());
    }

    /// The job has looked at the disk up to `offset`, and begins to copy `bytes` that lie before
    /// it.
    pub fn passed(&self, offset: u64, bytes: u64) {
        self.begun.set(self.begun.get() + bytes);
        if let Some(ahead) = &mut *self.ahead.borrow_mut() {
            ahead.pass(offset, bytes);
        }
    }

    /// So many bytes more have been copied.
    pub fn copied(&self, bytes: u64) {
        self.copied.set(self.copied.get() + bytes);
        self.sample(Instant::now());
    }

    fn sample(&self, now: Instant) {
        let mut samples = self.samples.borrow_mut();
        let is_due = |(last, _): &(Instant, u64)| now.duration_since(*last) >= SAMPLE;
        if samples.back().is_none_or(is_due) {
            samples.push_back((now, self.copied.get()));
        }
        // The youngest that is older than the window is its beginning.
        while samples
            .get(1)
            .is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW)
        {
            samples.pop_front();
        }
    }

    /// Bytes a second.
    fn rate(&self, now: Instant) -> u64 {
        self.sample(now);
        let samples = self.samples.borrow();
        let Some((at, copied)) = samples.front() else {
            return 0;
        };
        let (bytes, time) = (self.copied.get() - copied, now.duration_since(*at));
        let nanos = time.as_nanos().max(1);
        u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
    }

    /// What clients get to see.
    pub fn describe(&self) -> JobProgress {
        let (copied, rate) = (self.copied.get(), self.rate(Instant::now()));
        let ahead = self.ahead.borrow().as_ref().map(|ahead| ahead.bytes);
        let to_copy = ahead.map(|ahead| self.begun.get() + ahead);
        let left = |to_copy: u64| match (to_copy.saturating_sub(copied), rate) {
            (0, _) => Some(0),
            (_, 0) => None,
            (left, rate) => Some(left.div_ceil(rate)),
        };
        JobProgress {
            x_phase: self.phase.get(),
            x_to_copy: to_copy,
            x_copied: copied,
            x_rate: rate,
            x_seconds_left: to_copy.and_then(left),
        }
    }
}

/// What lies before a job, by parts of the disk.
pub(crate) struct Ahead {
    /// Of each part, bytes that are to be copied.
    parts: Vec<u64>,
    /// How long a part is.
    part: u64,
    /// The part that the job has come to.
    current: usize,
    /// The sum of those of it and after it.
    bytes: u64,
}

/// Parts of a disk at most.
const PARTS: u64 = 1024;

impl Ahead {
    /// Nothing yet, of a disk of `len` bytes.
    pub fn new(len: u64) -> Self {
        let part = len.div_ceil(PARTS).max(1);
        Self {
            parts: Vec::new(),
            part,
            current: 0,
            bytes: 0,
        }
    }

    /// Adds what is to be copied from `offset` on. Parts are counted in the order of the disk.
    pub fn count(&mut self, mut offset: u64, mut len: u64) {
        self.bytes += len;
        while len > 0 {
            let index = usize::try_from(offset / self.part).unwrap_or(usize::MAX);
            let here = len.min(self.part - offset % self.part);
            if self.parts.len() <= index {
                self.parts.resize(index + 1, 0);
            }
            self.parts[index] += here;
            (offset, len) = (offset + here, len - here);
        }
    }

    /// `bytes` before `offset` are being copied. What else was counted there is not to be copied
    /// any more.
    fn pass(&mut self, offset: u64, mut bytes: u64) {
        let index = usize::try_from(offset / self.part).unwrap_or(usize::MAX);
        while self.current < index.min(self.parts.len()) {
            let counted = self.parts[self.current];
            self.bytes -= counted;
            bytes = bytes.saturating_sub(counted);
            self.current += 1;
        }
        let has_begun = !offset.is_multiple_of(self.part);
        if let Some(counted) = self.parts.get_mut(index).filter(|_| has_begun) {
            let taken = bytes.min(*counted);
            *counted -= taken;
            self.bytes -= taken;
        }
    }
}

#[cfg(test)]
mod tests;
