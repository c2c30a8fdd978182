//! Counting internal snapshots: their table, and the L1 tables that it names.

use super::Check;
use crate::{
    error::IoResult,
    qcow2::{header::Header, snapshots::SnapshotEntry},
};

impl Check<'_> {
    /// Counts the snapshots that `header` names.
    pub(super) async fn count_snapshots(&mut self, header: &Header) -> IoResult<()> {
        let mut at = header.snapshots_offset;
        for index in 0..header.snapshots {
            let Some(entry) = SnapshotEntry::read(&self.image.file, at).await? else {
                self.report
                    .corruption(format!("ERROR snapshot {index} has no valid table entry"));
                self.lost_tables = true;
                break;
            };
            at += entry.len;
            let l1_offset = entry.l1_offset;
            if !entry.has_valid_l1(&self.image.geometry, self.image.file.len()) {
                self.report.corruption(format!(
                    "ERROR snapshot {index} l1_offset={l1_offset:#x}: L1 table is not valid"
                ));
                self.lost_tables = true;
                continue;
            }
            let entries = self.read_entries(l1_offset, entry.l1_size as usize).await;
            self.count_l1(l1_offset, &entries, false).await?;
        }
        self.count(header.snapshots_offset, at - header.snapshots_offset);
        Ok(())
    }
}
