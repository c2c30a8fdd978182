//! Counting what L1 and L2 tables refer to.

use strata_exec::{mem::to_usize, yield_now};
use strata_storage::error::IoResult;

use super::Check;
use crate::qcow2::layout::{
    entry::{self, COMPRESSED, COPIED, Entry, OFFSET_MASK, RawEntry, ZERO, halves},
    geometry::GuestCluster,
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
        for (index, &raw) in entries.iter().enumerate() {
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
            let cluster = self.image.geometry.host_cluster(table);
            self.tables.add(cluster.0);
            if self.image.geometry.in_cluster(table) != 0 {
                self.report.corruption(format!(
                    "ERROR l2_offset={table:x}: Table is not cluster aligned; L1 entry corrupted"
                ));
                self.lost_tables = true;
                continue;
            }
            if table < self.image.file.storage().len() {
                let first = GuestCluster(index as u64 * self.image.geometry.l2_entries());
                self.count_l2(table, first, statistics).await?;
            } else {
                self.lost_tables = true;
            }
            yield_now().await;
        }
        Ok(())
    }

    /// Counts the L2 table at `table`, whose first entry is that of `first`.
    async fn count_l2(
        &mut self,
        table: u64,
        first: GuestCluster,
        statistics: bool,
    ) -> IoResult<()> {
        let g = self.image.geometry;
        let found = self.read_l2(table).await;
        let mut entries = found.clone();
        let repair = self.may_repair(table);
        let mut next = 0;
        for (index, raw) in entries.iter_mut().enumerate() {
            let cluster = first.plus(index as u64);
            if g.external_data && !self.external_entry(raw.descriptor, cluster) {
                continue;
            }
            match self.l2_entry(index, raw, repair) {
                Some(Place::Compressed { offset, len }) => {
                    // A stream that is said to end behind the file's end may be shorter.
                    let end = (offset + len).min(self.image.file.storage().len().max(offset + 1));
                    self.count(offset, end - offset);
                    if statistics {
                        self.report.allocated_clusters += 1;
                        self.report.compressed_clusters += 1;
                        self.report.fragmented_clusters += 1;
                    }
                }
                Some(Place::Cluster(offset)) => {
                    if !g.external_data {
                        self.count(offset, g.cluster_size());
                    }
                    if statistics {
                        self.report.allocated_clusters += 1;
                        let follows = next == 0 || next == offset;
                        self.report.fragmented_clusters += u64::from(!follows);
                        next = offset + g.cluster_size();
                    }
                }
                None => {}
            }
        }
        self.write_changed_l2(table, &found, &entries).await
    }

    /// The entries of an L2 table.
    pub(super) async fn read_l2(&mut self, table: u64) -> Vec<RawEntry> {
        let g = self.image.geometry;
        let words = self.read_entries(table, g.cluster_len() / 8).await;
        let entries = words.chunks_exact(to_usize(g.l2_entry_bytes()) / 8);
        let entry = |words: &[u64]| RawEntry {
            descriptor: words[0],
            bitmap: words.get(1).copied().unwrap_or(0),
        };
        entries.map(entry).collect()
    }

    /// Reads an entry, also a damaged one as far as it can be followed, and reports what is wrong
    /// with it. With `repair` the entry is changed where the disk then shows the same, or something
    /// at last.
    fn l2_entry(&mut self, index: usize, raw: &mut RawEntry, repair: bool) -> Option<Place> {
        let g = self.image.geometry;
        let RawEntry { descriptor, bitmap } = *raw;
        if descriptor & COMPRESSED != 0 {
            return self.compressed_entry(index, raw, repair);
        }
        let flag = if g.version > 2 && !g.extended_l2 {
            ZERO
        } else {
            0
        };
        if descriptor & !(OFFSET_MASK | COPIED | flag) != 0 {
            self.reserved_bits(descriptor);
        }
        let offset = descriptor & OFFSET_MASK;
        let (data, zero) = halves(bitmap);
        let used = offset != 0 || g.external_data && descriptor & COPIED != 0;
        if !used && data != 0 {
            let line = "ERROR: Unallocated cluster has non-zero subcluster allocation map";
            self.report.corruption(line.to_owned());
        } else if data & zero != 0 {
            self.report.corruption(format!(
                "ERROR offset={offset:x}: Allocated cluster has corrupted subcluster allocation bitmap"
            ));
        }
        if g.in_cluster(offset) != 0 {
            let zeros = descriptor & flag != 0 || (g.extended_l2 && data == 0);
            self.misaligned(zeros, raw, repair);
        }
        let kept = raw.descriptor == descriptor;
        (used && kept).then_some(Place::Cluster(offset))
    }

    /// A cluster without data does not need its place in the file.
    fn misaligned(&mut self, zeros: bool, raw: &mut RawEntry, repair: bool) {
        let offset = raw.descriptor & OFFSET_MASK;
        let kind = if zeros { "Preallocated" } else { "Data" };
        self.repairable += u64::from(zeros);
        if zeros && repair {
            // With subclusters the bitmap says what is zero.
            let extended = self.image.geometry.extended_l2;
            raw.descriptor = if extended { 0 } else { ZERO };
        }
        let what = format!("{kind} cluster is not properly aligned; L2 entry corrupted.");
        self.report
            .found(zeros && repair, &format!("offset={offset:x}: {what}"));
    }

    fn compressed_entry(
        &mut self,
        index: usize,
        raw: &mut RawEntry,
        repair: bool,
    ) -> Option<Place> {
        let RawEntry { descriptor, bitmap } = *raw;
        let known = RawEntry {
            descriptor: descriptor & !COPIED,
            bitmap: 0,
        };
        let Ok(Entry::Compressed { offset, len }) = entry::decode_l2(known, &self.image.geometry)
        else {
            self.reserved_bits(descriptor);
            return None;
        };
        if descriptor & COPIED != 0 {
            self.copied_and_compressed(offset, raw, repair);
        }
        if bitmap != 0 {
            self.report.corruption(format!(
                "ERROR compressed cluster {index} with non-zero subcluster allocation bitmap, entry={descriptor:#x}"
            ));
            return None;
        }
        Some(Place::Compressed { offset, len })
    }

    fn copied_and_compressed(&mut self, offset: u64, raw: &mut RawEntry, repair: bool) {
        self.repairable += 1;
        let what =
            format!("coffset={offset:#x}: copied flag must never be set for compressed clusters");
        if repair {
            raw.descriptor &= !COPIED;
            self.report.found(true, &what);
        } else {
            self.report.corruption(format!("ERROR: {what}"));
        }
    }

    fn reserved_bits(&mut self, descriptor: u64) {
        self.report.corruption(format!(
            "ERROR found l2 entry with reserved bits set: {descriptor:x}"
        ));
    }
}
