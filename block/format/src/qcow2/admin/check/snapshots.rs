//! Counting internal snapshots: their table, and the L1 tables that it names.

use strata_exec::mem::to_usize;
use strata_storage::error::IoResult;

use super::Check;
use crate::qcow2::{
    Snapshot,
    layout::{
        geometry::{MAX_L1_BYTES, MAX_SNAPSHOTS},
        header::Header,
        snapshot_table::SnapshotEntry,
    },
};

impl Check<'_> {
    /// Counts the snapshots that `header` names.
    pub(super) async fn count_snapshots(&mut self, header: &Header) -> IoResult<()> {
        if let Err(why) = header.check_snapshot_place(self.image.file.storage().len()) {
            self.report.corruption(format!("ERROR {why}"));
            self.lost_tables = true;
            return Ok(());
        }
        let table = header.snapshots_offset;
        let mut done = 0;
        for index in 0..header.snapshots.min(MAX_SNAPSHOTS) {
            let Some(entry) = SnapshotEntry::read(self.image.file.storage(), table, done).await?
            else {
                self.report
                    .corruption(format!("ERROR snapshot {index} has no valid table entry"));
                self.lost_tables = true;
                break;
            };
            let at = table + done;
            done += entry.len;
            let l1_offset = entry.l1_offset;
            if !entry.has_valid_l1(&self.image.geometry, self.image.file.storage().len()) {
                self.invalid_l1(at, &entry).await?;
                self.lost_tables = true;
                continue;
            }
            let entries = self.read_entries(l1_offset, entry.l1_size as usize).await;
            self.count_l1(l1_offset, &entries, false).await?;
        }
        self.count(table, done);
        Ok(())
    }

    /// Reports the entry at `at`, whose L1 table lies where none can.
    async fn invalid_l1(&mut self, at: u64, entry: &SnapshotEntry) -> IoResult<()> {
        let bytes = self
            .image
            .file
            .storage()
            .read_vec(at, to_usize(entry.len))
            .await?;
        let snapshot = Snapshot::parse(&bytes);
        let who = format!("{} ({})", snapshot.id, snapshot.name);
        let who: String = who.chars().filter(|c| !c.is_control()).collect();
        let offset = entry.l1_offset;
        let why = if self.image.geometry.in_cluster(offset) != 0 {
            format!("l1_offset={offset:#x}: L1 table is not cluster aligned")
        } else if entry.l1_bytes() > MAX_L1_BYTES {
            format!("l1_size={:#x}: L1 table is too large", entry.l1_size)
        } else {
            format!("l1_offset={offset:#x}: L1 table lies outside the file")
        };
        self.report.corruption(format!(
            "ERROR snapshot {who} {why}; snapshot table entry corrupted"
        ));
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
