//! Allocating host clusters: the first free run behind the last one, so that what is written in
//! sequence lies in sequence.

use strata_exec::mem::to_usize;
use strata_storage::error::{IoError, IoResult, NoRoom};

use super::Space;
use crate::qcow2::layout::{
    geometry::{HostCluster, HostRun},
    width,
};

/// Adjacent clusters that have no other reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::qcow2) struct Allocated {
    /// Where they are.
    pub run: HostRun,
    /// They have never been used, so they read as zeros.
    pub fresh: bool,
}

impl Space {
    /// Allocates between 1 and `wanted` adjacent clusters. Their refcounts are 1 in memory, and
    /// are on disk before any table that names them (rule W2).
    pub async fn allocate(&self, wanted: u64) -> IoResult<Allocated> {
        let lock = self.refcounts.lock().await;
        let g = &self.geometry;
        loop {
            let at = HostCluster(self.refcounts.next.get());
            if at.0 >= g.host_limit() {
                return Err(IoError::NoSpace {
                    file: self.file.storage().path().to_owned(),
                    why: NoRoom::Full,
                });
            }
            let Some((slice, index)) = self.refcount_slice(&lock, at).await? else {
                self.add_refcount_block(&lock, at).await?;
                continue;
            };
            let order = g.refcount_order;
            let end = to_usize(g.refcounts_per_slice());
            let is_free = |bytes: &[u8], i: usize| width::get(bytes, order, i) == 0;
            let found = slice.with(|bytes| {
                let first = (index..end).find(|&i| is_free(bytes, i))?;
                let most = end.min(first.saturating_add(usize::try_from(wanted).unwrap_or(end)));
                let stop = (first + 1..most)
                    .find(|&i| !is_free(bytes, i))
                    .unwrap_or(most);
                Some(first..stop)
            });
            let Some(found) = found else {
                self.refcounts.next.set(at.0 + (end - index) as u64);
                continue;
            };
            let run = HostRun {
                first: at.plus((found.start - index) as u64),
                count: found.len() as u64,
            };
            self.check_unused(run)?;
            self.refcounts.blocks.update(&slice, |bytes| {
                found.for_each(|i| width::set(bytes, order, i, 1));
            });
            return Ok(self.mark_allocated(run));
        }
    }

    /// The run has been counted: it is in use now.
    pub(super) fn mark_allocated(&self, run: HostRun) -> Allocated {
        self.refcounts.next.set(run.end().0);
        let untouched = &self.refcounts.untouched;
        let fresh = run.first.0 >= untouched.get();
        untouched.set(untouched.get().max(run.end().0));
        Allocated { run, fresh }
    }
}
