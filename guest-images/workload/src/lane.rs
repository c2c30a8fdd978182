//! One lane at work: operation after operation, each checked against what the lane knows.

use crate::disk::Disk;
use crate::report::Failure;
use crate::stream::{Lane, MAX_UNITS, Op, Span};
use crate::unit::{Stamp, Unit};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// The kinds of request whose times are reported, as indices.
pub const KINDS: usize = 3;
const READ: usize = 0;
const WRITE: usize = 1;
const FLUSH: usize = 2;

/// What a lane shows to the reporter.
#[derive(Default)]
pub struct Gauge {
    /// How many operations are durable.
    pub flushed: AtomicU32,
    /// Requests done since the reporter last took the number.
    pub requests: AtomicU32,
    /// Longest request of each kind since the reporter last took it, in microseconds.
    longest: [AtomicU64; KINDS],
    /// When the request under way began, in microseconds since the run's start, plus one; 0 if
    /// none.
    began: [AtomicU64; KINDS],
}

impl Gauge {
    /// Takes the longest request of each kind, counting one that is under way with its age.
    pub fn take_longest(&self, start: Instant) -> [u64; KINDS] {
        let now = micros(start);
        std::array::from_fn(|kind| {
            let done = self.longest[kind].swap(0, Ordering::Relaxed);
            match self.began[kind].load(Ordering::Relaxed) {
                0 => done,
                began => done.max(now.saturating_sub(began - 1)),
            }
        })
    }
}

/// A lane and all it needs.
pub struct Worker<'a> {
    /// The disk.
    pub disk: &'a Disk,
    /// The lane.
    pub lane: Lane,
    /// Seed of this run.
    pub seed: u64,
    /// What the disk held before this run.
    pub baseline: &'a [Option<Stamp>],
    /// Start of the run.
    pub start: Instant,
    /// Where the lane shows how far it is.
    pub gauge: &'a Gauge,
    /// Set when the run is to end.
    pub stop: &'a AtomicBool,
}

impl Worker<'_> {
    /// Works until it is to stop, then flushes. Returns how many operations were done.
    pub fn run(&self) -> Result<u32, Failure> {
        let mut buffer = Unit::zeroed(MAX_UNITS as usize);
        let mut written = HashMap::new();
        let mut next = 0;
        while !self.stop.load(Ordering::Relaxed) {
            match self.lane.op(self.seed, next) {
                Op::Flush => {
                    self.timed(FLUSH, || self.disk.flush())?;
                    self.gauge.flushed.store(next + 1, Ordering::Release);
                }
                Op::Write(span) => self.write(span, next, &mut buffer, &mut written)?,
                Op::Read(span) => self.read(span, &mut buffer, &written)?,
            }
            next += 1;
        }
        self.disk.flush()?;
        self.gauge.flushed.store(next, Ordering::Release);
        Ok(next)
    }

    fn write(
        &self,
        span: Span,
        op: u32,
        buffer: &mut [Unit],
        written: &mut HashMap<u32, u32>,
    ) -> Result<(), Failure> {
        for (unit, data) in span.units().zip(buffer.iter_mut()) {
            data.fill(self.stamp(unit, op));
            written.insert(unit, op);
        }
        self.timed(WRITE, || self.disk.write(span, buffer))
    }

    fn read(
        &self,
        span: Span,
        buffer: &mut [Unit],
        written: &HashMap<u32, u32>,
    ) -> Result<(), Failure> {
        self.timed(READ, || self.disk.read(span, buffer))?;
        for (unit, data) in span.units().zip(buffer.iter()) {
            let expected = match written.get(&unit) {
                Some(&op) => Some(self.stamp(unit, op)),
                None => self.baseline[unit as usize],
            };
            if !data.holds(expected) {
                return Err(Failure::Content {
                    disk: self.disk.name.clone(),
                    unit,
                    expected: expected.map_or("zeros".to_owned(), |stamp| format!("[{stamp}]")),
                    found: data.identify().to_string(),
                });
            }
        }
        Ok(())
    }

    fn stamp(&self, unit: u32, op: u32) -> Stamp {
        Stamp {
            seed: self.seed,
            disk: self.lane.disk,
            unit,
            op,
        }
    }

    fn timed<T>(&self, kind: usize, request: impl FnOnce() -> T) -> T {
        let began = micros(self.start);
        self.gauge.began[kind].store(began + 1, Ordering::Relaxed);
        let result = request();
        self.gauge.began[kind].store(0, Ordering::Relaxed);
        let took = micros(self.start) - began;
        self.gauge.longest[kind].fetch_max(took, Ordering::Relaxed);
        self.gauge.requests.fetch_add(1, Ordering::Relaxed);
        result
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).expect("a run ends within 500,000 years")
}
