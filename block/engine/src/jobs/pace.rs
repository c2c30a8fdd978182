//! How much a job may write before the host has to bring it to disk.
//!
//! A guest's flush waits for everything in the same file that is not on disk yet, the job's bytes
//! too. So the job asks for write-back as it goes, and writes no further ahead than the host can
//! write in [`TARGET`].

use std::time::{Duration, Instant};

use strata_storage::Storage;

/// What a guest's flush may have to wait for on the job's account.
const TARGET: Duration = Duration::from_millis(30);
const LEAST: u64 = 512 << 10;
const MOST: u64 = 32 << 20;

/// Bytes written since the host was last asked to write back, and how many may be.
pub(super) struct Pace {
    ahead: u64,
    limit: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            ahead: 0,
            limit: 2 << 20,
        }
    }
}

impl Pace {
    /// Notes that `bytes` have been written to `file`; waits for the host if it is behind.
    pub async fn wrote(&mut self, bytes: u64, file: &Storage) {
        self.ahead += bytes;
        if self.ahead < self.limit {
            return;
        }
        let started = Instant::now();
        // Waits for what was asked for the last time: about one limit's worth.
        file.write_back().await;
        self.adapt(started.elapsed());
        self.ahead = 0;
    }

    fn adapt(&mut self, took: Duration) {
        if took > TARGET {
            self.limit = (self.limit / 2).max(LEAST);
        } else if took < TARGET / 4 {
            self.limit = (self.limit * 2).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests;
