//! Where data is, and reading what is compressed. Reads of plain data do not come here: they go to
//! the file, where `extent` has said.

use std::sync::Arc;

use strata_exec::mem::{SgList, to_usize};
use strata_storage::error::IoResult;

use super::Data;
use crate::{
    extent::{Extent, ExtentKind},
    qcow2::layout::{entry::Mapping, geometry::HostCluster},
};

impl Data {
    /// How the disk is stored from `offset` on, for up to `len` bytes. `len` is not 0.
    ///
    /// # Errors
    /// The range does not lie on the disk; the tables cannot be read or are corrupt.
    pub async fn extent(&self, offset: u64, len: u64) -> IoResult<Extent> {
        Ok(self.placed_extent(offset, len).await?.0)
    }

    /// As [`Data::extent`], and where in the file it lies or would lie: also for what a host
    /// cluster is kept for.
    ///
    /// # Errors
    /// As [`Data::extent`].
    pub async fn placed_extent(&self, offset: u64, len: u64) -> IoResult<(Extent, Option<u64>)> {
        self.check_range(offset, len)?;
        let run = self.tables.lookup(offset, len).await?;
        let within = self.geometry.in_cluster(offset);
        let at = |host: HostCluster| self.geometry.host_offset(host) + within;
        let (kind, host_offset) = match run.mapping {
            Mapping::Unallocated { host } => {
                (ExtentKind::Unallocated, host.map(|(host, _)| at(host)))
            }
            Mapping::Zero { host } => (ExtentKind::Zero, host.map(|(host, _)| at(host))),
            Mapping::Data { host, .. } => {
                let host_offset = at(host);
                (ExtentKind::Data { host_offset }, Some(host_offset))
            }
            Mapping::Compressed { .. } => (ExtentKind::Compressed, None),
        };
        let extent = Extent { len: run.len, kind };
        Ok((extent, host_offset))
    }

    /// Fills `data` from compressed clusters, which [`Data::extent`] has found at `offset`.
    ///
    /// # Errors
    /// Reading or unpacking failed.
    pub async fn read_compressed(&self, offset: u64, data: SgList) -> IoResult<()> {
        let _operation = self.space.operation();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let run = self.tables.lookup(at, (data.len() - done) as u64).await?;
            let part = data.slice(done, to_usize(run.len));
            done += part.len();
            self.read_mapped(run.mapping, at, part).await?;
        }
        Ok(())
    }

    /// The content of the compressed cluster whose stream lies in `len` bytes at `offset` of the
    /// file. One is unpacked at a time, which bounds the memory that this takes.
    async fn unpacked(&self, offset: u64, len: u64) -> IoResult<Arc<[u8]>> {
        let _unpacking = self.unpacking.lock().await;
        if let Some(found) = self.unpacked.get(offset, self.space.releases()) {
            return Ok(found);
        }
        // In bounds: an entry describes two clusters at most.
        let packed = self.file.storage().read_vec(offset, to_usize(len)).await?;
        let (compression, cluster_len) = (self.compression, self.geometry.cluster_len());
        let unpacked = self
            .file
            .storage()
            .compute(move || compression.unpack(&packed, cluster_len))
            .await;
        let cluster: Arc<[u8]> = unpacked
            .map_err(|why| {
                self.file
                    .corrupt(format!("the compressed cluster at {offset:#x}: {why}"))
            })?
            .into();
        self.unpacked
            .insert(offset, self.space.releases(), cluster.clone());
        Ok(cluster)
    }

    /// Reads from subclusters that start with the one `at` lies in and have `mapping`.
    pub(super) async fn read_mapped(
        &self,
        mapping: Mapping,
        at: u64,
        data: SgList,
    ) -> IoResult<()> {
        let within = self.geometry.in_cluster(at);
        match mapping {
            Mapping::Data { host, .. } => {
                let host_offset = self.geometry.host_offset(host) + within;
                self.file.data().read(host_offset, data).await
            }
            Mapping::Zero { .. } | Mapping::Unallocated { .. } => {
                data.fill(0, data.len(), 0);
                Ok(())
            }
            Mapping::Compressed { offset, len } => {
                let cluster = self.unpacked(offset, len).await?;
                let start = to_usize(within);
                data.copy_from(0, &cluster[start..start + data.len()]);
                Ok(())
            }
        }
    }

    /// Whether the compressed cluster whose stream starts at `offset` of the file need not be
    /// unpacked again.
    #[cfg(test)]
    pub fn keeps_unpacked(&self, offset: u64) -> bool {
        self.unpacked.get(offset, self.space.releases()).is_some()
    }
}
