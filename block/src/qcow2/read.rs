//! Reading from what the tables name. Reads of plain data do not come here: they go to the file,
//! where `extent` has said.

use super::{Qcow2, entry::Mapping};
use crate::{error::IoResult, mem::SgList};

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

    /// Reads from guest clusters that start with the one `at` lies in and have `mapping`.
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
                self.file.read(host_offset, data).await
            }
            Mapping::Zero { .. } | Mapping::Unallocated => {
                data.fill(0, data.len(), 0);
                Ok(())
            }
            Mapping::Compressed { .. } => {
                Err(self.unsupported(format!("the compressed cluster at guest offset {at:#x}")))
            }
        }
    }
}
