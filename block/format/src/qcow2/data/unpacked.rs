//! The compressed clusters that were unpacked last: reads of a few sectors in sequence unpack a
//! cluster once.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    sync::Arc,
};

/// Bytes that are kept.
const BUDGET: usize = 2 << 20;
/// Clusters that are kept.
const MOST: usize = 16;

/// Unpacked clusters by the offset of their stream in the file, the newest first. Once clusters of
/// the file have become free other streams may lie there: then all are forgotten.
#[derive(Default)]
pub struct Unpacked {
    clusters: RefCell<VecDeque<(u64, Arc<[u8]>)>>,
    /// How often clusters of the file had become free when the first of them was unpacked.
    releases: Cell<u64>,
}

impl Unpacked {
    /// The cluster whose stream starts at `offset`, if it is still here. Clusters of the file have
    /// become free `releases` times.
    pub fn get(&self, offset: u64, releases: u64) -> Option<Arc<[u8]>> {
        self.forget_before(releases);
        let mut clusters = self.clusters.borrow_mut();
        let at = clusters.iter().position(|(key, _)| *key == offset)?;
        let found = clusters.remove(at)?;
        let cluster = found.1.clone();
        clusters.push_front(found);
        Some(cluster)
    }

    /// Keeps a cluster for a while.
    pub fn insert(&self, offset: u64, releases: u64, cluster: Arc<[u8]>) {
        self.forget_before(releases);
        let mut clusters = self.clusters.borrow_mut();
        let most = (BUDGET / cluster.len()).clamp(1, MOST);
        clusters.truncate(most - 1);
        clusters.push_front((offset, cluster));
    }

    fn forget_before(&self, releases: u64) {
        if self.releases.replace(releases) != releases {
            self.clusters.borrow_mut().clear();
        }
    }
}
