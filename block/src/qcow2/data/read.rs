//! Reading from what the tables name. Reads of plain data do not come here: they go to the file,
//! where `extent` has said.

use std::sync::Arc;

use crate::{
    error::IoResult,
    mem::SgList,
    qcow2::{Qcow2, layout::entry::Mapping},
};

impl Qcow2 {
    /// Fills `data` from compressed clusters, which [`Qcow2::extent`] has found at `offset`.
    ///
    /// # Errors
    /// Reading or unpacking failed.
    pub async fn read_compressed(&self, offset: u64, data: SgList) -> IoResult<()> {
        let _operation = self.freed.operation();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let run = self.lookup(at, (data.len() - done) as u64).await?;
            let part = data.slice(done, run.len as usize);
            done += part.len();
            self.read_mapped(run.mapping, at, part).await?;
        }
        Ok(())
    }

    /// The content of the compressed cluster whose stream lies in `len` bytes at `offset` of the
    /// file. One is unpacked at a time, which bounds the memory that this takes.
    async fn unpacked(&self, offset: u64, len: u64) -> IoResult<Arc<[u8]>> {
        let _unpacking = self.unpacking.lock().await;
        if let Some(found) = self.unpacked.get(offset) {
            return Ok(found);
        }
        // In bounds: an entry describes two clusters at most.
        let packed = self.file.read_vec(offset, len as usize).await?;
        let (compression, cluster_len) = (self.compression, self.geometry.cluster_len());
        let unpacked = self
            .file
            .compute(move || compression.unpack(&packed, cluster_len))
            .await;
        let cluster: Arc<[u8]> = unpacked
            .map_err(|why| self.corrupt(format!("the compressed cluster at {offset:#x}: {why}")))?
            .into();
        self.unpacked.insert(offset, cluster.clone());
        Ok(cluster)
    }

    /// Reads from subclusters that start with the one `at` lies in and have `mapping`.
    pub(in crate::qcow2) async fn read_mapped(
        &self,
        mapping: Mapping,
        at: u64,
        data: SgList,
    ) -> IoResult<()> {
        let within = self.geometry.in_cluster(at);
        match mapping {
            Mapping::Data { host, .. } => {
                let host_offset = self.geometry.host_offset(host) + within;
                self.data.read(host_offset, data).await
            }
            Mapping::Zero { .. } | Mapping::Unallocated { .. } => {
                data.fill(0, data.len(), 0);
                Ok(())
            }
            Mapping::Compressed { offset, len } => {
                let cluster = self.unpacked(offset, len).await?;
                let start = within as usize;
                data.copy_from(0, &cluster[start..start + data.len()]);
                Ok(())
            }
        }
    }
}
