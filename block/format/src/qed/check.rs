//! Checking an image at rest, and what one that was not closed cleanly goes through before it is
//! written (the section "Consistency checking" of the specification).
//!
//! Entries that name no place in the file are cleared by a repair, each by itself: their data never
//! got there, or cannot be found. Two entries that name one cluster cannot be put right. Clusters
//! that nothing names are freed where they are the last of the file.

use std::collections::HashMap;

use strata_exec::{mem::to_usize, yield_now};
use strata_storage::error::{Error, IoResult, Result};

use super::{Qed, lookup::ZERO};
use crate::check::{CheckReport, Repair};

/// Bytes of a table that are read at once.
const CHUNK: u64 = 1 << 20;

/// Clusters that something names: one bit each, in pieces of 4096.
#[derive(Default)]
struct Used {
    pieces: HashMap<u64, Box<[u64; 64]>>,
    /// The first cluster behind all of them.
    end: u64,
    count: u64,
}

impl Used {
    /// Notes a cluster; `false` if it was noted before.
    fn add(&mut self, cluster: u64) -> bool {
        let piece = self
            .pieces
            .entry(cluster >> 12)
            .or_insert_with(|| Box::new([0; 64]));
        let (word, bit) = ((cluster >> 6 & 63) as usize, 1 << (cluster & 63));
        let new = piece[word] & bit == 0;
        piece[word] |= bit;
        self.end = self.end.max(cluster + 1);
        self.count += u64::from(new);
        new
    }
}

/// A walk over all tables.
struct Walk<'a> {
    image: &'a Qed,
    used: Used,
    report: CheckReport,
    /// Entries that name no place are cleared, in the file.
    repair: bool,
    /// L1 entries behind the disk's end are cleared, too: a crash has left them when the disk grew.
    opening: bool,
    /// A cluster that is named twice.
    twice: Option<u64>,
}

impl Qed {
    /// Checks the image as it is in the file: nothing may be writing to it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn check(&self) -> IoResult<CheckReport> {
        Ok(Walk::new(self, false).run().await?.report)
    }

    /// Checks the image and repairs it in its file, which can be written although the image has
    /// been opened for reading. It has to be opened again then.
    ///
    /// # Errors
    /// The file cannot be read or written. A repair that stops can be tried again.
    pub async fn repair(&self, what: Repair) -> IoResult<CheckReport> {
        let mut walk = Walk::new(self, what == Repair::All).run().await?;
        if walk.report.corruptions == 0 {
            self.file.flush().await?;
            walk.report.leaks_fixed = walk.cut_end().await?;
            walk.report.leaks -= walk.report.leaks_fixed;
            if self.is_dirty() {
                self.mark_clean().await?;
            }
        }
        Ok(walk.report)
    }

    /// As [`Qed::repair`] for an image that is opened to be written.
    ///
    /// # Errors
    /// Two entries name one cluster; the host's error.
    pub(super) async fn put_right(&self) -> Result<()> {
        let walk = Walk {
            opening: true,
            ..Walk::new(self, true)
        };
        let walk = walk.run().await?;
        if let Some(cluster) = walk.twice {
            let why = format!(
                "is corrupt: the cluster at {cluster:#x} is named twice; copy what can be read \
                 with 'strata-img convert'"
            );
            return Err(Error::Image {
                file: self.file.path().to_owned(),
                why,
            });
        }
        self.file.flush().await?;
        walk.cut_end().await?;
        Ok(self.mark_clean().await?)
    }
}

impl<'a> Walk<'a> {
    fn new(image: &'a Qed, repair: bool) -> Self {
        let header = image.header.borrow();
        Self {
            image,
            used: Used::default(),
            report: CheckReport {
                total_clusters: header.image_size.div_ceil(header.cluster_size),
                ..CheckReport::default()
            },
            repair,
            opening: false,
            twice: None,
        }
    }

    async fn run(mut self) -> IoResult<Self> {
        let image = self.image;
        let (l1_offset, table_bytes, first) = {
            let header = image.header.borrow();
            (
                header.l1_offset,
                header.table_bytes(),
                header.header_clusters,
            )
        };
        self.note(l1_offset, table_bytes);
        for index in 0..image.l1.len() {
            let table = image.l1.get(index).swap_bytes();
            self.l1_entry(index as u64, table).await?;
        }
        self.behind_the_end().await?;
        let file_clusters = image.file.len().div_ceil(image.cluster_size());
        self.report.leaks = file_clusters.saturating_sub(first + self.used.count);
        Ok(self)
    }

