//! Writing compressed clusters, side by side in clusters of the file.
//!
//! A cluster of the file has one reference for each compressed cluster that touches it. Where the
//! next one goes is forgotten before a cluster can be freed, so nothing is packed into one that is
//! about to be given back.

use crate::{
    error::{IoError, IoResult, NoRoom},
    mem::SgList,
    qcow2::{
        Qcow2,
        layout::{
            entry::{self, Entry},
            geometry::{HostCluster, HostRun},
            width,
        },
    },
};

/// A cluster of the disk, compressed as the image that it is for asks for.
pub struct Packed(Vec<u8>);

impl Qcow2 {
    /// Compresses one cluster of the disk; `data` may be shorter, at the end of the disk. `None` if
    /// it does not get shorter.
    pub async fn pack(&self, data: &SgList) -> Option<Packed> {
        let mut bytes = data.to_vec();
        bytes.resize(self.geometry.cluster_len(), 0);
        let compression = self.compression;
        let packed = self.file.compute(move || compression.pack(&bytes)).await;
        packed.map(Packed)
    }

    /// Writes one whole cluster of the disk, compressed.
    ///
    /// # Errors
    /// As [`Qcow2::write`]; `offset` is not that of a cluster.
    pub async fn write_packed(&self, offset: u64, packed: Packed) -> IoResult<()> {
        let g = &self.geometry;
        self.check_range(
            offset,
            g.cluster_size().min(self.size.get().saturating_sub(offset)),
        )?;
        if g.in_cluster(offset) != 0 {
            return Err(IoError::OutOfRange);
        }
        if g.external_data {
            return Err(self.unsupported("compression with an external data file"));
        }
        self.begin_write().await?;
        let _recorded = self.bitmaps().record(offset, g.cluster_size());
        self.write_stream(offset, packed.0).await
    }

    /// Writes a stream and makes the cluster at `at` point to it once it is written (rule W1).
    async fn write_stream(&self, at: u64, packed: Vec<u8>) -> IoResult<()> {
        let _operation = self.freed.operation();
        let g = &self.geometry;
        let cluster = g.guest_cluster(at);
        let _claim = loop {
            match self.claim_clusters(at, at + 1) {
                Some(claim) => break claim,
                None => self.claims.wait().await,
            }
        };
        let slice = self.l2_slice_for_write(cluster).await?;
        let len = packed.len() as u64;
        let (offset, run) = self.allocate_bytes(len).await?;
        let written = async {
            if offset + len > entry::compressed_limit(g) {
                return Err(IoError::NoSpace {
                    file: self.file.path().to_owned(),
                    why: NoRoom::Full,
                });
            }
            self.check_data(offset, len)?;
            self.file.write_vec(offset, packed).await?;
            let index = g.index_in_slice(cluster);
            let old = self.l2_entry(&slice, index);
            let old = old.map_err(|why| self.corrupt(why))?;
            self.set_l2_entry(&slice, index, Entry::Compressed { offset, len });
            self.let_go(old, None);
            Ok(())
        }
        .await;
        if written.is_err() {
            self.packing.set(None);
            self.give_back(run).await;
        }
        written
    }

    /// Finds `len` bytes, fewer than a cluster has, behind those that were found last, and adds a
    /// reference to the clusters that they touch.
    async fn allocate_bytes(&self, len: u64) -> IoResult<(u64, HostRun)> {
        let g = &self.geometry;
        if let Some(found) = self.pack_behind(len).await? {
            return Ok(found);
        }
        let run = self.allocate(1).await?.run;
        let offset = g.host_offset(run.first);
        self.packing.set(Some(offset + len));
        Ok((offset, run))
    }

    /// The same within the cluster that is being filled, if there is room and its refcount can grow.
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
    pub(in crate::qcow2) fn stop_packing(&self, run: HostRun) {
        let filling = |offset: u64| self.geometry.host_cluster(offset);
        let within = |cluster: HostCluster| run.first <= cluster && cluster < run.end();
        if self.packing.get().is_some_and(|at| within(filling(at))) {
            self.packing.set(None);
        }
    }
}
