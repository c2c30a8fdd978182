//! Allocating bytes for compressed clusters, which lie side by side in clusters of the file.
//!
//! A cluster of the file has one reference for each compressed cluster that touches it. Where the
//! next one goes is forgotten before a cluster can be freed, so nothing is packed into one that is
//! about to be freed.

use strata_storage::error::IoResult;

use super::Space;
use crate::qcow2::layout::{
    geometry::{HostCluster, HostRun},
    width,
};

impl Space {
    /// Finds `len` bytes, fewer than a cluster has, behind those that were found last, and adds a
    /// reference to the clusters that they touch. Returns where they begin, and those clusters.
    pub async fn allocate_bytes(&self, len: u64) -> IoResult<(u64, HostRun)> {
        let g = &self.geometry;
        if let Some(found) = self.pack_behind(len).await? {
            return Ok(found);
        }
        let run = self.allocate(1).await?.run;
        let offset = g.host_offset(run.first);
        self.packing.set(Some(offset + len));
        Ok((offset, run))
    }

    /// Frees bytes that have been allocated in `run` for something that failed.
    pub async fn deallocate_bytes(&self, run: HostRun) {
        self.packing.set(None);
        self.deallocate(run).await;
    }

    /// The same within the cluster that is being filled, if there is room and its refcount can
    /// grow.
    async fn pack_behind(&self, len: u64) -> IoResult<Option<(u64, HostRun)>> {
        let g = &self.geometry;
        let lock = self.refcounts.lock().await;
        let Some(offset) = self.packing.get() else {
            return Ok(None);
        };
        let within = g.in_cluster(offset);
        if within == 0 || within + len > g.cluster_size() {
            return Ok(None);
        }
        let host = g.host_cluster(offset);
        let found = self.refcount_slice(&lock, host).await?;
        // The slice may have had to be read: others may have freed the cluster meanwhile.
        if self.packing.get() != Some(offset) {
            return Ok(None);
        }
        let order = g.refcount_order;
        let count = found.as_ref().map_or(0, |(slice, index)| {
            slice.with(|bytes| width::get(bytes, order, *index))
        });
        let (Some((slice, index)), 1..) = (found, count) else {
            return Ok(None);
        };
        if count == width::max(order) {
            return Ok(None);
        }
        self.refcounts.blocks.update(&slice, |bytes| {
            width::set(bytes, order, index, count + 1);
        });
        self.packing.set(Some(offset + len));
        Ok(Some((offset, HostRun::one(host))))
    }

    /// The run's clusters are about to be freed: nothing more is packed into them.
    pub(super) fn stop_packing(&self, run: HostRun) {
        let filling = |offset: u64| self.geometry.host_cluster(offset);
        let within = |cluster: HostCluster| run.first <= cluster && cluster < run.end();
        if self.packing.get().is_some_and(|at| within(filling(at))) {
            self.packing.set(None);
        }
    }
}
