//! Allocating clusters that have to lie side by side: for tables that a single offset names.

use strata_exec::mem::to_usize;
use strata_storage::error::{IoError, IoResult, NoRoom};

use super::{MetadataKind, Space, refcount::RefcountsLocked};
use crate::qcow2::layout::{
    geometry::{HostCluster, HostRun},
    width,
};

/// What a search for free clusters comes to.
enum Search {
    /// They are free and counted.
    Found(HostRun),
    /// Those from the first one on are free, but some have no refcount block yet: that of the
    /// given index is missing.
    Uncounted(HostCluster, u64),
}

impl Space {
    /// Allocates `count` adjacent clusters, at least one. Their refcounts are 1 in memory, as after
    /// [`Space::allocate`].
    pub async fn allocate_adjacent(&self, count: u64) -> IoResult<HostRun> {
        let lock = self.refcounts.lock().await;
        loop {
            match self.find_adjacent(&lock, count).await? {
                Search::Found(run) => {
                    self.check_unused(run)?;
                    self.take(&lock, run).await?;
                    return Ok(run);
                }
                Search::Uncounted(free, index) => {
                    self.add_refcount_block_near(&lock, free, index).await?;
                }
            }
        }
    }

    /// The first `count` free clusters side by side.
    async fn find_adjacent(&self, lock: &RefcountsLocked<'_>, count: u64) -> IoResult<Search> {
        let g = &self.geometry;
        let order = g.refcount_order;
        let mut first = HostCluster(self.refcounts.next.get());
        let mut at = first;
        loop {
            if at.0 >= g.host_limit() {
                return Err(IoError::NoSpace {
                    file: self.file.storage().path().to_owned(),
                    why: NoRoom::Full,
                });
            }
            let Some((slice, index)) = self.refcount_slice(lock, at).await? else {
                return Ok(Search::Uncounted(first, at.0 / g.refcounts_per_block()));
            };
            for index in index..to_usize(g.refcounts_per_slice()) {
                let used = slice.with(|bytes| width::get(bytes, order, index) != 0);
                at = at.plus(1);
                if used {
                    first = at;
                } else if at.0 - first.0 == count {
                    return Ok(Search::Found(HostRun { first, count }));
                }
            }
        }
    }

    /// Gives each cluster of a free run its first reference.
    async fn take(&self, lock: &RefcountsLocked<'_>, run: HostRun) -> IoResult<()> {
        let order = self.geometry.refcount_order;
        for cluster in (run.first.0..run.end().0).map(HostCluster) {
            // The search has seen the block.
            if let Some((slice, index)) = self.refcount_slice(lock, cluster).await? {
                let set = |bytes: &mut [u8]| width::set(bytes, order, index, 1);
                self.refcounts.blocks.update(&slice, set);
            }
        }
        let next = &self.refcounts.next;
        if next.get() == run.first.0 {
            next.set(run.end().0);
        }
        let untouched = &self.refcounts.untouched;
        untouched.set(untouched.get().max(run.end().0));
        Ok(())
    }

    /// Adds the refcount block at `index` of the refcount table. It takes the cluster at `free`, in
    /// front of what it counts, so that it does not cut in two what is searched for; or the first
    /// cluster that it counts, if that is `free`.
    async fn add_refcount_block_near(
        &self,
        lock: &RefcountsLocked<'_>,
        free: HostCluster,
        index: u64,
    ) -> IoResult<()> {
        let g = &self.geometry;
        let counted = HostCluster(index * g.refcounts_per_block());
        if free >= counted || index >= self.refcounts.table.len() as u64 {
            return self.add_refcount_block(lock, counted).await;
        }
        let place = HostRun::one(free);
        self.check_unused(place)?;
        let offset = g.host_offset(free);
        self.file
            .storage()
            .write_vec(offset, vec![0; g.cluster_len()])
            .await?;
        self.take(lock, place).await?;
        self.note_metadata(place, MetadataKind::RefcountBlock)?;
        self.refcounts.table.set(to_usize(index), offset);
        Ok(())
    }
}
