//! Allocating host clusters: the first free run behind the last one, so that what is written in
//! sequence lies in sequence.

use crate::{
    error::{IoError, IoResult, NoRoom},
    qcow2::{
        Qcow2,
        layout::{
            geometry::{HostCluster, HostRun, MAX_REFCOUNT_TABLE_BYTES},
            width,
        },
        space::{metadata_map::Kind, refcount::RefcountsLocked},
    },
};

/// Adjacent clusters that nobody else uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::qcow2) struct Allocated {
    /// Where they are.
    pub run: HostRun,
    /// They have never been used, so they read as zeros.
    pub fresh: bool,
}

impl Qcow2 {
    /// Allocates between 1 and `wanted` adjacent clusters. Their refcounts are 1 in memory, and
    /// are on disk before any table that names them (rule W2).
    pub(in crate::qcow2) async fn allocate(&self, wanted: u64) -> IoResult<Allocated> {
        let lock = self.refcounts.lock().await;
        let g = &self.geometry;
        loop {
            let at = HostCluster(self.refcounts.next.get());
            if at.0 >= g.host_limit() {
                return Err(IoError::NoSpace {
                    file: self.file.path().to_owned(),
                    why: NoRoom::Full,
                });
            }
            let Some((slice, index)) = self.refcount_slice(&lock, at).await? else {
                self.add_refcount_block(&lock, at).await?;
                continue;
            };
            let order = g.refcount_order;
            let end = g.refcounts_per_slice() as usize;
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
            return Ok(self.hand_out(run));
        }
    }

    fn hand_out(&self, run: HostRun) -> Allocated {
        self.refcounts.next.set(run.end().0);
        let untouched = &self.refcounts.untouched;
        let fresh = run.first.0 >= untouched.get();
        untouched.set(untouched.get().max(run.end().0));
        Allocated { run, fresh }
    }

    /// A free cluster that holds metadata means wrong refcounts: nothing more can be trusted.
    pub(in crate::qcow2) fn check_unused(&self, run: HostRun) -> IoResult<()> {
        let Some(kind) = self.metadata.find(run) else {
            return Ok(());
        };
        let offset = self.geometry.host_offset(run.first);
        let error = self.corrupt(format!("clusters at {offset:#x} are free but hold {kind}"));
        self.stop_after(&error);
        Err(error)
    }

    /// Adds the refcount block that `cluster`'s refcount belongs in. The block takes the first of
    /// the clusters that it counts. It is written now and named by the refcount table in memory;
    /// the table reaches the disk after it (rule W4).
    pub(in crate::qcow2) async fn add_refcount_block(
        &self,
        lock: &RefcountsLocked<'_>,
        cluster: HostCluster,
    ) -> IoResult<()> {
        let g = &self.geometry;
        let index = cluster.0 / g.refcounts_per_block();
        if index >= self.refcounts.table.len() as u64 {
            return self.grow_refcount_table(lock, index).await;
        }
        let block = HostCluster(index * g.refcounts_per_block());
        self.check_unused(HostRun::one(block))?;
        let mut bytes = vec![0; g.cluster_len()];
        width::set(&mut bytes, g.refcount_order, 0, 1);
        self.file.write_vec(g.host_offset(block), bytes).await?;
        self.name_refcount_block(index, block)
    }

    fn name_refcount_block(&self, index: u64, block: HostCluster) -> IoResult<()> {
        self.note_metadata(HostRun::one(block), Kind::RefcountBlock)?;
        let offset = self.geometry.host_offset(block);
        // The index is within the table: the caller has looked.
        self.refcounts.table.set(index as usize, offset);
        self.hand_out(HostRun::one(block));
        Ok(())
    }

    pub(in crate::qcow2) fn note_metadata(&self, run: HostRun, kind: Kind) -> IoResult<()> {
        self.metadata.insert(run, kind).map_err(|found| {
            let offset = self.geometry.host_offset(run.first);
            let error = self.corrupt(format!("{kind} at {offset:#x} would overlap {found}"));
            self.stop_after(&error);
            error
        })
    }

    /// Moves the refcount table to where it can be larger: behind everything that is counted so
    /// far, with the blocks that count it. The header names it once all of that is durable.
    async fn grow_refcount_table(&self, _lock: &RefcountsLocked<'_>, index: u64) -> IoResult<()> {
        let g = &self.geometry;
        let per_block = g.refcounts_per_block();
        let first = HostCluster(index * per_block);
        let old_bytes = self.refcounts.table.len() as u64 * 8;
        // Half as large again, so that growing stays rare.
        let entries = (index + 1).max(self.refcounts.table.len() as u64 * 3 / 2) + 1;
        let mut table_clusters = g.clusters_for(entries * 8);
        let mut blocks = 1;
        while blocks * per_block < blocks + table_clusters
            || (index + blocks) * 8 > table_clusters * g.cluster_size()
        {
            blocks += 1;
            table_clusters = table_clusters.max(g.clusters_for((index + blocks) * 8));
        }
        if table_clusters * g.cluster_size() > MAX_REFCOUNT_TABLE_BYTES {
            return Err(self.unsupported(format!(
                "a refcount table of more than {MAX_REFCOUNT_TABLE_BYTES} bytes"
            )));
        }
        let block_run = HostRun {
            first,
            count: blocks,
        };
        let table_run = HostRun {
            first: block_run.end(),
            count: table_clusters,
        };
        self.check_unused(HostRun {
            first,
            count: blocks + table_clusters,
        })?;
        let counted = blocks + table_clusters;
        let bytes = self.new_refcount_blocks(blocks, counted);
        self.file.write_vec(g.host_offset(first), bytes).await?;
        let old_offset = self.refcounts.table.offset();
        self.relocate_refcount_table(table_run, block_run, index)
            .await?;
        self.note_metadata(block_run, Kind::RefcountBlock)?;
        self.hand_out(HostRun {
            first,
            count: counted,
        });
        let old = HostRun {
            first: g.host_cluster(old_offset),
            count: g.clusters_for(old_bytes),
        };
        self.metadata.remove(old);
        self.freed.push(old);
        Ok(())
    }

    /// The bytes of `blocks` refcount blocks that count `used` clusters, then free ones.
    fn new_refcount_blocks(&self, blocks: u64, used: u64) -> Vec<u8> {
        let g = &self.geometry;
        let mut bytes = vec![0; g.cluster_len() * blocks as usize];
        for i in 0..used as usize {
            width::set(&mut bytes, g.refcount_order, i, 1);
        }
        bytes
    }
}
