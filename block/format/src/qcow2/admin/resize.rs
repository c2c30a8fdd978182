//! Changing the size of the disk.
//!
//! The header's size is what counts, and it changes last when the disk grows, first when it
//! shrinks: so after a crash the disk has its old size and content, or the new size. What a disk
//! that was being shrunk still holds behind its end is no error; growing zeroes it.

use std::{cmp::Ordering, ops::Range};

use strata_exec::{mem::to_usize, yield_now};
use strata_storage::error::{IoResult, Result};

use crate::{
    below::{Below, Nothing},
    qcow2::{
        Preallocation, Qcow2,
        layout::{
            entry::Entry,
            geometry::{GuestCluster, HostCluster},
        },
    },
    size,
};

/// L2 tables that are emptied between two flushes: bounds how many clusters wait to be freed.
pub(in crate::qcow2) const TABLES_PER_FLUSH: usize = 64;

impl Qcow2 {
    /// Changes the size of the disk to `size` bytes. What is added reads as zeros, whatever lies
    /// below, or as what a raw external data file holds there; what lies behind a smaller end is
    /// given up. Nothing else uses the image meanwhile.
    ///
    /// # Errors
    /// The size is not a multiple of 512, or too large for the clusters; the image is of version 2
    /// and has internal snapshots, whose size could not be stored then; the host's error.
    pub async fn resize(&self, size: u64, below: &dyn Below) -> Result<()> {
        self.resize_with(size, Preallocation::Off, below).await
    }

    /// As [`Qcow2::resize`]; the clusters that are added get places at once.
    ///
    /// # Errors
    /// As [`Qcow2::resize`].
    pub async fn resize_with(
        &self,
        size: u64,
        preallocation: Preallocation,
        below: &dyn Below,
    ) -> Result<()> {
        self.check_new_size(size)?;
        preallocation.check_file(self.file.data())?;
        self.file.begin_write().await?;
        let old = self.data.size();
        match size.cmp(&old) {
            Ordering::Less => self.shrink(old, size).await?,
            Ordering::Equal => {}
            Ordering::Greater => self.grow(old, size, preallocation, below).await?,
        }
        self.bitmaps().resize(size);
        Ok(())
    }

    fn check_new_size(&self, size: u64) -> Result<()> {
        let g = &self.geometry;
        let why = if !size.is_multiple_of(512) {
            "The new size must be a multiple of 512".into()
        } else if let Err(why) = size::in_sectors(size) {
            why
        } else if size > g.max_size() {
            format!(
                "a disk of {size} bytes is too large for clusters of {} bytes (at most {} bytes)",
                g.cluster_size(),
                g.max_size()
            )
        } else if g.version == 2 && self.file.area().header.snapshots > 0 {
            "Can't resize a v2 image which has snapshots".into()
        } else if let Err(why) = self.bitmaps().check_resize(size) {
            why
        } else {
            return Ok(());
        };
        Err(self.file.refused(why))
    }

    async fn grow(
        &self,
        old: u64,
        size: u64,
        preallocation: Preallocation,
        below: &dyn Below,
    ) -> Result<()> {
        self.order.grow_l1(self.geometry.l1_entries(size)).await?;
        self.data.set_size(size);
        let result = async {
            if self.file.has_raw_data() {
                // Whatever it holds behind the old end is what it shows: nothing lies below.
                self.lengthen_raw_data(size, preallocation).await?;
            } else {
                self.blank(old..size, below).await?;
            }
            // Readers of a raw data file go by the tables, which name all of it.
            if preallocation != Preallocation::Off || self.file.has_raw_data() {
                self.preallocate(old..size, preallocation).await?;
            }
            Ok(self.write_size(size).await?)
        }
        .await;
        if result.is_err() {
            self.data.set_size(old);
        }
        result
    }

