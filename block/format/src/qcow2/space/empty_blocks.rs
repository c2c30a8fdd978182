//! Refcount blocks that count nothing any more, once the image needs less of its file.

use strata_exec::mem::to_usize;
use strata_storage::error::IoResult;

use super::Space;
use crate::qcow2::layout::{
    entry::refcount_block,
    geometry::{HostCluster, HostRun},
    width,
};

impl Space {
    /// Takes blocks that count nothing, or nothing but themselves, out of the refcount table, and
    /// gives their places up. All tables are on disk, and nothing else uses the image meanwhile.
    ///
    /// Returns whether there were any: then there may be more once the table and the refcounts
    /// have been flushed, as a block that was counted by another one may have been the last that
    /// this counts.
    pub async fn drop_empty_refcount_blocks(&self) -> IoResult<bool> {
        let g = &self.geometry;
        let mut dropped = false;
        for index in 0..self.refcounts.table.len() {
            let raw = self.refcounts.table.get(index);
            let block = refcount_block(raw, g).map_err(|why| self.file.corrupt(why))?;
            let Some(block) = block else { continue };
            let counts_itself = block.0 / g.refcounts_per_block() == index as u64;
            if !self.counts_nothing_else(block, counts_itself).await? {
                continue;
            }
            self.refcounts.table.set(index, 0);
            self.metadata.remove(HostRun::one(block));
            let offset = g.host_offset(block);
            self.refcounts.blocks.forget(offset, g.cluster_size());
            if counts_itself {
                // Without a block its refcount is 0. Its place is not taken before the table is on
                // disk: nothing is allocated until then.
                let next = &self.refcounts.next;
                next.set(next.get().min(block.0));
            } else {
                self.freed.push(HostRun::one(block));
            }
            dropped = true;
        }
        Ok(dropped)
    }

    /// Whether all refcounts in a block are 0, but for its own if it `counts_itself`.
    async fn counts_nothing_else(&self, block: HostCluster, counts_itself: bool) -> IoResult<bool> {
        let g = &self.geometry;
        let _lock = self.refcounts.lock().await;
        let own = counts_itself.then_some(block.0 % g.refcounts_per_block());
        for start in (0..g.refcounts_per_block()).step_by(to_usize(g.refcounts_per_slice())) {
            let at = start / g.refcounts_per_slice() * g.slice_bytes();
            let slice = self.refcounts.blocks.get(g.host_offset(block) + at).await?;
            let empty = slice.with(|bytes| {
                (0..g.refcounts_per_slice()).all(|n| {
                    let count = width::get(bytes, g.refcount_order, to_usize(n));
                    count == 0 || (own == Some(start + n) && count == 1)
                })
            });
            if !empty {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
