//! A counter for every cluster of a file, without space for those that are never counted.

use std::{collections::BTreeMap, ops::Range};
use strata_exec::mem::to_usize;

/// Counters in one piece.
const PIECE: u64 = 4096;

/// The counters of the clusters in one window.
pub struct Counts {
    pieces: BTreeMap<u64, Vec<u32>>,
    window: Range<u64>,
}

impl Counts {
    /// Nothing has been counted yet. What lies outside the window never is.
    pub fn new(window: Range<u64>) -> Self {
        let pieces = BTreeMap::new();
        Self { pieces, window }
    }

    /// Whether a cluster is counted.
    pub fn covers(&self, cluster: u64) -> bool {
        self.window.contains(&cluster)
    }

    /// Counts one more.
    pub fn add(&mut self, cluster: u64) {
        if !self.covers(cluster) {
            return;
        }
        let piece = self.pieces.entry(cluster / PIECE);
        let piece = piece.or_insert_with(|| vec![0; to_usize(PIECE)]);
        let count = &mut piece[(cluster % PIECE) as usize];
        *count = count.saturating_add(1);
    }

    /// How often a cluster was counted.
    pub fn get(&self, cluster: u64) -> u64 {
        self.pieces
            .get(&(cluster / PIECE))
            .map_or(0, |piece| u64::from(piece[(cluster % PIECE) as usize]))
    }

    /// The clusters from `start` to before `end` that were counted.
    pub fn counted(&self, start: u64, end: u64) -> impl Iterator<Item = u64> + '_ {
        let pieces = start / PIECE..end.div_ceil(PIECE);
        let clusters = self.pieces.range(pieces).flat_map(|(&n, piece)| {
            let counted = piece.iter().enumerate().filter(|(_, count)| **count > 0);
            counted.map(move |(i, _)| n * PIECE + i as u64)
        });
        clusters.filter(move |cluster| (start..end).contains(cluster))
    }
}