    async fn lengthen_raw_data(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        let len = self.file.data().len();
        if len < size {
            self.file.data().set_len(size).await?;
            preallocation
                .reserve(self.file.data(), len, size - len)
                .await?;
        }
        Ok(())
    }

    /// Makes a range behind the old end read as zeros: it may hold what was there before the disk
    /// was shrunk, and a longer layer below may show through.
    async fn blank(&self, range: Range<u64>, below: &dyn Below) -> IoResult<()> {
        let Range { start, end } = range;
        // To a cluster's end, so that no cluster is filled from two sides.
        let shown = below.visible_len().min(end);
        let shown = shown.next_multiple_of(self.geometry.cluster_size());
        let shown = shown.clamp(start, end);
        self.data
            .write_zeroes(start, shown - start, true, below)
            .await?;
        self.data
            .write_zeroes(shown, end - shown, true, &Nothing)
            .await
    }

    /// Writes the size to the header, after all else (rule W5).
    async fn write_size(&self, size: u64) -> IoResult<()> {
        self.flush().await?;
        self.file.change_header(|header| header.size = size).await
    }

    async fn shrink(&self, old: u64, size: u64) -> IoResult<()> {
        self.write_size(size).await?;
        self.data.set_size(size);
        let g = &self.geometry;
        let (mut at, end) = (g.clusters_for(size), g.clusters_for(old));
        let mut emptied = 0;
        while at < end {
            let table_end = (at / g.l2_entries() + 1) * g.l2_entries();
            emptied += usize::from(self.empty_table(at..table_end).await?);
            if emptied == TABLES_PER_FLUSH {
                emptied = 0;
                self.flush().await?;
            }
            at = table_end;
            yield_now().await;
        }
        // Once for the tables, once for the refcounts of what has become free.
        self.flush().await?;
        self.flush().await?;
        self.data.cut_data(size).await?;
        self.cut_file().await
    }

    /// Gives up the disk's clusters from the first one to the end of their L2 table, and with the
    /// first one of a table the table. Returns whether there was one.
    async fn empty_table(&self, clusters: Range<u64>) -> IoResult<bool> {
        let g = &self.geometry;
        let index = g.l1_index(GuestCluster(clusters.start));
        let Some(table) = self.tables.l1_entry(index)? else {
            return Ok(false);
        };
        if clusters.start.is_multiple_of(g.l2_entries()) {
            self.tables.drop_table(index, table).await?;
        } else {
            self.empty_entries(clusters).await?;
        }
        Ok(true)
    }

    async fn empty_entries(&self, clusters: Range<u64>) -> IoResult<()> {
        let g = &self.geometry;
        let mut at = clusters.start;
        while at < clusters.end {
            let slice = self.order.slice_for_write(GuestCluster(at)).await?;
            let first = g.index_in_slice(GuestCluster(at));
            for index in first..to_usize(g.slice_entries()) {
                let old = self.tables.entry(&slice, index)?;
                if old != Entry::UNALLOCATED {
                    self.tables.set_entry(&slice, index, Entry::UNALLOCATED);
                    self.tables.free_old_clusters(old, None);
                }
            }
            at += (to_usize(g.slice_entries()) - first) as u64;
        }
        Ok(())
    }

    /// Cuts off what is free at the end of the file. All tables are on disk.
    pub(in crate::qcow2) async fn cut_file(&self) -> IoResult<()> {
        while self.space.drop_empty_refcount_blocks().await? {
            // Once for the table, once for the refcounts of what has become free.
            self.flush().await?;
            self.flush().await?;
        }
        let g = &self.geometry;
        let whole = self.file.storage().len();
        let mut end = g.clusters_for(whole);
        while end > 0 && self.space.refcount(HostCluster(end - 1)).await? == 0 {
            end -= 1;
        }
        let len = g.host_offset(HostCluster(end));
        if len < whole && !self.space.has_freed() {
            self.file.storage().cut_off(len).await?;
        }
        Ok(())
    }
}
