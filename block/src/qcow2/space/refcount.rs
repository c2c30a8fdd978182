//! Refcounts: cached blocks, and dropping references.

use std::{cell::Cell, rc::Rc};

use crate::{
    error::IoResult,
    exec::sync::{Lock, LockGuard},
    qcow2::{
        Qcow2,
        admin::open::refcount_block,
        layout::{
            geometry::{HostCluster, HostRun},
            width,
        },
    },
    root_table::RootTable,
    table_cache::{Slice, TableCache},
};

/// The refcounts of one image.
pub(in crate::qcow2) struct Refcounts {
    /// The refcount table.
    pub table: RootTable,
    /// Slices of refcount blocks.
    pub blocks: TableCache,
    /// No cluster before this one is free.
    pub next: Cell<u64>,
    /// No cluster from this one on has ever been used: reads as zeros, whatever becomes of it.
    pub untouched: Cell<u64>,
    lock: Lock,
}

/// The right to change refcounts, across awaits.
pub(in crate::qcow2) struct RefcountsLocked<'a> {
    _guard: LockGuard<'a>,
}

impl Refcounts {
    /// Nothing has been looked at yet. The file has `clusters` clusters.
    pub fn new(table: RootTable, blocks: TableCache, clusters: u64) -> Self {
        Self {
            table,
            blocks,
            next: Cell::new(0),
            untouched: Cell::new(clusters),
            lock: Lock::default(),
        }
    }

    /// Waits for the right to change refcounts.
    pub async fn lock(&self) -> RefcountsLocked<'_> {
        RefcountsLocked {
            _guard: self.lock.lock().await,
        }
    }
}

impl Qcow2 {
    /// The slice that holds a cluster's refcount, and the refcount's index in it; `None` if there
    /// is no block for it yet, so that its refcount is 0.
    pub(in crate::qcow2) async fn refcount_slice(
        &self,
        _lock: &RefcountsLocked<'_>,
        cluster: HostCluster,
    ) -> IoResult<Option<(Rc<Slice>, usize)>> {
        let g = &self.geometry;
        let index = usize::try_from(cluster.0 / g.refcounts_per_block()).unwrap_or(usize::MAX);
        let raw = self.refcounts.table.get(index);
        let block = refcount_block(raw, g).map_err(|why| self.corrupt(why))?;
        let Some(block) = block else { return Ok(None) };
        if self.refcounts.blocks.is_crowded() {
            self.write_back_refcounts().await?;
        }
        let in_block = cluster.0 % g.refcounts_per_block();
        let slice = in_block / g.refcounts_per_slice();
        let offset = g.host_offset(block) + slice * g.slice_bytes();
        let slice = self.refcounts.blocks.get(offset).await?;
        let index = (in_block % g.refcounts_per_slice()) as usize;
        Ok(Some((slice, index)))
    }

    /// A cluster's refcount.
    pub(in crate::qcow2) async fn refcount(&self, cluster: HostCluster) -> IoResult<u64> {
        let lock = self.refcounts.lock().await;
        let found = self.refcount_slice(&lock, cluster).await?;
        let order = self.geometry.refcount_order;
        Ok(found.map_or(0, |(slice, index)| {
            slice.with(|bytes| width::get(bytes, order, index))
        }))
    }

    /// The parts of the run whose clusters have refcount 1.
    pub(in crate::qcow2) async fn unshared(&self, run: HostRun) -> IoResult<Vec<HostRun>> {
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
    pub(in crate::qcow2) async fn drop_references(&self, mut run: HostRun) -> IoResult<()> {
        self.drop_each_reference(&mut run).await
    }

    /// Lets go of clusters that have been allocated for something that failed. What cannot be let go
    /// of now waits for the next flush: the caller has an error of its own to tell.
    pub(in crate::qcow2) async fn give_back(&self, mut run: HostRun) {
        if let Err(error) = self.drop_each_reference(&mut run).await {
            tracing::warn!(%error, "clusters that are not used cannot be freed yet");
            self.freed.wait_again([run]);
        }
    }

    /// As [`Qcow2::drop_references`]. The clusters whose reference is dropped are taken from the run, so
    /// that after an error it is what is left.
    pub(in crate::qcow2) async fn drop_each_reference(&self, run: &mut HostRun) -> IoResult<()> {
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
                let error =
                    self.corrupt(format!("the cluster at {offset:#x} in use has refcount 0"));
                self.stop_after(&error);
                return Err(error);
            };
            self.refcounts.blocks.update(&slice, |bytes| {
                width::set(bytes, order, index, count - 1);
            });
            if count == 1 {
                let next = &self.refcounts.next;
                next.set(next.get().min(cluster.0));
                // Other compressed clusters may lie there soon.
                self.unpacked.clear();
            }
            *run = HostRun {
                first: cluster.plus(1),
                count: run.count - 1,
            };
        }
        Ok(())
    }
}
