//! A counter for every cluster of a file, without space for those that are never counted.

use std::collections::BTreeMap;

/// Counters in one piece.
const PIECE: u64 = 4096;

/// The counters.
#[derive(Default)]
pub struct Counts(BTreeMap<u64, Vec<u32>>);

impl Counts {
    /// Counts one more.
    pub fn add(&mut self, cluster: u64) {
        let piece = self.0.entry(cluster / PIECE);
        let piece = piece.or_insert_with(|| vec![0; PIECE as usize]);
        let count = &mut piece[(cluster % PIECE) as usize];
        *count = count.saturating_add(1);
    }

    /// How often a cluster was counted.
    pub fn get(&self, cluster: u64) -> u64 {
        self.0
            .get(&(cluster / PIECE))
            .map_or(0, |piece| u64::from(piece[(cluster % PIECE) as usize]))
    }

    /// The clusters from `start` to before `end` that were counted.
    pub fn counted(&self, start: u64, end: u64) -> impl Iterator<Item = u64> + '_ {
        let pieces = start / PIECE..end.div_ceil(PIECE);
        let clusters = self.0.range(pieces).flat_map(|(&n, piece)| {
            let counted = piece.iter().enumerate().filter(|(_, count)| **count > 0);
            counted.map(move |(i, _)| n * PIECE + i as u64)
        });
        clusters.filter(move |cluster| (start..end).contains(cluster))
    }
}
