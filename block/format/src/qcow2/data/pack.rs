//! Writing compressed clusters, side by side in clusters of the file.

use strata_exec::mem::SgList;
use strata_storage::error::{IoError, IoResult, NoRoom};

use super::Data;
use crate::qcow2::layout::entry::{self, Entry};

/// A cluster of the disk, compressed as the image that it is for asks for.
pub struct Packed(Vec<u8>);

impl Data {
    /// Compresses one cluster of the disk; `data` may be shorter, at the end of the disk. `None` if
    /// it does not get shorter.
    pub async fn pack(&self, data: &SgList) -> Option<Packed> {
        let mut bytes = data.to_vec();
        bytes.resize(self.geometry.cluster_len(), 0);
        let compression = self.compression;
        let packed = self
            .file
            .storage()
            .compute(move || compression.pack(&bytes))
            .await;
        packed.map(Packed)
    }

    /// Writes one whole cluster of the disk, compressed.
    ///
    /// # Errors
    /// As [`Data::write`]; `offset` is not that of a cluster.
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
            return Err(self
                .file
                .unsupported("compression with an external data file"));
        }
        self.file.begin_write().await?;
        self.write_stream(offset, packed.0).await
    }

    /// Writes a stream and makes the cluster at `at` point to it once it is written (rule W1).
    async fn write_stream(&self, at: u64, packed: Vec<u8>) -> IoResult<()> {
        let _operation = self.space.operation();
        let g = &self.geometry;
        let cluster = g.guest_cluster(at);
        let _claim = loop {
            match self.claim_clusters(at, at + 1) {
                Some(claim) => break claim,
                None => self.claims.wait().await,
            }
        };
        let slice = self.order.slice_for_write(cluster).await?;
        let len = packed.len() as u64;
        let (offset, run) = self.space.allocate_bytes(len).await?;
        let written = async {
            if offset + len > entry::compressed_limit(g) {
                return Err(IoError::NoSpace {
                    file: self.file.storage().path().to_owned(),
                    why: NoRoom::Full,
                });
            }
            self.space.check_data(offset, len)?;
            self.file.storage().write_vec(offset, packed).await?;
            let index = g.index_in_slice(cluster);
            let old = self.tables.entry(&slice, index)?;
            self.tables
                .set_entry(&slice, index, Entry::Compressed { offset, len });
            self.tables.free_old_clusters(old, None);
            Ok(())
        }
        .await;
        if written.is_err() {
            self.space.deallocate_bytes(run).await;
        }
        written
    }
}
