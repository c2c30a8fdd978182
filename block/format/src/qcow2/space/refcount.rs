//! Refcounts: cached blocks, and dropping references.

use std::{cell::Cell, rc::Rc};
use strata_exec::mem::to_usize;

use strata_storage::error::IoResult;

use super::Space;
use crate::{
    qcow2::{
        layout::{
            entry::refcount_block,
            geometry::{HostCluster, HostRun},
            width,
        },
        lock_order::{LockOrder, Rank, RankedGuard, RankedLock},
    },
    root_table::RootTable,
    table_cache::{Slice, TableCache},
};

/// The refcounts of one image.
pub(super) struct Refcounts {
    /// The refcount table.
    pub table: RootTable,
    /// Slices of refcount blocks.
    pub blocks: TableCache,
    /// No cluster before this one is free.
    pub next: Cell<u64>,
    /// No cluster from this one on has ever been used: reads as zeros, whatever becomes of it.
    pub untouched: Cell<u64>,
    lock: RankedLock,
}

/// The right to change refcounts, across awaits.
pub(super) struct RefcountsLocked<'a> {
    _guard: RankedGuard<'a>,
}

/// What became of raising or setting a refcount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::qcow2) enum RefcountUpdate {
    /// It is what was asked for.
    Done,
    /// The cluster is not in use.
    Unused,
    /// The refcount cannot be higher.
    AtMaximum,
}

impl Refcounts {
    /// Nothing has been looked at yet. The file has `clusters` clusters.
    pub fn new(table: RootTable, blocks: TableCache, clusters: u64, order: &Rc<LockOrder>) -> Self {
        Self {
            table,
            blocks,
            next: Cell::new(0),
            untouched: Cell::new(clusters),
            lock: RankedLock::new(Rank::Refcounts, order),
        }
    }

    /// Waits for the right to change refcounts.
    pub async fn lock(&self) -> RefcountsLocked<'_> {
        RefcountsLocked {
            _guard: self.lock.lock().await,
        }
    }
}

impl Space {
    /// The slice that holds a cluster's refcount, and the refcount's index in it; `None` if there
    /// is no block for it yet, so that its refcount is 0.
    pub(super) async fn refcount_slice(
        &self,
        _lock: &RefcountsLocked<'_>,
        cluster: HostCluster,
    ) -> IoResult<Option<(Rc<Slice>, usize)>> {
        let g = &self.geometry;
        let index = usize::try_from(cluster.0 / g.refcounts_per_block()).unwrap_or(usize::MAX);
        let raw = self.refcounts.table.get(index);
        let block = refcount_block(raw, g).map_err(|why| self.file.corrupt(why))?;
        let Some(block) = block else { return Ok(None) };
        if self.refcounts.blocks.is_crowded() {
            self.write_back_refcounts().await?;
        }
        let in_block = cluster.0 % g.refcounts_per_block();
        let slice = in_block / g.refcounts_per_slice();
        let offset = g.host_offset(block) + slice * g.slice_bytes();
        let slice = self.refcounts.blocks.get(offset).await?;
        let index = to_usize(in_block % g.refcounts_per_slice());
        Ok(Some((slice, index)))
    }

    /// A cluster's refcount.
    pub async fn refcount(&self, cluster: HostCluster) -> IoResult<u64> {
        let lock = self.refcounts.lock().await;
        let found = self.refcount_slice(&lock, cluster).await?;
        let order = self.geometry.refcount_order;
        Ok(found.map_or(0, |(slice, index)| {
            slice.with(|bytes| width::get(bytes, order, index))
        }))
    }

    /// The parts of the run whose clusters have refcount 1.
    pub(super) async fn unshared(&self, run: HostRun) -> IoResult<Vec<HostRun>> {
        let lock = self.refcounts.lock().await;
        let mut parts: Vec<HostRun> = Vec::new();
        for cluster in (run.first.0..run.end().0).map(HostCluster) {
            let Some((slice, index)) = self.refcount_slice(&lock, cluster).await? else {
                continue;
            };
            if slice.with(|bytes| width::get(bytes, self.geometry.refcount_order, index)) != 1 {
                continue;
            }
            match parts.last_mut() {
                Some(last) if last.end() == cluster => last.count += 1,
                _ => parts.push(HostRun::one(cluster)),
            }
        }
        Ok(parts)
    }

    /// Drops one reference to each cluster of the run; those left without any may be allocated
    /// again at once.
    pub async fn drop_references(&self, mut run: HostRun) -> IoResult<()> {
        self.drop_each_reference(&mut run).await
    }

    /// Frees clusters that have been allocated for something that failed. What cannot be freed now
    /// waits for the next flush: the caller has an error of its own to report.
    pub async fn deallocate(&self, mut run: HostRun) {
        if let Err(error) = self.drop_each_reference(&mut run).await {
            tracing::warn!(%error, "clusters that are not used cannot be freed yet");
            self.freed.wait_again([run]);
        }
    }

