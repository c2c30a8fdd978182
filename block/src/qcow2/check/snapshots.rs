//! Counting internal snapshots: their table, and the L1 tables that it names.

use super::Check;
use crate::{
    error::IoResult,
    qcow2::{geometry::MAX_L1_BYTES, header::Header},
};

/// Bytes of an entry before its extra data, id and name.
const FIXED: usize = 40;
/// Bytes of an entry at most: extra data, id and name have limits of their own in QEMU, too.
const MAX_ENTRY: u64 = FIXED as u64 + 1024 + 2 * 65536;

impl Check<'_> {
    /// Counts the snapshots that `header` names.
    pub(super) async fn count_snapshots(&mut self, header: &Header) -> IoResult<()> {
        let mut at = header.snapshots_offset;
        for index in 0..header.snapshots {
            let Some((len, l1_offset, l1_size)) = self.snapshot(at).await? else {
                self.report
                    .corruption(format!("ERROR snapshot {index} has no valid table entry"));
                break;
            };
            at += len;
            let in_file = l1_offset < self.image.file.len();
            let aligned = self.image.geometry.in_cluster(l1_offset) == 0;
            if u64::from(l1_size) * 8 > MAX_L1_BYTES || !in_file || !aligned {
                self.report.corruption(format!(
                    "ERROR snapshot {index} l1_offset={l1_offset:#x}: L1 table is not valid"
                ));
                continue;
            }
            let entries = self.read_entries(l1_offset, l1_size as usize).await;
            self.count_l1(l1_offset, &entries, false).await?;
        }
        self.count(header.snapshots_offset, at - header.snapshots_offset);
        Ok(())
    }

    /// Length of the table entry at `at`, and where the snapshot's L1 table is and how long.
    async fn snapshot(&self, at: u64) -> IoResult<Option<(u64, u64, u32)>> {
        if at >= self.image.file.len() {
            return Ok(None);
        }
        let fixed = self.image.file.read_vec(at, FIXED).await?;
        let be = |start: usize, len: usize| {
            let bytes = &fixed[start..start + len];
            bytes.iter().fold(0, |n, &byte| n << 8 | u64::from(byte))
        };
        let len = FIXED as u64 + be(36, 4) + be(12, 2) + be(14, 2);
        let entry = (len.next_multiple_of(8), be(0, 8), be(8, 4) as u32);
        Ok((len <= MAX_ENTRY).then_some(entry))
    }
}
