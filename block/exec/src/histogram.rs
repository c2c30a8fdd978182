//! [`Histogram`]: how often something took how long.

use std::time::Duration;

/// Counts of times between boundaries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Nanoseconds, ascending.
    boundaries: Vec<u64>,
    /// One more: times shorter than the first boundary, from each to the next, and all others.
    bins: Vec<u64>,
}

impl Histogram {
    /// Nothing has been counted yet. `None` if the boundaries, in nanoseconds, do not ascend, or
    /// the first is 0.
    pub fn new(boundaries: Vec<u64>) -> Option<Self> {
        let ascend = boundaries.first() != Some(&0) && boundaries.is_sorted_by(|a, b| a < b);
        let bins = vec![0; boundaries.len() + 1];
        ascend.then_some(Self { boundaries, bins })
    }

    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let index = self
            .boundaries
            .partition_point(|&boundary| boundary <= nanos);
        if let Some(bin) = self.bins.get_mut(index) {
            *bin += 1;
        }
    }

    /// Nanoseconds.
    pub fn boundaries(&self) -> &[u64] {
        &self.boundaries
    }

    /// How many were counted before the first boundary, from each to the next, and from the last.
    pub fn bins(&self) -> &[u64] {
        &self.bins
    }
}

#[cfg(test)]
mod tests;
