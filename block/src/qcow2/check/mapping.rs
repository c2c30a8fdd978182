//! Counting what L1 and L2 tables refer to.

use super::Check;
use crate::{
    error::IoResult,
    exec::yield_now,
    qcow2::entry::{self, COMPRESSED, COPIED, Mapping, OFFSET_MASK, ZERO},
};

/// What an L2 entry points to.
enum Place {
    Compressed { offset: u64, len: u64 },
    Cluster(u64),
}

impl Check<'_> {
    /// Counts an L1 table at `offset`, its L2 tables and all that they name. With `statistics`
    /// clusters of the virtual disk are counted, too.
    pub(super) async fn count_l1(
        &mut self,
        offset: u64,
        entries: &[u64],
        statistics: bool,
    ) -> IoResult<()> {
        self.count(offset, entries.len() as u64 * 8);
        let cluster_size = self.image.geometry.cluster_size();
        for &raw in entries {
            if raw & !(OFFSET_MASK | COPIED) != 0 {
                self.report.corruption(format!(
                    "ERROR found L1 entry with reserved bits set: {raw:x}"
                ));
            }
            let table = raw & OFFSET_MASK;
            if table == 0 {
                continue;
            }
            self.count(table, cluster_size);
            if self.image.geometry.in_cluster(table) != 0 {
                self.report.corruption(format!(
                    "ERROR l2_offset={table:x}: Table is not cluster aligned; L1 entry corrupted"
                ));
                continue;
            }
            if table < self.image.file.len() {
                self.count_l2(table, statistics).await;
            }
            yield_now().await;
        }
        Ok(())
    }

    async fn count_l2(&mut self, table: u64, statistics: bool) {
        let g = self.image.geometry;
        let entries = self.read_entries(table, g.cluster_len() / 8).await;
        let mut next = 0;
        for raw in entries {
            match self.l2_entry(raw) {
                Some(Place::Compressed { offset, len }) => {
                    // A stream that is said to end behind the file's end may be shorter.
                    let end = (offset + len).min(self.image.file.len().max(offset + 1));
                    self.count(offset, end - offset);
                    if statistics {
                        self.report.allocated_clusters += 1;
                        self.report.compressed_clusters += 1;
                        self.report.fragmented_clusters += 1;
                    }
                }
                Some(Place::Cluster(offset)) => {
                    self.count(offset, g.cluster_size());
                    if statistics {
                        self.report.allocated_clusters += 1;
                        let follows = next == 0 || next == offset;
                        self.report.fragmented_clusters += u64::from(!follows);
                        next = offset + g.cluster_size();
                    }
                    if g.in_cluster(offset) != 0 {
                        self.report.corruption(format!(
                            "ERROR offset={offset:x}: Data cluster is not properly aligned; L2 entry corrupted."
                        ));
                    }
                }
                None => {}
            }
        }
    }

    /// Reads an entry, also a damaged one as far as it can be followed, and reports flags that
    /// must not be set.
    fn l2_entry(&mut self, raw: u64) -> Option<Place> {
        let g = self.image.geometry;
        if raw & COMPRESSED != 0 {
            let Ok(Mapping::Compressed { offset, len }) = entry::decode_l2(raw & !COPIED, &g)
            else {
                self.reserved_bits(raw);
                return None;
            };
            if raw & COPIED != 0 {
                self.report.corruption(format!(
                    "ERROR: coffset={offset:#x}: copied flag must never be set for compressed clusters"
                ));
            }
            return Some(Place::Compressed { offset, len });
        }
        let known = OFFSET_MASK | COPIED | if g.version > 2 { ZERO } else { 0 };
        if raw & !known != 0 {
            self.reserved_bits(raw);
        }
        let offset = raw & OFFSET_MASK;
        (offset != 0).then_some(Place::Cluster(offset))
    }

    fn reserved_bits(&mut self, raw: u64) {
        self.report.corruption(format!(
            "ERROR found l2 entry with reserved bits set: {raw:x}"
        ));
    }
}
