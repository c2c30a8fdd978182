//! Counting internal snapshots: their table, and the L1 tables that it names.

use super::Check;
use crate::{
    error::IoResult,
    qcow2::{geometry::MAX_SNAPSHOTS, header::Header, snapshots::SnapshotEntry},
};

impl Check<'_> {
    /// Counts the snapshots that `header` names.
    pub(super) async fn count_snapshots(&mut self, header: &Header) -> IoResult<()> {
        if let Err(why) = header.check_snapshot_place(self.image.file.len()) {
            self.report.corruption(format!("ERROR {why}"));
            self.lost_tables = true;
            return Ok(());
        }
        let table = header.snapshots_offset;
        let mut done = 0;
        for index in 0..header.snapshots.min(MAX_SNAPSHOTS) {
            let Some(entry) = SnapshotEntry::read(&self.image.file, table, done).await? else {
                self.report
                    .corruption(format!("ERROR snapshot {index} has no valid table entry"));
                self.lost_tables = true;
                break;
            };
            done += entry.len;
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
        self.count(table, done);
        Ok(())
    }

    /// Reports what is wrong with entries of the table that can be counted all the same.
    pub(super) async fn judge_snapshot_table(&mut self) -> IoResult<()> {
        for fault in self.image.survey_snapshots().await?.faults {
            if !fault.uncountable {
                self.report.corruptions += fault.count;
                self.report.line(format!("ERROR {}", fault.what));
            }
        }
        Ok(())
    }
}
