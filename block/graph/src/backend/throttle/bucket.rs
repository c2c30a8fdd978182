//! Leaky buckets: what has been done lately, and how long the next request has to wait.

use std::time::{Duration, Instant};

use super::limits::{Limit, Limits, ThrottleLimits};

/// The longest wait that is computed at once; then it is looked again.
const DAY: Duration = Duration::from_secs(86_400);

/// What is poured in leaks at the average rate. When it is too full the next request waits.
#[derive(Debug)]
struct Bucket {
    limit: Limit,
    level: f64,
    /// What leaks at the burst rate, where bursts may last longer than a second.
    burst_level: f64,
}

impl Bucket {
    fn new(limit: Limit) -> Self {
        Self {
            limit,
            level: 0.0,
            burst_level: 0.0,
        }
    }

    fn leak(&mut self, elapsed: Duration) {
        let leaked = |rate: u64| rate as f64 * elapsed.as_secs_f64();
        self.level = (self.level - leaked(self.limit.average)).max(0.0);
        self.burst_level = (self.burst_level - leaked(self.limit.burst)).max(0.0);
    }

    fn pour(&mut self, units: f64) {
        self.level += units;
        if self.limit.burst_seconds > 1 {
            self.burst_level += units;
        }
    }

    fn wait(&self) -> Duration {
        let Limit {
            average,
            burst,
            burst_seconds,
        } = self.limit;
        if average == 0 {
            return Duration::ZERO;
        }
        // A tenth of a second's worth is always let through, or every other request would wait.
        let size = match burst {
            0 => average as f64 / 10.0,
            _ => burst as f64 * burst_seconds as f64,
        };
        let extra = self.level - size;
        if extra > 0.0 {
            return time(extra, average);
        }
        let extra = self.burst_level - burst as f64 / 10.0;
        if burst_seconds > 1 && extra > 0.0 {
            return time(extra, burst);
        }
        Duration::ZERO
    }
}

/// How long so many units take to leak.
fn time(units: f64, rate: u64) -> Duration {
    Duration::try_from_secs_f64(units / rate as f64).map_or(DAY, |time| time.min(DAY))
}

/// Which way a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It reads.
    Read,
    /// It writes.
    Write,
}

impl Way {
    pub(super) const BOTH: [Self; 2] = [Self::Read, Self::Write];
}

/// The buckets of one unit.
#[derive(Debug)]
struct Three {
    total: Bucket,
    read: Bucket,
    write: Bucket,
}

impl Three {
    fn new(limits: &Limits) -> Self {
        Self {
            total: Bucket::new(limits.total),
            read: Bucket::new(limits.read),
            write: Bucket::new(limits.write),
        }
    }

    fn all(&mut self) -> [&mut Bucket; 3] {
        [&mut self.total, &mut self.read, &mut self.write]
    }

    fn of(&mut self, way: Way) -> [&mut Bucket; 2] {
        let one = match way {
            Way::Read => &mut self.read,
            Way::Write => &mut self.write,
        };
        [&mut self.total, one]
    }
}

/// All buckets of a group.
#[derive(Debug)]
pub struct Buckets {
    limits: ThrottleLimits,
    bytes: Three,
    requests: Three,
    /// When they leaked last.
    at: Instant,
}

impl Buckets {
    /// Empty ones.
    pub fn new(limits: ThrottleLimits, now: Instant) -> Self {
        Self {
            limits,
            bytes: Three::new(&limits.bytes),
            requests: Three::new(&limits.requests),
            at: now,
        }
    }

    /// What they were made for.
    pub fn limits(&self) -> ThrottleLimits {
        self.limits
    }

    /// How long the next request that goes this way has to wait.
    pub fn wait(&mut self, way: Way, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        for bucket in self.bytes.all().into_iter().chain(self.requests.all()) {
            bucket.leak(elapsed);
        }
        let both = self.bytes.of(way).into_iter().chain(self.requests.of(way));
        both.map(|bucket| bucket.wait()).max().unwrap_or_default()
    }

    /// A request of `bytes` bytes goes this way.
    pub fn pour(&mut self, way: Way, bytes: u64) {
        let size = self.limits.request_size;
        let requests = match size {
            0 => 1.0,
            _ => (bytes as f64 / size as f64).max(1.0),
        };
        for bucket in self.bytes.of(way) {
            bucket.pour(bytes as f64);
        }
        for bucket in self.requests.of(way) {
            bucket.pour(requests);
        }
    }
}

#[cfg(test)]
mod tests;
