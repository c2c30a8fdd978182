//! The guest's longest request during a merge, against its longest without one.

use crate::serial::IoSample;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// Longest requests, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Longest {
    /// In the reports that overlap a merge.
    pub during: u64,
    /// In all others.
    pub without: u64,
}

impl Longest {
    /// How many times longer; `None` if there is no report of one of the kinds.
    pub fn ratio(self) -> Option<f64> {
        (self.during > 0 && self.without > 0).then(|| self.during as f64 / self.without as f64)
    }
}

/// Sorts the reports of a run by whether the time that they cover overlaps one of `merges`.
pub fn compare(samples: &[IoSample], merges: &[(Instant, Instant)]) -> Longest {
    let mut longest = Longest::default();
    let mut previous_ms = 0;
    for sample in samples {
        let covered = Duration::from_millis(sample.guest_ms.saturating_sub(previous_ms));
        previous_ms = sample.guest_ms;
        let begin = sample.at.checked_sub(covered).unwrap_or(sample.at);
        let overlaps = merges
            .iter()
            .any(|&(from, to)| begin <= to && from <= sample.at);
        let most = if overlaps {
            &mut longest.during
        } else {
            &mut longest.without
        };
        let all = sample.disks.iter().flat_map(|disk| disk.longest);
        *most = all.fold(*most, u64::max);
    }
    longest
}
