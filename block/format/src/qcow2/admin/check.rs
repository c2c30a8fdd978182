//! Checking an image at rest: every table is walked, references are counted and compared with the
//! refcounts. Nothing is written, unless a repair is asked for (`repair.rs`).
//!
//! The lines and numbers are those of `qemu-img check`, so that a person who knows one can read the
//! other.

mod bitmaps;
mod copied;
mod counts;
mod data_file;
mod mapping;
mod rebuild;
mod refcounts;
mod repair;
mod snapshot_table;
mod snapshots;
mod structure;

use std::ops::Range;

use strata_storage::error::IoResult;

use crate::{
    check::{CheckReport, Repair},
    qcow2::Qcow2,
};
use counts::Counts;

/// A check under way.
struct Check<'a> {
    image: &'a Qcow2,
    report: CheckReport,
    /// References found, by cluster of the file.
    counts: Counts,
    /// Those of them that L1 tables make to L2 tables.
    tables: Counts,
    /// What is put right on the way.
    repair: Option<Repair>,
    /// A count of the same image made before, while damaged entries are put right.
    before: Option<Box<Check<'a>>>,
    /// Damaged entries that can be put right.
    repairable: u64,
    /// Something in use has no refcount, or refcounts lie where they cannot: freeing leaks alone
    /// would not make the image usable.
    needs_refcounts: bool,
    /// Refcount blocks are missing, or cannot be written where they are.
    needs_structure: bool,
    /// There are tables that could not be followed, so that what seems to be leaked need not be.
    lost_tables: bool,
}

impl Qcow2 {
    /// Checks the image as it is in the file: nothing may be writing to it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn check(&self) -> IoResult<CheckReport> {
        let mut check = Check::new(self, 0..u64::MAX);
        check.judge_snapshot_table().await?;
        check.count_all().await?;
        check.compare().await?;
        check.copied_flags(false).await?;
        Ok(check.report)
    }
}

impl<'a> Check<'a> {
    /// A check that counts references to clusters in `window`.
    fn new(image: &'a Qcow2, window: Range<u64>) -> Self {
        Self {
            image,
            report: CheckReport {
                total_clusters: image.geometry.clusters_for(image.virtual_size()),
                ..CheckReport::default()
            },
            counts: Counts::new(window.clone()),
            tables: Counts::new(window),
            repair: None,
            before: None,
            repairable: 0,
            needs_refcounts: false,
            needs_structure: false,
            lost_tables: false,
        }
    }

    async fn count_all(&mut self) -> IoResult<()> {
        self.count_mapping().await?;
        self.count_refcounts();
        Ok(())
    }

    /// Counts what everything but the refcounts takes.
    async fn count_mapping(&mut self) -> IoResult<()> {
        let header = self.image.file.header();
        let cluster_size = self.image.geometry.cluster_size();
        self.count(0, cluster_size);
        let l1 = self.image.tables.l1_entries();
        self.count_l1(header.l1_offset, &l1, true).await?;
        self.count_snapshots(&header).await?;
        self.count_bitmaps(&header).await
    }

    /// Counts a reference to every cluster that the bytes touch.
    fn count(&mut self, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let g = &self.image.geometry;
        let file_len = self.image.file.storage().len();
        let end = offset.saturating_add(len);
        if end > file_len && end - file_len >= g.cluster_size() {
            self.report.corruption(format!(
                "ERROR: counting reference for region exceeding the end of the file by one cluster or more: offset {offset:#x} size {len:#x}"
            ));
            return;
        }
        let first = g.host_cluster(offset).0;
        let last = g.host_cluster(end - 1).0;
        for cluster in first..=last {
            self.counts.add(cluster);
        }
    }

    /// Reads a table of 64-bit entries. One that cannot be read is noted and taken as empty.
    async fn read_entries(&mut self, offset: u64, count: usize) -> Vec<u64> {
        match self.image.file.storage().read_vec(offset, count * 8).await {
            Ok(bytes) => {
                let (words, _) = bytes.as_chunks::<8>();
                words.iter().map(|word| u64::from_be_bytes(*word)).collect()
            }
            Err(error) => {
                self.report.check_errors += 1;
                self.report.line(format!("ERROR: {error}"));
                Vec::new()
            }
        }
    }
}
