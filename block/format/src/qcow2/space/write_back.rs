//! Writing refcounts back. When that may be done is decided in [`order`](super::super::order).

use strata_exec::mem::SgList;
use strata_storage::error::IoResult;

use super::{FreedRun, MetadataKind, Space};
use crate::{root_table::RootBatch, table_cache::CacheBatch};

/// Refcounts, and clusters that wait to be freed, as they were at one moment.
pub(in crate::qcow2) struct SpaceBatch {
    blocks: CacheBatch,
    table: RootBatch,
    freed: Vec<FreedRun>,
}

impl Space {
    /// Takes what differs from the file now. The caller excludes other writes of tables, and takes
    /// what else it writes at the same moment.
    ///
    /// Lazy refcounts are written when the image is closed, or to make room in the cache: until
    /// then it is marked dirty.
    pub fn take_dirty(&self) -> SpaceBatch {
        SpaceBatch {
            blocks: if self.file.is_lazy() {
                CacheBatch::default()
            } else {
                self.refcounts.blocks.take_dirty()
            },
            table: self.refcounts.table.take_dirty(),
            freed: self.freed.take_pending(),
        }
    }

    /// Writes a batch: refcount blocks, and once new ones are durable the table (rule W4).
    pub async fn write(&self, batch: &SpaceBatch) -> IoResult<()> {
        self.write_metadata(&batch.blocks.writes, MetadataKind::RefcountBlock)
            .await?;
        if !batch.table.writes.is_empty() {
            self.file.flush().await?;
            self.write_metadata(&batch.table.writes, MetadataKind::RefcountTable)
                .await?;
        }
        Ok(())
    }

    /// The batch is in the file, with all other tables: durably, if `durable`. Then no
    /// later lookup finds what was freed.
    pub fn written(&self, batch: SpaceBatch, durable: bool) {
        self.refcounts.blocks.written(&batch.blocks);
        if durable {
            self.freed.settle(batch.freed);
        } else {
            self.freed.restore(batch.freed);
        }
    }

    /// The batch, or what belongs to it, is not all in the file.
    pub fn restore(&self, batch: SpaceBatch) {
        self.refcounts.blocks.restore(&batch.blocks);
        self.refcounts.table.restore(batch.table);
        self.freed.restore(batch.freed);
    }

    /// Writes refcount blocks back, to make room in the cache.
    pub async fn write_back_refcounts(&self) -> IoResult<()> {
        let _excluded = self.file.exclude_tables().await;
        self.file.check_running()?;
        let batch = self.refcounts.blocks.take_dirty();
        match self
            .write_metadata(&batch.writes, MetadataKind::RefcountBlock)
            .await
        {
            Ok(()) => {
                self.refcounts.blocks.written(&batch);
                Ok(())
            }
            Err(error) => {
                self.refcounts.blocks.restore(&batch);
                self.file.stop_after(&error);
                Err(error)
            }
        }
    }

    /// Writes pieces of tables, adjacent ones together, each only where such a table lies.
    pub async fn write_metadata(
        &self,
        writes: &[(u64, Vec<u8>)],
        kind: MetadataKind,
    ) -> IoResult<()> {
        let mut rest = writes;
        while let Some((offset, first)) = rest.first() {
            let mut bytes = first.clone();
            let mut count = 1;
            while let Some((next, more)) = rest.get(count)
                && *next == offset + bytes.len() as u64
            {
                bytes.extend_from_slice(more);
                count += 1;
            }
            self.check_table(*offset, bytes.len() as u64, kind)?;
            self.file
                .storage()
                .write(*offset, SgList::from_vec(bytes))
                .await?;
            rest = &rest[count..];
        }
        Ok(())
    }

    fn check_table(&self, offset: u64, len: u64, kind: MetadataKind) -> IoResult<()> {
        let g = &self.geometry;
        let first = g.host_cluster(offset);
        let count = g.clusters_for(g.in_cluster(offset) + len);
        for cluster in (0..count).map(|n| first.plus(n)) {
            if self.metadata.at(cluster) != Some(kind) {
                return Err(self
                    .file
                    .corrupt(format!("{kind} would be written at {offset:#x}")));
            }
        }
        Ok(())
    }
}
