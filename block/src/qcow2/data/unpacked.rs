//! The compressed clusters that were unpacked last: reads of a few sectors in sequence unpack a
//! cluster once.

use std::{cell::RefCell, collections::VecDeque, sync::Arc};

/// Bytes that are kept.
const BUDGET: usize = 2 << 20;
/// Clusters that are kept.
const MOST: usize = 16;

/// Unpacked clusters by the offset of their stream in the file, the newest first.
#[derive(Default)]
pub struct Unpacked(RefCell<VecDeque<(u64, Arc<[u8]>)>>);

impl Unpacked {
    /// The cluster whose stream starts at `offset`, if it is still here.
    pub fn get(&self, offset: u64) -> Option<Arc<[u8]>> {
        let mut clusters = self.0.borrow_mut();
        let at = clusters.iter().position(|(key, _)| *key == offset)?;
        let found = clusters.remove(at)?;
        let cluster = found.1.clone();
        clusters.push_front(found);
        Some(cluster)
    }

    /// Keeps a cluster for a while.
    pub fn insert(&self, offset: u64, cluster: Arc<[u8]>) {
        let mut clusters = self.0.borrow_mut();
        let most = (BUDGET / cluster.len()).clamp(1, MOST);
        clusters.truncate(most - 1);
        clusters.push_front((offset, cluster));
    }

    /// Forgets all: clusters of the file are about to be used for something else.
    pub fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}
