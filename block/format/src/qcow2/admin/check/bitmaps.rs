//! Counting persistent bitmaps, while the header says that they are valid: their directory, their
//! tables and the clusters of these.

use strata_exec::mem::to_usize;
use strata_storage::error::IoResult;

use super::Check;
use crate::qcow2::layout::{
    bitmap_directory::MAX_DIRECTORY,
    entry::OFFSET_MASK,
    extensions::DirectoryPlace,
    fields::Fields,
    header::{AUTOCLEAR_BITMAPS, Header},
};

/// Bytes of a directory entry before extra data and name.
const FIXED: usize = 24;
/// Entries of a bitmap's table at most.
const MAX_TABLE: u32 = 0x800_0000 / 8;

impl Check<'_> {
    /// Counts the bitmaps that the header extension names.
    pub(super) async fn count_bitmaps(&mut self, header: &Header) -> IoResult<()> {
        if header.autoclear & AUTOCLEAR_BITMAPS == 0 {
            return Ok(());
        }
        let place = self.image.file.area().extensions.bitmap_directory();
        let place = place.and_then(Result::ok);
        let Some(DirectoryPlace { offset, len, .. }) = place.filter(|p| p.len <= MAX_DIRECTORY)
        else {
            self.report
                .corruption("ERROR the bitmaps extension is missing or not valid".into());
            return Ok(());
        };
        if let Some(why) = self.image.bitmap_fault() {
            self.report.corruption(format!("ERROR {why}"));
        }
        self.count(offset, len);
        let directory = self
            .image
            .file
            .storage()
            .read_vec(offset, to_usize(len))
            .await?;
        let mut rest = &directory[..];
        while rest.len() >= FIXED {
            let fields = Fields(rest);
            let (table, entries) = (fields.u64(0), fields.u32(8));
            let len = FIXED + usize::from(fields.u16(18)) + fields.u32(20) as usize;
            self.count_bitmap(table, entries).await;
            rest = &rest[len.next_multiple_of(8).min(rest.len())..];
        }
        Ok(())
    }

    async fn count_bitmap(&mut self, table: u64, entries: u32) {
        if entries > MAX_TABLE || table >= self.image.file.storage().len() {
            self.report
                .corruption(format!("ERROR bitmap table at {table:#x} is not valid"));
            return;
        }
        self.count(table, u64::from(entries) * 8);
        let cluster_size = self.image.geometry.cluster_size();
        for raw in self.read_entries(table, entries as usize).await {
            if raw & OFFSET_MASK != 0 {
                self.count(raw & OFFSET_MASK, cluster_size);
            }
        }
    }
}
