//! Writing L1 and L2 back. When that may be done is decided in [`order`](super::super::order).

use strata_storage::error::IoResult;

use super::Tables;
use crate::{qcow2::space::MetadataKind, root_table::RootBatch, table_cache::CacheBatch};

/// L1 and L2 tables as they were at one moment.
pub(in crate::qcow2) struct TablesBatch {
    l1: RootBatch,
    l2: CacheBatch,
}

impl TablesBatch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.l1.writes.is_empty() && self.l2.writes.is_empty()
    }
}

impl Tables {
    /// Takes what differs from the file now. The caller excludes other writes of tables.
    pub fn take_dirty(&self) -> TablesBatch {
        TablesBatch {
            l1: self.l1.take_dirty(),
            l2: self.l2.take_dirty(),
        }
    }

    /// Writes a batch. All that its entries name is durable.
    pub async fn write(&self, batch: &TablesBatch) -> IoResult<()> {
        self.space
            .write_metadata(&batch.l2.writes, MetadataKind::L2)
            .await?;
        self.space
            .write_metadata(&batch.l1.writes, MetadataKind::L1)
            .await
    }

    /// The batch is in the file.
    pub fn written(&self, batch: &TablesBatch) {
        self.l2.written(&batch.l2);
    }

    /// The batch is not, or not all, in the file.
    pub fn restore(&self, batch: TablesBatch) {
        self.l2.restore(&batch.l2);
        self.l1.restore(batch.l1);
    }
}
