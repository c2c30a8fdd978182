//! Claims on parts of the virtual disk that are being given another place in the file.
//!
//! A claim takes what lies between its start and the next part that another task has, in one step,
//! and its holder never waits for another claim: so tasks do not wait in a circle.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use strata_exec::sync::WaitQueue;

use super::Data;
use crate::{qcow2::lock_order::LockOrder, under_way::UnderWay};

/// The claims of one image. Positions are bytes of the virtual disk.
pub struct Claims {
    /// Where each starts, and where it ends.
    held: RefCell<BTreeMap<u64, u64>>,
    released: WaitQueue,
    locks: Rc<LockOrder>,
}

/// A claim; dropping it lets the others look again.
pub struct Claim<'a> {
    claims: &'a Claims,
    start: u64,
    end: u64,
}

impl Claims {
    /// Nothing is claimed yet, in the image with these locks.
    pub fn new(locks: Rc<LockOrder>) -> Self {
        Self {
            held: RefCell::default(),
            released: WaitQueue::default(),
            locks,
        }
    }

    /// Claims what there is from `start` on, up to `end`; `None` if another task has the start.
    pub fn claim(&self, start: u64, end: u64) -> Option<Claim<'_>> {
        let mut held = self.held.borrow_mut();
        let below = held.range(..=start).next_back();
        if below.is_some_and(|(_, &end)| end > start) {
            return None;
        }
        let next = held.range(start..).next().map_or(u64::MAX, |(&at, _)| at);
        let end = end.min(next);
        held.insert(start, end);
        Some(Claim {
            claims: self,
            start,
            end,
        })
    }

    /// Waits until a claim is released. What was looked up before is no longer known then. The
    /// caller holds no lock, and no claim.
    pub async fn wait(&self) {
        self.locks.check_none().await;
        self.released.wait().await;
    }
}

impl Claim<'_> {
    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Gives up what lies behind `end`.
    pub fn shrink(&mut self, end: u64) {
        if end < self.end {
            self.end = end;
            self.claims.held.borrow_mut().insert(self.start, end);
            self.claims.released.wake_all();
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.claims.held.borrow_mut().remove(&self.start);
        self.claims.released.wake_all();
    }
}

impl Data {
    /// What is claimed, and which locks of the image are held.
    pub fn under_way(&self) -> UnderWay {
        let claims = &self.claims;
        let held = claims.held.borrow();
        UnderWay {
            claims: held.iter().map(|(&start, &end)| start..end).collect(),
            waiting_for_claims: claims.released.waiting(),
            locks: claims.locks.held_locks(),
        }
    }

    /// Claims the clusters that the bytes from `at` to before `end` touch, from the first one up to
    /// one of which another task has a part; `None` if that is the first.
    pub(super) fn claim_clusters(&self, at: u64, end: u64) -> Option<Claim<'_>> {
        self.claim_whole(self.geometry.cluster_size(), at, end)
    }

    /// The same for subclusters. Their clusters stay where they are meanwhile.
    pub(super) fn claim_subclusters(&self, at: u64, end: u64) -> Option<Claim<'_>> {
        self.claim_whole(self.geometry.subcluster_size(), at, end)
    }

    fn claim_whole(&self, unit: u64, at: u64, end: u64) -> Option<Claim<'_>> {
        let start = at - at % unit;
        let mut claim = self.claims.claim(start, end.next_multiple_of(unit))?;
        claim.shrink(claim.end() - claim.end() % unit);
        (claim.end() > start).then_some(claim)
    }
}

#[cfg(test)]
mod tests;