    /// As [`Space::drop_references`]. The clusters whose reference is dropped are taken from the
    /// run, so that after an error it is what is left.
    pub(super) async fn drop_each_reference(&self, run: &mut HostRun) -> IoResult<()> {
        let lock = self.refcounts.lock().await;
        while run.count > 0 {
            let cluster = run.first;
            let found = self.refcount_slice(&lock, cluster).await?;
            let order = self.geometry.refcount_order;
            let count = found.as_ref().map_or(0, |(slice, index)| {
                slice.with(|bytes| width::get(bytes, order, *index))
            });
            let (Some((slice, index)), 1..) = (found, count) else {
                let offset = self.geometry.host_offset(cluster);
                let error = self
                    .file
                    .corrupt(format!("the cluster at {offset:#x} in use has refcount 0"));
                self.file.stop_after(&error);
                return Err(error);
            };
            self.refcounts.blocks.update(&slice, |bytes| {
                width::set(bytes, order, index, count - 1);
            });
            if count == 1 {
                let next = &self.refcounts.next;
                next.set(next.get().min(cluster.0));
                self.releases.set(self.releases.get() + 1);
            }
            *run = HostRun {
                first: cluster.plus(1),
                count: run.count - 1,
            };
        }
        Ok(())
    }

    /// Adds a reference to a cluster that has one already, in memory.
    pub async fn add_reference(&self, cluster: HostCluster) -> IoResult<RefcountUpdate> {
        let lock = self.refcounts.lock().await;
        let found = self.refcount_slice(&lock, cluster).await?;
        let order = self.geometry.refcount_order;
        let count = found.as_ref().map_or(0, |(slice, index)| {
            slice.with(|bytes| width::get(bytes, order, *index))
        });
        let (Some((slice, index)), 1..) = (found, count) else {
            return Ok(RefcountUpdate::Unused);
        };
        if count == width::max(order) {
            return Ok(RefcountUpdate::AtMaximum);
        }
        let set = |bytes: &mut [u8]| width::set(bytes, order, index, count + 1);
        self.refcounts.blocks.update(&slice, set);
        Ok(RefcountUpdate::Done)
    }

    /// Sets a cluster's refcount, in memory. `Unused` means that there is no block for it.
    pub async fn set_refcount(
        &self,
        cluster: HostCluster,
        refcount: u64,
    ) -> IoResult<RefcountUpdate> {
        let lock = self.refcounts.lock().await;
        let Some((slice, index)) = self.refcount_slice(&lock, cluster).await? else {
            return Ok(RefcountUpdate::Unused);
        };
        let order = self.geometry.refcount_order;
        if refcount > width::max(order) {
            return Ok(RefcountUpdate::AtMaximum);
        }
        if slice.with(|bytes| width::get(bytes, order, index)) != refcount {
            self.refcounts.blocks.update(&slice, |bytes| {
                width::set(bytes, order, index, refcount);
            });
        }
        Ok(RefcountUpdate::Done)
    }

    /// All refcounts have been set anew: any cluster may be free.
    pub fn search_from_start(&self) {
        self.refcounts.next.set(0);
    }

    /// Whether at least `threshold` clusters before `end` are in use.
    pub async fn has_in_use(&self, threshold: u64, end: u64) -> IoResult<bool> {
        let lock = self.refcounts.lock().await;
        let (mut used, mut at) = (0, 0);
        let g = &self.geometry;
        let counted = self.refcounts.table.len() as u64 * g.refcounts_per_block();
        let end = end.min(counted);
        while at < end && used < threshold {
            let cluster = HostCluster(at);
            let Some((slice, index)) = self.refcount_slice(&lock, cluster).await? else {
                at += g.refcounts_per_block();
                continue;
            };
            let end = to_usize(g.refcounts_per_slice());
            let counts = slice.with(|bytes| {
                let counts = (index..end).map(|i| width::get(bytes, g.refcount_order, i));
                counts.filter(|count| *count > 0).count()
            });
            used += counts as u64;
            at += (end - index) as u64;
        }
        Ok(used >= threshold)
    }

    /// The entries of the refcount table.
    pub fn refcount_table(&self) -> Vec<u64> {
        self.refcounts.table.entries()
    }

    /// The entry of the refcount table at `index`; 0 behind its end.
    pub fn refcount_table_entry(&self, index: usize) -> u64 {
        self.refcounts.table.get(index)
    }

    /// Where the refcount table lies in the file.
    pub fn refcount_table_offset(&self) -> u64 {
        self.refcounts.table.offset()
    }

    /// Whether refcounts differ from the file.
    pub fn has_dirty_refcounts(&self) -> bool {
        self.refcounts.blocks.is_dirty()
    }
}
