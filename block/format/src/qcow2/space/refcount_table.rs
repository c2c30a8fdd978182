//! The refcount table: adding blocks, and moving it to where it can be larger.

use strata_exec::mem::to_usize;
use strata_storage::error::IoResult;

use super::{MetadataKind, Space, refcount::RefcountsLocked};
use crate::qcow2::layout::{
    geometry::{HostCluster, HostRun, MAX_REFCOUNT_TABLE_BYTES},
    header::Header,
    width,
};

impl Space {
    /// Adds the refcount block that `cluster`'s refcount belongs in. The block takes the first of
    /// the clusters that it counts. It is written now and named by the refcount table in memory;
    /// the table reaches the disk after it (rule W4).
    pub(super) async fn add_refcount_block(
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
        self.file
            .storage()
            .write_vec(g.host_offset(block), bytes)
            .await?;
        self.name_refcount_block(index, block)
    }

    fn name_refcount_block(&self, index: u64, block: HostCluster) -> IoResult<()> {
        self.note_metadata(HostRun::one(block), MetadataKind::RefcountBlock)?;
        let offset = self.geometry.host_offset(block);
        // The index is within the table: the caller has looked.
        self.refcounts.table.set(to_usize(index), offset);
        self.mark_allocated(HostRun::one(block));
        Ok(())
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
            return Err(self.file.unsupported(format!(
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
        self.file
            .storage()
            .write_vec(g.host_offset(first), bytes)
            .await?;
        let old_offset = self.refcounts.table.offset();
        self.relocate_refcount_table(table_run, block_run, index)
            .await?;
        self.note_metadata(block_run, MetadataKind::RefcountBlock)?;
        self.mark_allocated(HostRun {
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
        let mut bytes = vec![0; g.cluster_len() * to_usize(blocks)];
        for i in 0..to_usize(used) {
            width::set(&mut bytes, g.refcount_order, i, 1);
        }
        bytes
    }

    /// Moves the refcount table to `to`, with `blocks` named from entry `index` on; they are in
    /// the file already. The flush before the header is written makes both durable (rule W4).
    async fn relocate_refcount_table(
        &self,
        to: HostRun,
        blocks: HostRun,
        index: u64,
    ) -> IoResult<()> {
        let _writing = self.file.exclude_tables().await;
        let g = &self.geometry;
        let len = to.count * g.cluster_size() / 8;
        let mut entries = self.refcounts.table.entries();
        entries.resize(len as usize, 0);
        for n in 0..blocks.count {
            entries[to_usize(index + n)] = g.host_offset(blocks.first.plus(n));
        }
        self.note_metadata(to, MetadataKind::RefcountTable)?;
        let offset = g.host_offset(to.first);
        let bytes = entries.iter().flat_map(|e| e.to_be_bytes()).collect();
        let result = match self.file.storage().write_vec(offset, bytes).await {
            Ok(()) => {
                let change = |header: &mut Header| {
                    header.refcount_table_offset = offset;
                    header.refcount_table_clusters =
                        u32::try_from(to.count).expect("a table of 8 MiB at most");
                };
                self.file.change_header(change).await
            }
            failed => failed,
        };
        if result.is_err() {
            self.metadata.remove(to);
            return result;
        }
        self.refcounts.table.moved(offset, entries);
        Ok(())
    }
}
