//! The guest's longest request during a merge, against its longest without one.

use crate::serial::IoSample;
use std::fmt;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// One request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// How long it took, in microseconds.
    pub micros: u64,
    /// Of which kind and on which disk: `read of vda`.
    pub what: String,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms ({})", self.micros as f64 / 1000.0, self.what)
    }
}

/// The longest requests of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Longest {
    /// In the reports that overlap a merge.
    pub during: Request,
    /// In all others.
    pub without: Request,
}

impl Longest {
    /// How many times longer; `None` if there is no report of one of the kinds.
    pub fn ratio(&self) -> Option<f64> {
        let (during, without) = (self.during.micros, self.without.micros);
        (during > 0 && without > 0).then(|| during as f64 / without as f64)
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
        for disk in &sample.disks {
            for (micros, kind) in disk.longest.into_iter().zip(["read", "write", "flush"]) {
                if micros > most.micros {
                    *most = Request {
                        micros,
                        what: format!("{kind} of {}", disk.name),
                    };
                }
            }
        }
    }
    longest
}
