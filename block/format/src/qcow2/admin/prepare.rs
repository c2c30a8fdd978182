//! An open image that was not to be written becomes writable.

use strata_storage::error::Result;

use super::open::{cannot_be_written, in_need_of_repair, map_for_writing, writing_refused};
use crate::qcow2::Qcow2;

impl Qcow2 {
    /// Prepares an image that was opened read-only for being written, as if it had been opened so.
    /// Its file can be written and is kept from others. Readers may go on meanwhile.
    ///
    /// Nothing is written, unless the image was not closed cleanly: then its refcounts are counted
    /// anew. What the first write has to change in the header comes with that.
    ///
    /// # Errors
    /// Why it cannot be written, and what to do; the host's error. It is read-only then, as before.
    pub async fn prepare_writing(&self) -> Result<()> {
        self.file.check_running()?;
        if !self.is_read_only() {
            return Ok(());
        }
        let header = self.file.header();
        if !self.data.is_readable() {
            return Err(self.file.refused("has been opened for its header only"));
        }
        if let Some(why) = &self.lost_refcounts {
            return Err(self.file.refused(in_need_of_repair(why.clone())));
        }
        let file = self.file.storage();
        header
            .check_snapshot_table(file.len())
            .map_err(|why| self.file.refused(in_need_of_repair(why)))?;
        if let Some(why) = writing_refused(&header) {
            return Err(self.file.refused(why));
        }
        let (l1, refcounts) = (self.tables.l1_entries(), self.space.refcount_table());
        let tables = map_for_writing(file, &header, &l1, &refcounts).await?;
        // So far the map holds the bitmaps alone, which were found to lie on nothing but each
        // other.
        self.space.absorb_metadata(&tables).map_err(|(new, old)| {
            let why = format!("{new} overlaps {old}");
            self.file.refused(cannot_be_written(&why))
        })?;
        self.file.set_read_only(false);
        let result = if self.is_dirty() {
            self.rebuild_refcounts().await
        } else {
            Ok(())
        };
        if result.is_err() {
            self.file.set_read_only(true);
            self.space.give_up_metadata(&tables);
        }
        result
    }
}
