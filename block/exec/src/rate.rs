//! Speed limits.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use super::Executor;

/// Bytes a second, and when the next step may start.
pub struct Rate {
    speed: Cell<u64>,
    next: Cell<Option<Instant>>,
}

impl Rate {
    /// A rate of `speed` bytes a second, 0 for no limit.
    pub fn new(speed: u64) -> Self {
        Self {
            speed: Cell::new(speed),
            next: Cell::new(None),
        }
    }

    /// Bytes a second, 0 for no limit.
    pub fn speed(&self) -> u64 {
        self.speed.get()
    }

    /// Changes the limit; what was owed under the old one is forgiven.
    pub fn set_speed(&self, speed: u64) {
        self.speed.set(speed);
        self.next.set(None);
    }

    /// Notes that `bytes` have been copied.
    pub fn charge(&self, bytes: u64, now: Instant) {
        if self.speed.get() == 0 || bytes == 0 {
            return;
        }
        let seconds = bytes as f64 / self.speed.get() as f64;
        // A day is as good as for ever, and fits.
        let pause = Duration::from_secs_f64(seconds.min(86_400.0));
        self.next
            .set(Some(self.next.get().unwrap_or(now).max(now) + pause));
    }

    /// When the next step may start, if not now.
    pub fn wait_until(&self, now: Instant) -> Option<Instant> {
        self.next.get().filter(|&next| next > now)
    }
}

/// A speed limit for work that nothing but its end can stop.
pub struct SpeedLimit {
    exec: Rc<Executor>,
    rate: Rate,
}

impl SpeedLimit {
    /// At most `speed` bytes a second; 0 for no limit.
    pub fn new(exec: &Rc<Executor>, speed: u64) -> Self {
        Self {
            exec: exec.clone(),
            rate: Rate::new(speed),
        }
    }

    /// Notes that `bytes` have been copied, and waits until the next ones may be.
    pub async fn pass(&self, bytes: u64) {
        self.rate.charge(bytes, Instant::now());
        if let Some(until) = self.rate.wait_until(Instant::now()) {
            self.exec.sleep_until(until).await;
        }
    }
}