    /// Goes through the L1 entries that the disk is too small for. What they name is in use all the
    /// same, as QEMU has it; those that a crash has left name what may be somebody else's by now.
    async fn behind_the_end(&mut self) -> IoResult<()> {
        let image = self.image;
        let (l1_offset, end) = {
            let header = image.header.borrow();
            (header.l1_offset, header.l1_offset + header.table_bytes())
        };
        let mut at = l1_offset + image.l1.len() as u64 * 8;
        while at < end {
            let len = CHUNK.min(end - at);
            let part = image.file.extent(at, len).await;
            let len = part.len.next_multiple_of(8).min(len);
            if part.data {
                let entries = image.file.read_vec(at, to_usize(len)).await?;
                let (entries, _) = entries.as_chunks::<8>();
                for (n, entry) in (0..).zip(entries) {
                    let index = (at - l1_offset) / 8 + n;
                    let table = u64::from_le_bytes(*entry);
                    if self.opening && table != 0 {
                        self.clear(l1_offset, index).await?;
                    } else {
                        self.l1_entry(index, table).await?;
                    }
                }
            }
            at += len;
            yield_now().await;
        }
        Ok(())
    }

    /// An entry of L1, which may name a table.
    async fn l1_entry(&mut self, index: u64, table: u64) -> IoResult<()> {
        let image = self.image;
        let (l1_offset, table_bytes) = {
            let header = image.header.borrow();
            (header.l1_offset, header.table_bytes())
        };
        if table == 0 {
            return Ok(());
        }
        if image.is_valid_table(table) {
            if self.note(table, table_bytes) {
                self.table(table, table_bytes).await?;
            }
            return Ok(());
        }
        let what = format!("L1 entry {index} names no table: {table:#x}");
        self.report.found(self.repair, &what);
        self.clear(l1_offset, index).await?;
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if self.repair && index < image.l1.len() {
            image.l1.set(index, 0);
        }
        Ok(())
    }

    async fn table(&mut self, table: u64, bytes: u64) -> IoResult<()> {
        let (mut at, mut next) = (table, 0);
        while at < table + bytes {
            let len = CHUNK.min(table + bytes - at);
            let part = self.image.file.extent(at, len).await;
            let len = part.len.next_multiple_of(8).min(len);
            if part.data {
                let entries = self.image.file.read_vec(at, to_usize(len)).await?;
                let (entries, _) = entries.as_chunks::<8>();
                for (n, entry) in entries.iter().enumerate() {
                    let entry = u64::from_le_bytes(*entry);
                    if entry > ZERO {
                        let index = (at - table) / 8 + n as u64;
                        self.entry(table, index, entry, &mut next).await?;
                    }
                }
            }
            at += len;
            yield_now().await;
        }
        Ok(())
    }

    /// An entry of an L2 table that names a cluster.
    async fn entry(&mut self, table: u64, index: u64, entry: u64, next: &mut u64) -> IoResult<()> {
        let cluster_size = self.image.cluster_size();
        self.report.allocated_clusters += 1;
        let follows = *next == 0 || *next == entry;
        self.report.fragmented_clusters += u64::from(!follows);
        *next = entry.saturating_add(cluster_size);
        if self.image.is_valid_data(entry) {
            self.note(entry, cluster_size);
            return Ok(());
        }
        self.report.found(
            self.repair,
            &format!("entry {index} of the L2 table at {table:#x} names no cluster: {entry:#x}"),
        );
        self.clear(table, index).await
    }

    /// Clears an entry of a table, if entries are repaired.
    async fn clear(&self, table: u64, index: u64) -> IoResult<()> {
        if !self.repair {
            return Ok(());
        }
        let file = &self.image.file;
        file.write_vec(table + index * 8, vec![0; 8]).await
    }

    /// Notes that something names these bytes; whether nothing else does.
    fn note(&mut self, offset: u64, len: u64) -> bool {
        let cluster_size = self.image.cluster_size();
        let mut alone = true;
        for cluster in offset / cluster_size..(offset + len) / cluster_size {
            if !self.used.add(cluster) {
                let at = cluster * cluster_size;
                self.report
                    .corruption(format!("ERROR the cluster at {at:#x} is named twice"));
                self.twice.get_or_insert(at);
                alone = false;
            }
        }
        alone
    }

    /// Gives back what nothing names at the end of the file; returns how many clusters that was.
    async fn cut_end(&self) -> IoResult<u64> {
        let image = self.image;
        let cluster_size = image.cluster_size();
        let end = self.used.end.saturating_mul(cluster_size);
        let end = end.max(image.header.borrow().bytes());
        let len = image.file.len();
        if end < len {
            image.file.cut_off(end).await?;
            image.file.flush().await?;
        }
        image.end.set(end);
        Ok(len.saturating_sub(end).div_ceil(cluster_size))
    }
}
