//! Snapshots of version 2 need not say how large the machine's state and the disk are; in version 3
//! they have to.

use strata_storage::error::Result;

use super::Snapshot;
use crate::qcow2::Qcow2;

/// Bytes of the extra data that version 3 asks for.
const NEEDED: usize = 16;

impl Qcow2 {
    /// Completes the table where entries are shorter than version 3 has them: durable when this
    /// returns. Snapshots that do not say a size have that of the disk.
    ///
    /// # Errors
    /// The table is not valid; the host's error.
    pub(in crate::qcow2) async fn complete_snapshots(&self) -> Result<()> {
        let mut snapshots = self.snapshots().await?;
        let is_short = |snapshot: &Snapshot| snapshot.extra.len() < NEEDED;
        if !snapshots.iter().any(is_short) {
            return Ok(());
        }
        for snapshot in snapshots.iter_mut().filter(|snapshot| is_short(snapshot)) {
            let size = snapshot.disk_size.unwrap_or(self.virtual_size());
            snapshot.complete(size);
        }
        Ok(self.write_snapshots(&snapshots).await?)
    }

    /// The entries of a snapshot's L1 table.
    ///
    /// # Errors
    /// The host's error.
    pub(in crate::qcow2) async fn snapshot_l1(&self, snapshot: &Snapshot) -> Result<Vec<u64>> {
        Ok(self.read_l1(snapshot.l1_offset, snapshot.l1_size).await?)
    }
}
