//! Repairing what a check finds (`check -r`), directly in the file of an image that is not in use.
//!
//! A power cut at any moment leaves an image that is no worse and can be repaired again: refcounts
//! go to what the tables say, each within a sector; then, durably after them, the COPIED flags that
//! rely on them; at last the marks in the header. Entries are changed only where the disk shows the
//! same bytes afterwards, or could not be read there before.

use strata_exec::{mem::to_usize, yield_now};
use strata_storage::error::IoResult;

use super::Check;
use crate::{
    check::{CheckReport, Repair},
    qcow2::{
        Qcow2,
        layout::{
            entry::RawEntry,
            header::{AUTOCLEAR_BITMAPS, AUTOCLEAR_RAW_DATA, Incompatible},
            width,
        },
    },
};

/// What is written, and compared, as one.
const SECTOR: usize = 512;

impl Qcow2 {
    /// Checks the image and repairs it in its file, which can be written although the image has
    /// been opened for reading. What is in memory is stale then: it has to be opened again, at
    /// least for the check that shows what the repair has achieved.
    ///
    /// # Errors
    /// The file cannot be read or written. A repair that stops can be tried again.
    pub async fn repair(&self, what: Repair) -> IoResult<CheckReport> {
        let mut check = Check::new(self, 0..u64::MAX);
        check.repair = Some(what);
        check.count_mapping().await?;
        if what == Repair::All && check.repairable > 0 {
            // Other clusters are in use then.
            let before = Some(Box::new(check));
            check = Check::new(self, 0..u64::MAX);
            check.repair = Some(what);
            check.before = before;
            check.count_mapping().await?;
            check.before = None;
            self.file.storage().flush().await?;
        }
        if what == Repair::Leaks {
            check.judge_snapshot_table().await?;
        } else if check.repair_snapshot_table().await? {
            check = check.counted_anew().await?;
        }
        let before = check.report.corruptions;
        check.count_refcounts();
        check.compare().await?;
        // What could not be read may name any cluster.
        if check.report.check_errors > 0 {
            return Ok(check.report);
        }
        if what == Repair::Leaks && check.needs_refcounts {
            check.report.refused =
                Some("in-use clusters have no refcount: repair them with '-r all'".to_owned());
            return Ok(check.report);
        }
        if what == Repair::All && check.needs_structure {
            let of_refcounts = check.report.corruptions - before;
            check.replace_structure(of_refcounts).await?;
        } else {
            check.set_refcounts_right().await?;
        }
        self.file.storage().flush().await?;
        let healthy = check.report.corruptions == 0 && check.report.leaks == 0;
        check.copied_flags(what == Repair::All || healthy).await?;
        self.file.storage().flush().await?;
        if check.report.corruptions == 0 {
            self.clear_marks().await?;
        }
        Ok(check.report)
    }

    /// Clears the marks of an image whose metadata may be wrong, and those that only programs know
    /// which would have kept their features right (rule W5).
    async fn clear_marks(&self) -> IoResult<()> {
        let mut header = self.file.header();
        let before = header.clone();
        let marks = Incompatible::DIRTY | Incompatible::CORRUPT;
        header.incompatible.remove(marks);
        // A repair changes no byte of the disk, nor where a raw data file has it.
        header.autoclear &= AUTOCLEAR_BITMAPS | AUTOCLEAR_RAW_DATA;
        if header != before {
            self.file.repair_header(header).await?;
        }
        Ok(())
    }
}

impl<'a> Check<'a> {
    /// A count of the same image, whose snapshots have been put right; with what has been repaired
    /// so far.
    async fn counted_anew(self) -> IoResult<Self> {
        let mut check = Self::new(self.image, 0..u64::MAX);
        check.repair = self.repair;
        check.report.corruptions_fixed = self.report.corruptions_fixed;
        let fixed = |line: &String| line.starts_with("Repairing") || line.starts_with("Discarding");
        check.report.lines = self.report.lines.into_iter().filter(fixed).collect();
        check.count_mapping().await?;
        Ok(check)
    }
}

