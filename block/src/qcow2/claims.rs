//! Claims on guest clusters that are being given a new host cluster.
//!
//! A claim takes adjacent clusters from its first one up to the next that somebody else has, in
//! one step, and its holder never waits for another claim: so nobody waits in a circle.

use std::{cell::RefCell, collections::BTreeMap};

use super::geometry::GuestCluster;
use crate::exec::sync::WaitQueue;

/// The claims of one image.
#[derive(Default)]
pub struct Claims {
    /// First cluster to the first one behind.
    held: RefCell<BTreeMap<u64, u64>>,
    released: WaitQueue,
}

/// A claim; dropping it lets the others look again.
pub struct Claim<'a> {
    claims: &'a Claims,
    first: u64,
    count: u64,
}

impl Claims {
    /// Claims up to `count` clusters from `first` on; `None` if somebody has the first one.
    pub fn claim(&self, first: GuestCluster, count: u64) -> Option<Claim<'_>> {
        let mut held = self.held.borrow_mut();
        let first = first.0;
        let below = held.range(..=first).next_back();
        if below.is_some_and(|(_, &end)| end > first) {
            return None;
        }
        let next = held.range(first..).next().map_or(u64::MAX, |(&at, _)| at);
        let count = count.min(next - first);
        held.insert(first, first + count);
        Some(Claim {
            claims: self,
            first,
            count,
        })
    }

    /// Waits until a claim is released. What was looked up before is no longer known then.
    pub async fn wait(&self) {
        self.released.wait().await;
    }
}

impl Claim<'_> {
    /// Clusters held.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Gives up all but the first `count` clusters.
    pub fn shrink(&mut self, count: u64) {
        if count < self.count {
            self.count = count;
            let mut held = self.claims.held.borrow_mut();
            held.insert(self.first, self.first + count);
            drop(held);
            self.claims.released.wake_all();
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.claims.held.borrow_mut().remove(&self.first);
        self.claims.released.wake_all();
    }
}

#[cfg(test)]
mod tests;
