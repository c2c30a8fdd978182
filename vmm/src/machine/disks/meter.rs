//! What a device asks of its disk, counted and timed for the result of a run.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use strata_block::disk::{Disk, DiskInfo, Done, ExtentsDone, Op, Request, Submit};

/// A disk between a device and the block layer, which measures what goes through.
pub struct Meter {
    /// The disk's name. Not the disk: what has come of its requests is reported when it has long
    /// gone.
    id: String,
    seen: RefCell<Seen>,
}

struct Seen {
    first: Option<Instant>,
    next_id: u64,
    under_way: BTreeMap<u64, Instant>,
    reads: Kind,
    writes: Kind,
    flushes: Kind,
    /// Discards, and writes of zeroes.
    others: Kind,
    failed: u64,
}

/// Requests of one kind that have ended.
struct Kind {
    bytes: u64,
    /// Microseconds.
    latency: Histogram<u64>,
}

/// Longest latency that is distinguished from longer ones: an hour, in microseconds.
const LONGEST: u64 = 3_600_000_000;

impl Default for Kind {
    fn default() -> Self {
        Self {
            bytes: 0,
            latency: Histogram::new_with_max(LONGEST, 2).expect("bounds that make sense"),
        }
    }
}

/// What came of a disk's requests.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskReport {
    /// The disk's id.
    pub id: String,
    /// Reads.
    pub reads: KindReport,
    /// Writes.
    pub writes: KindReport,
    /// Flushes.
    pub flushes: KindReport,
    /// Discards and writes of zeroes.
    pub discards: KindReport,
    /// Requests that failed, of any kind.
    pub failed: u64,
    /// Requests that had not ended.
    pub in_flight: usize,
    /// Seconds that the oldest of those had taken so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_seconds: Option<f64>,
}

/// Requests of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct KindReport {
    /// Requests that have ended.
    pub requests: u64,
    /// Bytes that they were about.
    pub bytes: u64,
    /// Microseconds from request to completion; absent where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Latency>,
}

/// Percentiles of a latency, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    /// Half of the requests took no longer.
    pub p50: u64,
    /// 95 of 100 took no longer.
    pub p95: u64,
    /// 99 of 100 took no longer.
    pub p99: u64,
    /// The longest one.
    pub max: u64,
}

impl Meter {
    /// Measures what is asked of the disk that is called `id` in the report.
    pub fn new(id: String) -> Rc<Self> {
        Rc::new(Self {
            id,
            seen: RefCell::new(Seen {
                first: None,
                next_id: 0,
                under_way: BTreeMap::new(),
                reads: Kind::default(),
                writes: Kind::default(),
                flushes: Kind::default(),
                others: Kind::default(),
                failed: 0,
            }),
        })
    }

    /// When the first request came.
    pub fn first(&self) -> Option<Instant> {
        self.seen.borrow().first
    }

    /// What has come of the requests so far.
    pub fn report(&self, now: Instant) -> DiskReport {
        let seen = self.seen.borrow();
        let oldest = seen.under_way.values().min();
        DiskReport {
            id: self.id.clone(),
            reads: seen.reads.report(),
            writes: seen.writes.report(),
            flushes: seen.flushes.report(),
            discards: seen.others.report(),
            failed: seen.failed,
            in_flight: seen.under_way.len(),
            oldest_seconds: oldest.map(|start| now.duration_since(*start).as_secs_f64()),
        }
    }

    fn ended(&self, id: u64, op: Op, len: u64, failed: bool) {
        let mut seen = self.seen.borrow_mut();
        let Some(start) = seen.under_way.remove(&id) else {
            return;
        };
        if failed {
            seen.failed += 1;
            return;
        }
        let kind = match op {
            Op::Read => &mut seen.reads,
            Op::Write { .. } => &mut seen.writes,
            Op::Flush => &mut seen.flushes,
            Op::Discard | Op::WriteZeroes { .. } => &mut seen.others,
        };
        kind.count(len, start.elapsed());
    }
}

impl Kind {
    fn count(&mut self, bytes: u64, took: Duration) {
        self.bytes += bytes;
        let micros = u64::try_from(took.as_micros()).unwrap_or(LONGEST);
        self.latency.saturating_record(micros);
    }

    fn report(&self) -> KindReport {
        let latency = &self.latency;
        let at = |share| latency.value_at_quantile(share);
        KindReport {
            requests: latency.len(),
            bytes: self.bytes,
            latency_us: (!latency.is_empty()).then(|| Latency {
                p50: at(0.5),
                p95: at(0.95),
                p99: at(0.99),
                max: latency.max(),
            }),
        }
    }
}

/// What a device holds: the disk, measured.
pub struct Metered {
    /// The disk.
    pub disk: Disk,
    /// What measures.
    pub meter: Rc<Meter>,
}

impl Submit for Metered {
    fn submit(&self, request: Request, done: Done) {
        let (op, len) = (request.op, request.len);
        let id = {
            let mut seen = self.meter.seen.borrow_mut();
            let now = Instant::now();
            seen.first.get_or_insert(now);
            let id = seen.next_id;
            seen.next_id += 1;
            seen.under_way.insert(id, now);
            id
        };
        let meter = Rc::clone(&self.meter);
        self.disk.submit(request, move |result| {
            meter.ended(id, op, len, result.is_err());
            done(result);
        });
    }

    fn info(&self) -> Rc<DiskInfo> {
        self.disk.info()
    }

    fn extents(&self, offset: u64, len: u64, max: usize, done: ExtentsDone) {
        self.disk.extents(offset, len, max, done);
    }
}

#[cfg(test)]
mod tests;
