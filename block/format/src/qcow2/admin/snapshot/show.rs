//! Reading the disk as a snapshot keeps it.

use strata_storage::error::Result;

use super::Snapshot;
use crate::{
    qcow2::{Qcow2, layout::snapshot_table::SnapshotEntry},
    root_table::RootTable,
};

impl Qcow2 {
    /// From now on the image shows what `snapshot` keeps; the size of the disk stays that of now,
    /// with nothing behind the end of a snapshot that is shorter. Comes before the first read of an
    /// image that is opened read-only.
    ///
    /// # Errors
    /// The image may be written to; the snapshot's table lies where none can; the host's error.
    pub async fn show_snapshot(&self, snapshot: &Snapshot) -> Result<()> {
        if !self.file.is_read_only() {
            return Err(self
                .file
                .refused("is open for writing: a snapshot cannot be shown"));
        }
        let entry = SnapshotEntry {
            len: 0,
            extra_len: 0,
            l1_offset: snapshot.l1_offset,
            l1_size: snapshot.l1_size,
        };
        if !entry.has_valid_l1(&self.geometry, self.file.storage().len()) {
            return Err(self.file.refused("the snapshot's L1 table is not valid"));
        }
        let (offset, len) = (snapshot.l1_offset, snapshot.l1_size as usize);
        let mut entries = RootTable::load(self.file.storage(), offset, len)
            .await?
            .entries();
        entries.resize(entries.len().max(self.tables.l1_len()), 0);
        self.tables.show(offset, entries);
        Ok(())
    }
}
