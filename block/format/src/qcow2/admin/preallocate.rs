//! Host clusters for guest clusters that have not been written: for what is added to a disk.

use std::ops::Range;

use strata_exec::yield_now;
use strata_storage::error::Result;

use crate::qcow2::{
    Preallocation, Qcow2,
    layout::{
        data_file,
        entry::{Entry, Mapping},
        geometry::{GuestCluster, HostRun},
    },
};

impl Qcow2 {
    /// Gives each cluster of a range, which reads as zeros and which the header does not count to
    /// the disk yet, a place that reads as zeros. A raw external data file keeps what it holds
    /// there, and has the disk's length already. Nothing else uses the image meanwhile.
    ///
    /// # Errors
    /// The host's error. What has its place by then keeps it.
    pub(in crate::qcow2) async fn preallocate(
        &self,
        range: Range<u64>,
        preallocation: Preallocation,
    ) -> Result<()> {
        let g = &self.geometry;
        // The cluster that the old end lies in is one that has been written, or not: it stays so.
        let (mut at, end) = (range.start.next_multiple_of(g.cluster_size()), range.end);
        while at < end {
            let run = self.tables.lookup(at, end - at).await?;
            let has_place = match run.mapping {
                Mapping::Data { .. } | Mapping::Compressed { .. } => true,
                Mapping::Zero { host } | Mapping::Unallocated { host } => host.is_some(),
            };
            let whole = run.len.next_multiple_of(g.cluster_size());
            at += if has_place {
                whole
            } else {
                self.place_clusters(at, whole, preallocation).await?
            };
            yield_now().await;
        }
        Ok(())
    }

    /// Gives clusters from `at` on places, and returns how many bytes of the disk those are.
    async fn place_clusters(&self, at: u64, len: u64, preallocation: Preallocation) -> Result<u64> {
        let g = &self.geometry;
        let first = g.guest_cluster(at);
        let slice = self.order.slice_for_write(first).await?;
        let count = g.clusters_for(len.min(g.slice_end(at) - at));
        let run = self.zeroed_clusters(first, count).await?;
        let (offset, len) = (g.host_offset(run.first), run.count * g.cluster_size());
        if !self.file.has_raw_data() {
            if let Err(error) = preallocation.reserve(self.file.data(), offset, len).await {
                if !g.external_data {
                    self.space.deallocate(run).await;
                }
                return Err(error);
            }
            if self.file.data().len() < offset + len {
                self.file.data().set_len(offset + len).await?;
            }
        }
        for n in 0..run.count {
            let (index, host) = (g.index_in_slice(first.plus(n)), run.first.plus(n));
            let old = self.tables.entry(&slice, index)?;
            // Subclusters stay what they are until they are written, as in a new image.
            let new = if g.extended_l2 && !self.file.has_raw_data() {
                old.with_data(host, 0, g)
            } else {
                Entry::data(host, g)
            };
            self.tables.set_entry(&slice, index, new);
        }
        Ok(len)
    }

    /// Clusters in the data's file that read as zeros, but for a raw one, for up to `count` of the
    /// disk's.
    async fn zeroed_clusters(&self, first: GuestCluster, count: u64) -> Result<HostRun> {
        let g = &self.geometry;
        let (run, fresh) = if g.external_data {
            (data_file::place(first, count), false)
        } else {
            let allocated = self.space.allocate(count).await?;
            (allocated.run, allocated.fresh)
        };
        let (offset, len) = (g.host_offset(run.first), run.count * g.cluster_size());
        if !fresh && !self.file.has_raw_data() && offset < self.file.data().len() {
            let zeroed = self.file.data().write_zeroes(offset, len, true).await;
            if zeroed.is_err() && !g.external_data {
                self.space.deallocate(run).await;
            }
            zeroed?;
        }
        Ok(run)
    }
}