impl Check<'_> {
    /// Whether damaged entries of an L2 table are put right: never in what may be data.
    pub(super) fn may_repair(&self, table: u64) -> bool {
        let before = self.before.as_ref();
        before.is_some_and(|before| before.is_only_table(table))
    }

    /// Whether all references to a cluster are those of L1 tables to an L2 table.
    pub(super) fn is_only_table(&self, table: u64) -> bool {
        let cluster = self.image.geometry.host_cluster(table).0;
        self.counts.get(cluster) == self.tables.get(cluster)
    }

    /// Whether there is one reference to every cluster of the range.
    pub(super) fn is_counted_once(&self, offset: u64, len: u64) -> bool {
        let g = &self.image.geometry;
        let first = g.host_cluster(offset).0;
        (first..first + g.clusters_for(len)).all(|cluster| self.counts.get(cluster) == 1)
    }

    /// What a refcount is to be: as many as there are references, as far as that is put right.
    pub(super) fn target(&self, cluster: u64, refcount: u64) -> u64 {
        let references = self.counts.get(cluster);
        let Some(what) = self.repair else {
            return refcount;
        };
        let fits = references <= width::max(self.image.geometry.refcount_order);
        let change = if refcount < references {
            what == Repair::All && fits
        } else {
            !self.lost_tables
        };
        if change { references } else { refcount }
    }

    /// Sets refcounts to their targets, in their blocks.
    async fn set_refcounts_right(&mut self) -> IoResult<()> {
        let per_block = self.image.geometry.refcounts_per_block();
        for (index, raw) in self.image.space.refcount_table().into_iter().enumerate() {
            if let Some(found) = self.block(raw).await {
                let block = self.corrected(index as u64 * per_block, &found);
                self.write_changed_bytes(raw, &found, &block).await?;
            }
            yield_now().await;
        }
        Ok(())
    }

    /// A refcount block with its refcounts at their targets.
    fn corrected(&mut self, start: u64, found: &[u8]) -> Vec<u8> {
        let g = self.image.geometry;
        let inside = g.clusters_for(self.image.file.storage().len());
        let mut block = found.to_vec();
        for index in 0..g.refcounts_per_block() {
            let cluster = start + index;
            let refcount = width::get(found, g.refcount_order, to_usize(index));
            let references = self.counts.get(cluster);
            let target = self.target(cluster, refcount);
            if target == refcount || (cluster >= inside && references == 0) {
                continue;
            }
            width::set(&mut block, g.refcount_order, to_usize(index), target);
            self.fixed_refcount(cluster, refcount, references);
        }
        block
    }

    fn fixed_refcount(&mut self, cluster: u64, refcount: u64, references: u64) {
        let report = &mut self.report;
        if refcount < references {
            report.corruptions -= 1;
            report.corruptions_fixed += 1;
        } else {
            report.leaks -= 1;
            report.leaks_fixed += 1;
        }
        report.line(format!(
            "Repairing cluster {cluster} refcount={refcount} reference={references}"
        ));
    }

    /// Writes the sectors of an L1 table that have changed.
    pub(super) async fn write_changed_l1(
        &self,
        offset: u64,
        found: &[u64],
        entries: &[u64],
    ) -> IoResult<()> {
        let bytes = |entries: &[u64]| -> Vec<u8> {
            entries.iter().flat_map(|raw| raw.to_be_bytes()).collect()
        };
        self.write_changed_bytes(offset, &bytes(found), &bytes(entries))
            .await
    }

    /// Writes the sectors of an L2 table that have changed.
    pub(super) async fn write_changed_l2(
        &self,
        offset: u64,
        found: &[RawEntry],
        entries: &[RawEntry],
    ) -> IoResult<()> {
        if found == entries {
            return Ok(());
        }
        let len = to_usize(self.image.geometry.l2_entry_bytes());
        let bytes = |entries: &[RawEntry]| -> Vec<u8> {
            let entries = entries.iter();
            let both = |raw: &RawEntry| [raw.descriptor.to_be_bytes(), raw.bitmap.to_be_bytes()];
            entries
                .flat_map(|raw| both(raw).concat()[..len].to_vec())
                .collect()
        };
        self.write_changed_bytes(offset, &bytes(found), &bytes(entries))
            .await
    }

    pub(super) async fn write_changed_bytes(
        &self,
        offset: u64,
        found: &[u8],
        now: &[u8],
    ) -> IoResult<()> {
        let sectors = found.chunks(SECTOR).zip(now.chunks(SECTOR));
        for (n, (found, now)) in sectors.enumerate() {
            if found != now {
                let at = offset + (n * SECTOR) as u64;
                self.image
                    .file
                    .storage()
                    .write_vec(at, now.to_vec())
                    .await?;
            }
        }
        Ok(())
    }
}
